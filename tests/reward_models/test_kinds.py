from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import support
import torch
import zoo
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import prmbench
from prmbench.data.prompts import PROMPT_TEMPLATES, PromptTemplate, find_prompt
from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.checkpoint import checkpoint_hash
from prmbench.errors import UserError
from prmbench.reward_models.card import Card, make_card, read_card, reference_fields, write_card
from prmbench.reward_models.endo import endo_rewards
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.registry import find_kind

PROBLEM, STEPS = "What is 2 + 3 + 4?", ["2 + 3 = 5.", "5 + 4 = 9, so \\boxed{9}."]


def full_logits(folder, ids):
    with torch.no_grad():
        return (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)(torch.tensor(ids)[None]).logits[0].numpy()
        )


def log_softmax(row):
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def slow_log_ratio(model, reference, encoded):
    """One token at a time, in float64, from full logits."""
    mine, theirs = (full_logits(folder, encoded.ids) for folder in (model, reference))
    sums = [0.0] * encoded.n_steps
    for t, step in enumerate(encoded.step_of):
        position = encoded.n_prompt + t
        token = encoded.ids[position]
        if step >= 0:
            sums[step] += log_softmax(mine[position - 1])[token] - log_softmax(theirs[position - 1])[token]
    return sums


def test_implicit_equals_a_plain_loop(tiny, tiny_tuned):
    model = load_reward_model(tiny_tuned, reference=tiny)
    encoded = model.encode(PROBLEM, STEPS)
    found = model.score([encoded, encoded])[1]
    assert found.sums == pytest.approx(slow_log_ratio(tiny_tuned, tiny, encoded), abs=1e-4)
    assert found.n_tokens.sum() == len(encoded) - encoded.n_prompt - 1
    assert found.scores is None


def test_a_model_against_itself_is_zero(tiny):
    model = load_reward_model(tiny, reference=tiny)
    assert (model.score([model.encode(PROBLEM, STEPS)])[0].sums == 0).all()


@pytest.mark.parametrize("discount", [None, 0.9])
def test_endo_equals_a_plain_loop(tiny, discount):
    model = load_reward_model(tiny, kind="endo", discount=discount)
    encoded = model.encode(PROBLEM, STEPS)
    logits = full_logits(tiny, encoded.ids)
    sums = [0.0, 0.0]
    for t, step in enumerate(encoded.step_of):
        if step >= 0:
            state = encoded.n_prompt + t - 1
            value_next = np.log(np.exp(logits[state + 1]).sum())
            sums[step] += logits[state][encoded.ids[state + 1]] - (discount or 1) * value_next
    assert model.score([encoded])[0].sums == pytest.approx(sums, abs=1e-4)


def test_endo_hand_worked():
    # r_1 = 3 - 0.5 * 4 = 1; r_2 = 5 - 0 (the state after the last token is terminal).
    assert endo_rewards(np.array([3.0, 5.0]), np.array([9.0, 4.0]), 0.5).tolist() == [1.0, 5.0]


def test_endo_of_a_response_is_its_logprob_and_the_first_value(tiny):
    """No token is paid for its being there: the sum telescopes, whatever the length."""
    model = load_reward_model(tiny, kind="endo")
    for steps in (STEPS, ["So \\boxed{9}."], STEPS * 6):
        encoded = model.encode(PROBLEM, steps)
        logits = full_logits(tiny, encoded.ids)
        first = encoded.n_prompt - 1
        logprob = sum(log_softmax(logits[i])[encoded.ids[i + 1]] for i in range(first, len(encoded) - 1))
        (values,) = model.token_values([encoded])
        assert values.sum() == pytest.approx(logprob + np.log(np.exp(logits[first]).sum()), abs=1e-3)


