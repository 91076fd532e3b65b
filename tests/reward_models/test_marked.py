"""Every kind with marks against a plain computation: one prefix at a time, through the authors' way of putting ids together."""

from __future__ import annotations

import json

import numpy as np
import pytest
import support_prm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer, Qwen2Model

from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model

PROBLEM = "What is 2 + 3 + 4?"
# A mark inside a text, an empty step, a step that ends in the mark (each family's own mark is put in for @), a plain one.
STEPS = ["2 + 3 = 5, so @ we go\non.", "", "5 + 4 = 9 @", "So \\boxed{9}."]
QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


def steps_with(mark):
    return [step.replace("@", mark) for step in STEPS]


@torch.no_grad()
def last_state(model, ids):
    return model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1].double()


@torch.no_grad()
def last_logits(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0, -1].double()


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def scored(model, problem, steps):
    """In a batch with a longer and a shorter trace, which must not matter."""
    others = [model.encode("Short?", ["One."]), model.encode("Long? " * 20, ["a step", "another step"] * 4)]
    found = model.score([others[0], model.encode(problem, steps), others[1]])[1]
    assert found.sums is None
    return found


@pytest.fixture(scope="module")
def smol(smollm2, tmp_path_factory):
    """As transformers loads it beside a Qwen config, where it splits as Qwen's does."""
    folder = tmp_path_factory.mktemp("smol")
    return AutoTokenizer.from_pretrained(support_prm.save_causal(folder, support_prm.smol_tokenizer(smollm2), "qwen2"))


def test_qwen_prm(smol, tmp_path):
    folder = support_prm.save_mlp_classifier(tmp_path / "qwen", smol)
    model = load_reward_model(folder, preset="qwen2.5-math-prm")
    steps = steps_with("<extra_0>")
    weights = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    trunk = Qwen2Model.from_pretrained(folder, dtype=torch.float64)
    chat = [{"role": "system", "content": QWEN_SYSTEM}, {"role": "user", "content": PROBLEM}]
    text = smol.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    expected = []
    for step in steps:
        text += step + "<extra_0>"
        with torch.no_grad():
            state = trunk(input_ids=torch.tensor([ids_of(smol, text)])).last_hidden_state[0, -1]
        hidden = torch.relu(weights["score.0.weight"] @ state + weights["score.0.bias"])
        wrong, right = (weights["score.2.weight"] @ hidden + weights["score.2.bias"]).log_softmax(-1)
        expected.append(float(right - wrong))
    found = scored(model, PROBLEM, steps)
    assert found.scores == pytest.approx(expected, abs=1e-4)
    assert len(set(np.round(found.scores, 3))) == len(steps)
    assert found.n_tokens.tolist() == [len(ids_of(smol, step)) for step in steps]
    assert model.fixed_thresholds() == {"step": 0.0}


@pytest.mark.parametrize(("preset", "arch"), [("trl-prm", "qwen2"), ("trl-prm", "llama"), ("pure-prm", "qwen2")])
def test_token_classification(smol, tmp_path, preset, arch):
    folder = support_prm.save_linear_classifier(tmp_path / "m", smol, arch)
    model = load_reward_model(folder, preset=preset)
    steps = steps_with("\n")
    whole = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float64)
    bos = [smol.bos_token_id] if preset == "trl-prm" else []  # TRL puts it in where the tokenizer has one
    ids, expected = [*bos, *ids_of(smol, PROBLEM)], []
    for step in steps:
        ids = [*ids, *ids_of(smol, step), *ids_of(smol, "\n")]
        wrong, right = last_logits(whole, ids).log_softmax(-1)
        expected.append(float(right - wrong))
    assert scored(model, PROBLEM, steps).scores == pytest.approx(expected, abs=1e-4)


