from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import support
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from prmbench.data.tokens import TraceEncoder
from prmbench.errors import UserError
from prmbench.reward_models.base import find_kind
from prmbench.reward_models.card import Card, make_card, read_card, write_card
from prmbench.reward_models.endo import endo_rewards
from prmbench.reward_models.loading import load_reward_model

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


def test_endo_equals_a_plain_loop(tiny):
    model = load_reward_model(tiny, kind="endo", discount=0.9)
    encoded = model.encode(PROBLEM, STEPS)
    logits = full_logits(tiny, encoded.ids)
    sums = [0.0, 0.0]
    for t, step in enumerate(encoded.step_of):
        if step >= 0:
            state = encoded.n_prompt + t - 1
            value_next = np.log(np.exp(logits[state + 1]).sum())
            sums[step] += logits[state][encoded.ids[state + 1]] - 0.9 * value_next
    assert model.score([encoded])[0].sums == pytest.approx(sums, abs=1e-4)


def test_endo_hand_worked():
    # r_1 = 3 - 0.5 * 4 = 1; r_2 = 5 - 0 (the state after the last token is terminal).
    assert endo_rewards(np.array([3.0, 5.0]), np.array([9.0, 4.0]), 0.5).tolist() == [1.0, 5.0]


def test_endo_default_discount_and_no_reference(tiny):
    assert load_reward_model(tiny, kind="endo").card.discount == 0.95
    with pytest.raises(UserError, match="EndoRM scores with one model alone"):
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
    with pytest.raises(UserError, match="the adapter does not fit"):
        load_reward_model(adapter / "adapter", reference=other)


# --- what does not belong together ---


def test_another_vocabulary_size(tiny, tmp_path):
    tokenizer = support.wrap(support.byte_level())
    tokenizer.add_tokens(["<extra>"])
    support.tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"differ in 1 tokens .*'<extra>'"):
        load_reward_model(tiny, reference=tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "other" / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"407 logits a position, its reference .* has 408"):
        load_reward_model(tiny, reference=tmp_path / "other")


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
    with pytest.raises(UserError, match=r"has no prmbench.json .* pass --reference SFT .* or --kind endo"):
        load_reward_model(tiny)
    with pytest.raises(UserError, match="an implicit reward model is a ratio; pass --reference"):
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
    with pytest.raises(UserError, match=r"prmbench.json: broken JSON"):
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
from prmbench.data.tokens import TraceEncoder
from prmbench.engines.loading import load_tokenizer


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
    with pytest.raises(UserError, match="--plugin .*: no such file"):
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
    with pytest.raises(UserError, match="--chat-template .* cannot be read"):
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
    with pytest.raises(UserError, match="Q-RM scores with one model alone"):
        load_reward_model(folder, kind="q_rm", reference=tiny)
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["value_head.weight"] = torch.zeros(1, 7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has shape \[1, 7\]; expected \[1, 32\]"):
        load_reward_model(folder, kind="q_rm")