def test_endo_of_a_response_that_was_cut_has_a_value_after_it(tiny):
    """It is not done: the state after its last token is not terminal, or being cut would pay."""
    model = load_reward_model(tiny, kind="endo")
    whole = model.encode(PROBLEM, STEPS)
    cut = EncodedTrace(whole.ids[:-3], whole.n_prompt, whole.step_of[:-3], whole.n_steps)
    together = model.token_values([cut, whole])
    assert [len(values) for values in together] == [len(one) - one.n_prompt for one in (cut, whole)]
    assert together[0] == pytest.approx(together[1][:-3], abs=1e-4)


def test_endo_decay_weighs_positions_in_a_whole_response_only(tiny):
    model = load_reward_model(tiny, kind="endo")
    floored = load_reward_model(tiny, kind="endo", decay=0.5, decay_floor=0.2)
    encoded = model.encode(PROBLEM, STEPS)
    assert (model.scoring(), floored.scoring()) == (
        {"decay": 0.95, "decay_floor": 0.0},
        {"decay": 0.5, "decay_floor": 0.2},
    )
    (values,) = model.token_values([encoded])
    assert (values == floored.token_values([encoded])[0]).all()
    for one, decay, floor in ((model, 0.95, 0.0), (floored, 0.5, 0.2)):
        total, weight = 0.0, 1.0
        for value in values:
            total += max(weight, floor) * value
            weight *= decay
        assert one.weighted_total(values) == pytest.approx(total, rel=1e-12)
    assert load_reward_model(tiny, reference=tiny).weighted_total(values) is None


def test_endo_takes_no_reference_and_others_no_decay(tiny):
    with pytest.raises(UserError, match="'decay' means nothing for the kind implicit"):
        load_reward_model(tiny, reference=tiny, decay=0.95)
    with pytest.raises(UserError, match="`reference=.*`: endo scores with one model alone"):
        load_reward_model(tiny, kind="endo", reference=tiny)


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    """A LoRA adapter of `tiny` with weights that matter, and the same merged into a whole checkpoint."""
    root = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(5)
    lora = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False),
    )
    lora.save_pretrained(root / "adapter")
    lora.merge_and_unload().save_pretrained(root / "merged")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(root / "merged")
    return root


def test_adapter_equals_its_merged_copy_with_one_copy_of_the_weights(tiny, adapter):
    model = load_reward_model(adapter / "adapter", reference=tiny)
    merged = load_reward_model(adapter / "merged", reference=tiny)
    encoded = model.encode(PROBLEM, STEPS)
    expected = merged.score([encoded])[0].sums
    assert np.abs(expected).max() > 0.1
    assert model.score([encoded])[0].sums == pytest.approx(expected, abs=1e-4)
    assert model.model is model.reference.engine()


def test_adapter_names_its_own_base(tiny, adapter):
    model = load_reward_model(adapter / "adapter")
    assert model.facts["reference"] == str(tiny)
    assert model.hashes["reference"] == load_reward_model(tiny, kind="endo").hashes["model"]


def test_adapter_mistakes(adapter, tmp_path):
    broken = shutil.copytree(adapter / "adapter", tmp_path / "a")
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="without adapter_model.safetensors"):
        load_reward_model(broken)
    other = support.save_checkpoint(tmp_path / "wide", num_key_value_heads=4)
    elsewhere = shutil.copytree(adapter / "adapter", tmp_path / "elsewhere")
    support.change_json(elsewhere / "adapter_config.json", base_model_name_or_path="someone/gone")
    with pytest.raises(UserError, match="the adapter does not fit"):
        load_reward_model(elsewhere, reference=other)  # the reference is the only base that there is


# --- what does not belong together ---


def test_another_vocabulary_size(tiny, tmp_path):
    tokenizer = support.wrap(support.byte_level())
    tokenizer.add_tokens(["<extra>"])
    support.tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    check_common(tiny, tmp_path / "other", 407)
    with pytest.raises(UserError, match=r"holds the token '<extra>', which .* do not both know"):
        load_reward_model(tmp_path / "other", reference=tiny).encode(PROBLEM, ["<extra> is 3.", *STEPS])
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "other" / name).unlink(missing_ok=True)
    check_common(tiny, tmp_path / "other", 407)