def test_separator_of_several_tokens(smol, tmp_path):
    folder = support_prm.save_linear_classifier(tmp_path / "m", smol)
    model = load_reward_model(folder, preset="trl-prm", marks={"mark": " [end of step]"})
    whole = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float64)
    mark = ids_of(smol, " [end of step]")
    assert len(mark) > 2
    ids, expected = [smol.bos_token_id, *ids_of(smol, PROBLEM)], []
    for step in ["a", "b c"]:
        ids = [*ids, *ids_of(smol, step), *mark]
        logits = last_logits(whole, ids)
        expected.append(float(logits[1] - logits[0]))
    assert scored(model, PROBLEM, ["a", "b c"]).scores == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("has_bos", [True, False])
def test_trl_puts_bos_where_the_tokenizer_has_one(smol, tmp_path, has_bos):
    folder = support_prm.save_linear_classifier(tmp_path / "m", smol)
    if not has_bos:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": None}))
    found = load_reward_model(folder, preset="trl-prm").encode(PROBLEM, ["One."])
    assert found.ids.tolist() == [smol.bos_token_id] * has_bos + ids_of(smol, PROBLEM) + ids_of(smol, "One.\n")
    assert found.marks.tolist() == [len(found) - 1]


def test_skywork(smol, tmp_path):
    folder = support_prm.save_value_head(tmp_path / "sky", smol)
    model = load_reward_model(folder, preset="skywork-o1-open-prm")
    steps = steps_with("\n")
    trunk = Qwen2Model.from_pretrained(folder, dtype=torch.float64)
    head = load_file(folder / "model.safetensors")
    ids, expected = [*ids_of(smol, smol.bos_token + PROBLEM + "\n")], []
    for step in steps:
        for line in step.split("\n"):  # as its prepare_input cuts a response
            ids = [*ids, *ids_of(smol, line), ids_of(smol, "\n")[-1]]
        with torch.no_grad():
            state = trunk(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        expected.append(float(head["v_head.summary.weight"][0].double() @ state + head["v_head.summary.bias"][0]))
    assert scored(model, PROBLEM, steps).scores == pytest.approx(expected, abs=1e-4)


def test_math_shepherd(tmp_path):
    tokenizer = support_prm.mistral_tokenizer()
    folder = support_prm.save_causal(tmp_path / "shepherd", tokenizer)
    model = load_reward_model(folder, preset="math-shepherd")
    steps = steps_with("ки")
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    plus, minus, mark = (ids_of(tokenizer, text) for text in ("+", "-", "ки"))
    assert len(plus) == len(minus) == len(mark) == 1
    text, expected = f"{PROBLEM} ", []
    for i, step in enumerate(steps, start=1):
        text += f"Step {i}: {step} ки"
        ids = tokenizer(text)["input_ids"]
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, mark[0])
        right, wrong = last_logits(whole, ids)[[plus[0], minus[0]]].log_softmax(-1)
        expected.append(float(right - wrong))
        text += "\n"
    encoded = model.encode(PROBLEM, steps)
    assert encoded.ids[encoded.marks].tolist() == mark * len(steps)
    assert (encoded.ids == mark[0]).sum() > len(steps)  # those in the texts are not read
    assert scored(model, PROBLEM, steps).scores == pytest.approx(expected, abs=1e-4)


def test_rlhflow(smol, tmp_path):
    folder = support_prm.save_causal(tmp_path / "flow", smol, "qwen2")
    model = load_reward_model(folder, preset="rlhflow-mistral")
    steps = steps_with("+")
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    plus, minus = ids_of(smol, "+")[0], ids_of(smol, "-")[0]
    chat, expected = [], []
    for i, step in enumerate(steps):
        chat.append({"role": "user", "content": f"{PROBLEM} {step}" if i == 0 else step})
        text = smol.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        right, wrong = last_logits(whole, ids_of(smol, text))[[plus, minus]].log_softmax(-1)
        expected.append(float(right - wrong))
        chat.append({"role": "assistant", "content": "+"})
    encoded = model.encode(PROBLEM, steps)
    assert encoded.ids[encoded.marks + 1].tolist() == [plus] * len(steps)
    assert scored(model, PROBLEM, steps).scores == pytest.approx(expected, abs=1e-4)