def check_common(folder, reference, n):
    """A log-ratio over the first n ids, in float64."""
    model = load_reward_model(folder, reference=reference)
    encoded = model.encode(PROBLEM, STEPS)
    ids, at = torch.tensor(encoded.ids)[None], np.arange(encoded.n_prompt, len(encoded.ids))
    both = []
    for one in (folder, reference):
        with torch.no_grad():
            logits = AutoModelForCausalLM.from_pretrained(one, dtype=torch.float64)(ids).logits[0, :, :n]
        both.append(logits.log_softmax(-1)[at - 1, encoded.ids[at]].numpy())
    assert model.token_values([encoded])[0] == pytest.approx(both[0] - both[1], abs=1e-4)


@pytest.mark.parametrize("padding", [(0, 9), (9, 0), (5, 9)])
def test_padded_to_different_sizes(padding, tmp_path):
    """Over the tokens alone, as if neither output layer had rows past them."""
    folders = [zoo.save(tmp_path / str(i), "qwen2", seed=i, padded=n) for i, n in enumerate(padding)]
    check_common(*folders, zoo.TOKENIZERS["gpt2"]().get_vocab_size())
    with pytest.raises(UserError, match="model and reference know different tokens, which only the engine hf"):
        load_reward_model(folders[0], reference=folders[1], engine="vllm")


def test_padded_to_one_size(tmp_path):
    """Nothing is left out: as both were trained, and as public scripts compute it."""
    folders = [zoo.save(tmp_path / str(i), "qwen2", seed=i, padded=7) for i in range(2)]
    check_common(*folders, None)


def test_a_template_with_a_date_warns_and_is_recorded(tmp_path, traces_file, capsys):
    template = "{{ strftime_now('%Y-%m-%d') }}" + support.TEMPLATE
    folder = support.save_checkpoint(tmp_path / "m", template=template)
    entry, _ = prmbench.evaluate(folder, kind="endo", data=traces_file, output=tmp_path / "out", n_resamples=10)
    assert entry.provenance.token_options["date"] == "2024-07-26"
    assert any("writes today's date" in one for one in entry.provenance.warnings)
    assert "writes today's date" in capsys.readouterr().err


def test_same_size_other_tokens(tiny, tmp_path):
    swapped = shutil.copytree(tiny, tmp_path / "swapped")
    content = json.loads((swapped / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (swapped / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"differ in 2 tokens of their vocabularies \('a' is"):
        load_reward_model(tiny, reference=swapped)


def test_tokenizer_beyond_the_models_vocabulary(tiny, tmp_path):
    grown = shutil.copytree(tiny, tmp_path / "grown")
    tokenizer = AutoTokenizer.from_pretrained(grown)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(grown)
    model = load_reward_model(grown, kind="endo")
    with pytest.raises(UserError, match="tokenizer and weights are not from one checkpoint"):
        model.encode("zebra", STEPS)


def test_no_card_and_no_flag_says_what_to_pass(tiny):
    with pytest.raises(UserError, match=r"has no prmbench.json .* pass `reference=SFT` .* or `kind=endo`"):
        load_reward_model(tiny)
    with pytest.raises(UserError, match="an implicit reward model is a ratio; pass `reference=`"):
        load_reward_model(tiny, kind="implicit")


# --- the card ---


@pytest.fixture
def with_card(tiny, tiny_tuned, tmp_path):
    shutil.copytree(tiny, tmp_path / "sft")
    folder = shutil.copytree(tiny_tuned, tmp_path / "rm")
    write_card(folder, Card(kind="implicit", objective="ipvrm", margin=5.0, reference="../sft"))
    return folder


def test_a_card_is_enough(with_card, tiny, tiny_tuned):
    model = load_reward_model(with_card)
    encoded = model.encode(PROBLEM, STEPS)
    expected = load_reward_model(tiny_tuned, reference=tiny).score([encoded])[0].sums
    assert (model.score([encoded])[0].sums == expected).all()
    assert model.card.scale() == 10.0
    assert model.fixed_thresholds() == {"prefix_mean": 0.0}


def test_flags_go_over_the_card_and_another_kind_leaves_it(with_card):
    model = load_reward_model(with_card, beta=2.0, tokens={"separator": "\n"})
    assert (model.card.scale(), model.card.objective) == (2.0, "ipvrm")
    assert model.encoder.options.separator == "\n"
    endo = load_reward_model(with_card, kind="endo")
    assert endo.card.reference is None
    assert endo.fixed_thresholds() == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "implicit", "betta": 3}, r"field 'betta'.*did you mean 'beta'"),
        ({"kind": "implicit", "beta": -1}, "field 'beta': input should be greater than 0"),
        ({"kind": "implicit", "objective": "iprvm"}, r"objective 'iprvm' \(did you mean 'ipvrm'"),
        ({"kind": "implicit", "schema_version": 2}, "field 'schema_version'"),
        ({"kind": "implicit", "tokens": {"seperator": ""}}, r"field 'tokens.seperator'.*did you mean 'separator'"),
        ({}, "field 'kind'"),
    ],
)
def test_card_mistakes(fields, message):
    with pytest.raises(UserError, match=message):
        make_card(fields, "card")


def test_broken_card(tmp_path):
    (tmp_path / "prmbench.json").write_text("{")
    with pytest.raises(UserError, match=r"prmbench.json, line 1, column 2: broken JSON"):
        read_card(tmp_path)
    assert read_card(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("implicit_prm", {"prefix": 0.0}), ("dpo", {}), (None, {}), ("ipvrm_late", {"prefix_mean": 0.0})],
)
def test_only_probabilities_have_a_fixed_threshold(tiny, objective, expected):
    model = load_reward_model(tiny, reference=tiny, objective=objective)
    assert model.fixed_thresholds() == expected


def test_unknown_kind_names_the_nearest(tiny):
    with pytest.raises(UserError, match=r"kind 'implict' is not known \(did you mean 'implicit'"):
        load_reward_model(tiny, kind="implict", reference=tiny)


# --- a kind of the user's own ---

PLUGIN = '''
import numpy as np
from prmbench import RewardModel, StepScores, register
from prmbench.data.prompts import PROMPT_TEMPLATES, PromptTemplate, find_prompt
from prmbench.data.tokens import TraceEncoder
from prmbench.engines.tokenizer import load_tokenizer


@register("short")
class Short(RewardModel):
    """Likes short steps."""

    step_valued = True

    @classmethod
    def load(cls, request):
        model = cls()
        model.card = request.card
        model.encoder = TraceEncoder(load_tokenizer(request.folder, request.options), request.card.tokens)
        model.vocabulary, model.max_length = 10**9, None
        model.hashes, model.facts = {}, {}
        return model

    def device_and_dtype(self):
        return "cpu", "float32"

    def score(self, batch):
        return [StepScores(t.step_counts(), scores=-t.step_counts().astype(np.float64)) for t in batch]
'''