def test_code_that_a_checkpoint_carries_is_never_run(smol, tmp_path):
    """Not even where the user allows it: the decoder is transformers' own, which knows this architecture."""
    from prmbench.engines.load import LoadOptions, load_trunk

    folder = support_prm.save_mlp_classifier(tmp_path / "m", smol)
    (folder / "modeling_qwen2_rm.py").write_text("raise SystemExit('ran')")
    (folder / "configuration_qwen2_rm.py").write_text("raise SystemExit('ran')")
    assert type(load_trunk(folder, LoadOptions(device="cpu", trust_remote_code=True))) is Qwen2Model
    assert load_reward_model(folder, preset="qwen2.5-math-prm").kind == "classifier"


def test_scores_do_not_saturate(smol, tmp_path):
    """Probabilities of 1 - 1e-40 still differ: the difference of logits is kept."""
    folder = support_prm.save_mlp_classifier(tmp_path / "m", smol)
    model = load_reward_model(folder, preset="qwen2.5-math-prm")
    model.head[1] = (model.head[1][0] * 1e3, model.head[1][1])
    found = model.score([model.encode(PROBLEM, ["a", "b", "c"])])[0].scores
    assert np.abs(found).min() > 100
    assert len(set(found)) == 3


def test_best_of_n_shows_the_bare_problem_and_the_steps(smol, tmp_path):
    from prmbench.benchmarks.judged import encode_completions
    from prmbench.data.completions import StoredCompletion
    from prmbench.data.prompts import find_prompt

    model = load_reward_model(support_prm.save_linear_classifier(tmp_path / "m", smol), preset="trl-prm")
    text = "\n\nFirst.\n\n\n\nSecond,\nlonger.\n\n"
    candidate = StoredCompletion("s", "a", 0, PROBLEM, "9", text, np.array([1, 2]), False)
    (found,) = encode_completions(model, [candidate], find_prompt("boxed"))
    expected = model.encode(PROBLEM, ["\n\nFirst.", "Second,\nlonger.\n\n"])
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.marks.tolist() == expected.marks.tolist()


# --- what is refused ---


@pytest.mark.slow
def test_a_classifier_is_no_language_model(smol, tmp_path):
    """Tied embeddings fill an output layer: without the refusal, scores over the vocabulary would pass silently."""
    folder = support_prm.save_mlp_classifier(tmp_path / "m", smol, tied=True)
    untied = support_prm.save_mlp_classifier(tmp_path / "u", smol)
    with pytest.raises(UserError, match="holds the head of a reward model"):
        load_reward_model(untied, kind="endo")
    for kind in ("endo", "token_pair", "critic"):
        with pytest.raises(
            UserError, match=r"holds the head of a reward model \('score.0.bias'\).* `kind=classifier` or `preset=`"
        ):
            load_reward_model(folder, kind=kind)
    value = support_prm.save_value_head(tmp_path / "v", smol)
    with pytest.raises(UserError, match="`kind=value_head`"):
        load_reward_model(value, kind="endo")


@pytest.mark.slow
def test_heads_that_are_not_there_or_do_not_fit(smol, tmp_path):
    plain = support_prm.save_causal(tmp_path / "plain", smol, "qwen2")
    with pytest.raises(UserError, match=r"holds no 'score.weight'"):
        load_reward_model(plain, preset="qwen2.5-math-prm")
    with pytest.raises(UserError, match=r"holds no 'v_head.summary.weight'"):
        load_reward_model(plain, preset="skywork-o1-open-prm")
    folder = support_prm.save_linear_classifier(tmp_path / "m", smol)
    weights = load_file(folder / "model.safetensors")
    support_prm._rewrite(folder, {**weights, "score.weight": torch.zeros(3, 16)})
    with pytest.raises(UserError, match=r"shapes \[\(3, 16\)\], expected \[\(2, 16\)\]"):
        load_reward_model(folder, preset="trl-prm")
    support_prm._rewrite(folder, {**weights, "score.weight": torch.full((2, 16), float("nan"))})
    with pytest.raises(UserError, match="'score.weight' holds NaN"):
        load_reward_model(folder, preset="trl-prm")
    support_prm._rewrite(folder, {**weights, "score.bias": torch.zeros(1)})
    with pytest.raises(UserError, match=r"bias of the head has shape \[1\], expected \[2\]"):
        load_reward_model(folder, preset="trl-prm")
    value = support_prm.save_value_head(tmp_path / "v", smol)
    weights = load_file(value / "model.safetensors")
    support_prm._rewrite(value, {**weights, "v_head.summary.bias": torch.zeros(4)})  # would fit a batch of four marks
    with pytest.raises(UserError, match=r"v_head.summary.bias has shape \[4\]; expected \[1\]"):
        load_reward_model(value, preset="skywork-o1-open-prm")