def test_plugin(tiny, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    model = load_reward_model(tiny, kind="short", plugin=tmp_path / "mine.py")
    assert find_kind("short") is type(model)
    found = model.score([model.encode(PROBLEM, STEPS)])[0]
    assert (found.scores == -found.n_tokens).all()


def test_plugin_mistakes(tiny, tmp_path):
    with pytest.raises(UserError, match="`plugin=.*`: no such file"):
        load_reward_model(tiny, plugin=tmp_path / "no.py")
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(UserError, match="failed .ZeroDivisionError"):
        load_reward_model(tiny, plugin=tmp_path / "bad.py")


def test_chat_template_file(tmp_path):
    folder = support.save_checkpoint(tmp_path / "m", template=None)
    with pytest.raises(UserError, match="no chat template; pass `chat_template=`"):
        load_reward_model(folder, kind="endo")
    (tmp_path / "t.jinja").write_text(support.TEMPLATE)
    model = load_reward_model(folder, kind="endo", chat_template=tmp_path / "t.jinja")
    assert model.encoder.template_hash() == TraceEncoder(support.wrap(support.byte_level())).template_hash()
    with pytest.raises(UserError, match="`chat_template=.*no.jinja`: no such file"):
        load_reward_model(folder, kind="endo", chat_template=tmp_path / "no.jinja")


@pytest.mark.slow
def test_smollm2_against_float64(smollm2, tmp_path):
    """The real model's log-ratio to itself with one layer disturbed, against a plain float64 loop over full logits."""
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    with torch.no_grad():
        model.model.layers[10].mlp.down_proj.weight.mul_(1.2)
    model.save_pretrained(tmp_path / "changed")
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(tmp_path / "changed")
    ratio = load_reward_model(tmp_path / "changed", reference=smollm2)
    encoded = ratio.encode(PROBLEM, STEPS)
    expected = slow_log_ratio(tmp_path / "changed", smollm2, encoded)
    assert np.abs(ratio.score([encoded])[0].sums - expected).max() < 1e-3


@pytest.fixture
def with_head(tiny, tmp_path):
    """A Q-RM checkpoint: the tiny model, and a head beside its weights."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "q"
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    weights["value_head.weight"] = torch.randn(1, 32, generator=torch.Generator().manual_seed(3))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, weights["value_head.weight"][0].double().numpy()


@pytest.mark.parametrize(("read_state", "offset"), [("after", 0), ("before", -1)])
def test_q_rm_equals_a_plain_loop(with_head, read_state, offset):
    folder, head = with_head
    write_card(folder, Card(kind="q_rm", objective="q_rm", read_state=read_state))
    model = load_reward_model(folder)
    encoded = [model.encode(PROBLEM, STEPS), model.encode("Short?", ["A step.", "", "Third."])]
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).model
    for trace, found in zip(encoded, model.score(encoded), strict=True):
        with torch.no_grad():
            states = loaded(torch.tensor(trace.ids)[None]).last_hidden_state[0].numpy()
        sums = [0.0] * trace.n_steps
        for t, step in enumerate(trace.step_of):
            if step >= 0:
                sums[step] += float(states[trace.n_prompt + t + offset] @ head)
        assert found.sums == pytest.approx(sums, abs=1e-4)
        assert found.n_tokens.tolist() == trace.step_counts().tolist()
    assert model.card.scale() == 0.2
    assert model.fixed_thresholds() == {}


def test_q_rm_mistakes(with_head, tiny):
    folder, _ = with_head
    with pytest.raises(UserError, match=r"holds no 'value_head\.weight'"):
        load_reward_model(tiny, kind="q_rm")
    with pytest.raises(UserError, match="`reference=.*`: q_rm scores with one model alone"):
        load_reward_model(folder, kind="q_rm", reference=tiny)
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["value_head.weight"] = torch.zeros(1, 7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has shape \[1, 7\]; expected \[1, 32\]"):
        load_reward_model(folder, kind="q_rm")


def test_the_library_names_arguments_and_no_flags(tiny, tmp_path):
    """A user of Python passes no flags: every mistake names the argument as Python has it."""
    mistakes = [
        ("rm", lambda: load_reward_model("ckptt")),
        ("reference", lambda: load_reward_model(tiny, kind="endo", reference=tiny)),
        ("reference", lambda: load_reward_model(tiny, kind="implicit")),
        ("kind", lambda: load_reward_model(tiny)),
        ("kind", lambda: load_reward_model(tiny, preset="rlhflow-mistral", kind="endo")),
        ("chat_template", lambda: load_reward_model(tiny, kind="endo", chat_template=tmp_path / "no.jinja")),
        ("plugin", lambda: load_reward_model(tiny, plugin=tmp_path / "no.py")),
        ("engine", lambda: load_reward_model(tiny, kind="endo", engine="vllm")),
    ]
    for name, mistake in mistakes:
        with pytest.raises(UserError, match=name) as found:
            mistake()
        assert "--" not in str(found.value)


# --- where a card says that its reference is ---


def test_a_reference_in_the_same_tree_is_named_by_a_path_that_moves_with_it(tiny, tiny_tuned, tmp_path):
    shutil.copytree(tiny, tmp_path / "run" / "sft")
    folder = shutil.copytree(tiny_tuned, tmp_path / "run" / "out" / "rm")
    weights = checkpoint_hash(tiny)
    fields = reference_fields(str(tmp_path / "run" / "sft"), weights, folder)
    assert fields == {"reference": "../../sft", "reference_name": None, "reference_weights": weights}
    write_card(folder, Card(kind="implicit", **fields))
    (tmp_path / "run").rename(tmp_path / "moved")
    model = load_reward_model(tmp_path / "moved" / "out" / "rm")
    assert (model.hashes["reference"], model.warnings) == (weights, [])
    assert reference_fields("owner/sft", weights, folder)["reference"] == "owner/sft"


def test_a_reference_elsewhere_is_named_by_its_weights(tiny, tiny_tuned, tmp_path, capsys):
    folder = shutil.copytree(tiny_tuned, tmp_path / "a" / "b" / "c" / "d" / "rm")
    shutil.copytree(tiny, tmp_path / "far" / "sft")
    weights = checkpoint_hash(tiny)
    fields = reference_fields(str(tmp_path / "far" / "sft"), weights, folder)
    assert fields == {"reference": None, "reference_name": "sft", "reference_weights": weights}
    write_card(folder, Card(kind="implicit", **fields))
    text = (folder / "prmbench.json").read_text()
    assert ".." not in text
    assert str(tmp_path) not in text
    with pytest.raises(
        UserError, match=rf"its reference 'sft' \(weights {weights[:12]}\) is not beside it; pass `reference=`"
    ):
        load_reward_model(folder)
    assert load_reward_model(folder, reference=tiny).warnings == []
    capsys.readouterr()
    model = load_reward_model(folder, reference=tiny_tuned)
    assert f"the model was trained against {weights[:12]}" in model.warnings[0]
    assert model.warnings[0] in capsys.readouterr().err
    assert load_reward_model(folder, kind="endo").kind == "endo"


def test_a_reference_is_never_looked_for_in_the_current_folder(tiny, tiny_tuned, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_tuned, tmp_path / "rm")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("sft", "owner/sft", "./sft"):
        shutil.copytree(tiny, name, dirs_exist_ok=True)
        write_card(folder, Card(kind="implicit", reference=name))
        with pytest.raises(UserError, match=f"its reference '{name}' is not beside it"):
            load_reward_model(folder)


def test_a_root_is_no_tree(tmp_path):
    (tmp_path / "sft").mkdir()
    assert reference_fields(str(tmp_path / "sft"), "0", Path("/out"))["reference_name"] == "sft"


def test_an_entry_records_what_the_model_warns_of(tiny, tiny_tuned, traces_file, tmp_path):
    folder = shutil.copytree(tiny_tuned, tmp_path / "rm")
    write_card(folder, Card(kind="implicit", reference_name="sft", reference_weights="0" * 64))
    entry, _ = prmbench.evaluate(folder, reference=tiny, data=traces_file, output=tmp_path / "out", batch_tokens=4096)
    assert "trained against 000000000000" in entry.provenance.warnings[0]


# --- the prompt that it was trained with ---


def with_prompt(tiny_tuned, tmp_path, **fields):
    folder = shutil.copytree(tiny_tuned, tmp_path / "rm")
    write_card(folder, Card(kind="implicit", **fields))
    return folder


def test_a_problem_is_put_as_in_training_unless_told_otherwise(tiny, tiny_tuned, tmp_path):
    folder = with_prompt(tiny_tuned, tmp_path, prompt="boxed")
    plain = load_reward_model(tiny_tuned, reference=tiny)
    asked = load_reward_model(folder, reference=tiny)
    bare = load_reward_model(folder, reference=tiny, prompt="bare")
    expected = plain.encode(find_prompt("boxed").render(PROBLEM), STEPS)
    assert asked.encode(PROBLEM, STEPS).ids.tolist() == expected.ids.tolist()
    assert (
        bare.encode(PROBLEM, STEPS).ids.tolist() == plain.encode(PROBLEM, STEPS).ids.tolist() != expected.ids.tolist()
    )
    assert (asked.scoring(), bare.scoring(), plain.scoring()) == ({"prompt": "boxed"}, None, None)
    assert load_reward_model(tiny, kind="endo", prompt="boxed").scoring()["prompt"] == "boxed"
    with pytest.raises(UserError, match=r"prompt template 'boxd' is not known \(did you mean 'boxed'"):
        load_reward_model(folder, reference=tiny, prompt="boxd")
    with pytest.raises(UserError, match="`prompt=boxed`: critic shows a problem in a way of its own"):
        load_reward_model(tiny, kind="critic", prompt="boxed")


def test_both_figures_can_be_had(tiny, tiny_tuned, tmp_path, traces_file, monkeypatch):
    folder = with_prompt(tiny_tuned, tmp_path, prompt="boxed")
    monkeypatch.chdir(tmp_path)  # where results go that name no output
    entries = [
        prmbench.evaluate(folder, reference=tiny, data=traces_file, batch_tokens=4096, prompt=prompt)
        for prompt in (None, "bare")
    ]
    (asked, asked_path), (bare, bare_path) = entries
    assert asked_path != bare_path
    assert asked.benchmark.fingerprint == bare.benchmark.fingerprint
    assert (asked.subject.scoring, bare.subject.scoring) == ({"prompt": "boxed"}, None)
    assert asked.provenance.run.tokens > bare.provenance.run.tokens


def test_the_system_message_of_a_prompt_comes_with_it(tiny, tiny_tuned, tmp_path, monkeypatch):
    mine = PromptTemplate("mine", "{problem} Go.", "boxed", system="Be brief.")
    monkeypatch.setitem(PROMPT_TEMPLATES, "mine", mine)
    folder = with_prompt(tiny_tuned, tmp_path, prompt="mine")
    found = load_reward_model(folder, reference=tiny)
    said = load_reward_model(tiny_tuned, reference=tiny, tokens={"system": "Be brief."})
    assert found.encode(PROBLEM, STEPS).ids.tolist() == said.encode(f"{PROBLEM} Go.", STEPS).ids.tolist()
    assert load_reward_model(folder, reference=tiny, prompt="bare").encoder.options.system is None


def test_completions_with_another_prompt_are_said_to_have_it(tiny, tiny_tuned, tmp_path):
    model = load_reward_model(with_prompt(tiny_tuned, tmp_path, prompt="boxed"), reference=tiny)
    assert model.prompt_remarks(find_prompt("boxed")) == []
    (remark,) = model.prompt_remarks(find_prompt("number"))
    assert (
        "sampled with the prompt 'number' and are scored with it; the reward model was trained with 'boxed'" in remark
    )
    briefly = PromptTemplate("boxed", "{problem}", "boxed", system="Be brief.")
    (remark,) = model.prompt_remarks(briefly)
    assert "sampled with the system message 'Be brief.', and are scored with no system message" in remark
    assert load_reward_model(tiny_tuned, reference=tiny).prompt_remarks(find_prompt("number")) == []
    rollouts = support.write_candidates(tmp_path / "c.jsonl")
    entry, _ = prmbench.rerank(
        tmp_path / "rm", [rollouts], reference=tiny, prompt="number", output=tmp_path / "out", n_resamples=0
    )
    assert any("trained with 'boxed'" in warning for warning in entry.provenance.warnings)


def test_a_classifier_without_a_card_is_named_as_one(tmp_path):
    """The message names the kind that the architecture can be, and no kind that it cannot."""
    folder = tmp_path / "prm"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2", "architectures": ["Qwen2ForTokenClassification"]}')
    with pytest.raises(UserError, match=r"pass `kind=classifier` \(it is a Qwen2ForTokenClassification\)") as found:
        load_reward_model(folder)
    assert "endo" not in str(found.value)