@pytest.mark.slow
def test_the_wrong_tokenizer_is_refused(smollm2, tmp_path):
    bare = AutoTokenizer.from_pretrained(smollm2)  # without <extra_0>
    folder = support_prm.save_mlp_classifier(tmp_path / "m", bare)
    with pytest.raises(UserError, match=r"the mark '<extra_0>' is \d+ tokens of this tokenizer, expected one"):
        load_reward_model(folder, preset="qwen2.5-math-prm")
    flow = support_prm.save_causal(tmp_path / "flow", bare, "qwen2")
    with pytest.raises(UserError, match=r"'right answer' is 2 tokens of this tokenizer, expected one"):
        load_reward_model(flow, preset="rlhflow-mistral", pair=["right answer", "-"])


def test_options_that_mean_nothing_here(smol, tmp_path):
    folder = support_prm.save_linear_classifier(tmp_path / "m", smol)
    with pytest.raises(UserError, match="`reference=.*`: classifier scores with one model alone"):
        load_reward_model(folder, preset="trl-prm", reference=folder)
    with pytest.raises(UserError, match="a system message, .*: this layout has the bare problem"):
        load_reward_model(folder, preset="trl-prm", tokens={"system": "Be brief."})
    with pytest.raises(UserError, match="'generation' means nothing for the kind classifier"):
        load_reward_model(folder, preset="trl-prm", generation={"max_new_tokens": 8})
    with pytest.raises(UserError, match="`engine=hff`: expected hf, vllm, api"):
        load_reward_model(folder, preset="trl-prm", engine="hff")
    with pytest.raises(UserError, match="before_steps means nothing where prompt is chat"):
        load_reward_model(folder, kind="classifier", marks={"mark": "\n", "before_steps": " "})
    with pytest.raises(UserError, match="after_mark means nothing where prompt is turns"):
        load_reward_model(folder, kind="classifier", marks={"prompt": "turns", "mark": "\n", "after_mark": " "})


def test_no_beginning_of_sequence_token(smol, tmp_path):
    folder = support_prm.save_value_head(tmp_path / "m", smol)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="no beginning-of-sequence token, which this layout puts first"):
        load_reward_model(folder, preset="skywork-o1-open-prm")
    assert load_reward_model(folder, preset="skywork-o1-open-prm", marks={"bos": False}).encode(PROBLEM, ["a"])


def test_heads_that_are_not_trained(smol, tmp_path):
    """Of zeros, with equal rows, or with the biases that they start from."""
    folder = support_prm.save_linear_classifier(tmp_path / "m", smol)
    file = folder / "model.safetensors"
    weights = load_file(file)
    bias = next(name for name in weights if name.endswith("score.bias"))
    weight = bias.replace("bias", "weight")

    def warnings(**changed):
        save_file({**weights, **changed}, file, metadata={"format": "pt"})
        return load_reward_model(folder, kind="classifier", marks={"mark": "<extra_0>"}).warnings

    zeros = torch.zeros_like(weights[bias])
    weights[bias] = zeros + 0.1
    assert warnings() == []
    assert "biases of the head are exactly 0" in warnings(**{bias: zeros})[0]
    equal = weights[weight][:1].expand(2, -1).contiguous()
    assert "gives every step the same score" in warnings(**{weight: equal})[0]
