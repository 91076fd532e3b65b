"""Reward models with a head, and judges, in real vLLM against transformers. Each model is closed before the next is loaded."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import support
import support_prm
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from prmbench.engines.load import LoadOptions
from prmbench.engines.vllm.layout import write_layout
from prmbench.engines.vllm.pooling import VLLMPooling
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_process")]

CPU = LoadOptions(device="cpu", dtype="float32")
TOLERANCE = 1e-3
"""Between the scores of vLLM and those of transformers in float32 on a CPU. Scores are of size 1 to 30 here."""
WIDE = support_prm.WIDE

STATES = """
from prmbench import MarkedRewardModel, MarkLayout, register
import torch

@register("spread")
class Spread(MarkedRewardModel):
    default_layout = MarkLayout(prompt="text", mark="\\n")

    def read(self, states):
        return states[:, :7].pow(2).sum(1) - states[:, 7:9].abs().sum(1)
"""
"""A kind of one's own, whose head is no linear layer."""


@pytest.fixture(scope="module")
def smol(smollm2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smol")
    return AutoTokenizer.from_pretrained(support_prm.save_causal(folder, support_prm.smol_tokenizer(smollm2), "qwen2"))


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Explicit PRMs as `prmbench train prm` leaves them, by objective."""
    from prmbench.training.prm.recipe import PRMRecipe
    from prmbench.training.prm.run import train_prm

    place = tmp_path_factory.mktemp("trained")
    rows = []
    for trace in support.make_traces(16):
        k = trace["label"] if trace["label"] >= 0 else len(trace["steps"])
        labels = ["right"] * k + ["wrong"] * (len(trace["steps"]) - k)
        values = [0.75 if one == "right" else 0.25 for one in labels]
        rows.append({name: value for name, value in trace.items() if name != "label"})
        rows[-1] |= {"labels": labels, "values": values}
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(objective, **settings):
        output = place / f"{objective}{len(settings)}"
        if not output.exists():
            recipe = {"objective": objective, "model": str(tiny), "data": str(place / "data.jsonl"), "held_out": 4}
            recipe |= {"output": str(output), "batch_size": 8, "learning_rate": 3e-3, "max_steps": 2}
            train_prm(PRMRecipe(**recipe, **settings))
        return output

    return train


def made(name, place, smol, trained):
    """A checkpoint of a family, and how it is loaded."""
    if name == "qwen2.5-math-prm":
        return support_prm.save_mlp_classifier(place / "m", smol, **WIDE), {"preset": name}
    if name == "two layers on a Llama":
        folder = support_prm.save_mlp_classifier(place / "m", smol, **WIDE)
        shape = {**support_prm.SHAPE, **WIDE}
        support_prm._strong(
            AutoModelForCausalLM.from_config(support_prm.LlamaConfig(vocab_size=len(smol), **shape))
        ).save_pretrained(place / "llama")
        heads = {k: v for k, v in load_file(folder / "model.safetensors").items() if k.startswith("score")}
        support_prm._rewrite(place / "llama", load_file(place / "llama" / "model.safetensors") | heads)
        smol.save_pretrained(place / "llama")
        return place / "llama", {"preset": "qwen2.5-math-prm"}
    if name in ("trl-prm qwen2", "trl-prm llama"):
        preset, arch = name.split()
        return support_prm.save_linear_classifier(place / "m", smol, arch, **WIDE), {"preset": preset}
    if name == "skywork-o1-open-prm":
        return support_prm.save_value_head(place / "m", smol, **WIDE), {"preset": name}
    if name == "math-shepherd":
        return support_prm.save_causal(place / "m", support_prm.mistral_tokenizer(), **WIDE), {"preset": name}
    if name in ("rlhflow-mistral", "rlhflow-mistral tied"):
        tied = {"tie_word_embeddings": "tied" in name}
        return support_prm.save_causal(place / "m", smol, "qwen2", **WIDE, **tied), {"preset": "rlhflow-mistral"}
    if name == "token pair of Granite":
        from transformers import GraniteConfig, GraniteForCausalLM

        config = GraniteConfig(vocab_size=len(smol), logits_scaling=0.25, **{**support_prm.SHAPE, **WIDE})
        torch.manual_seed(8)
        return support_prm._save(support_prm._strong(GraniteForCausalLM(config)), smol, place / "m"), {
            "preset": "rlhflow-mistral"
        }
    if name == "own kind":
        (place / "spread.py").write_text(STATES)
        folder = support_prm.save_linear_classifier(place / "m", smol, **WIDE)
        return folder, {"kind": "spread", "plugin": place / "spread.py"}
    if name.startswith("trained "):
        return trained(name.split()[1]), {}
    if name.startswith("adapter"):
        torch.manual_seed(7)
        pair = name.endswith("token pair")
        load = AutoModelForCausalLM if pair else AutoModelForTokenClassification
        if pair:
            base = support_prm.save_causal(place / "base", smol, "qwen2", **WIDE)
        else:
            base = support_prm.save_linear_classifier(place / "base", smol, **WIDE)
        settings = {"target_modules": ["q_proj", "up_proj"], "modules_to_save": None if pair else ["score"]}
        adapter = get_peft_model(load.from_pretrained(base), LoraConfig(r=4, init_lora_weights=False, **settings))
        adapter.save_pretrained(place / "adapter")
        return place / "adapter", {"preset": "rlhflow-mistral" if pair else "trl-prm"}
    n = int(name.split()[1])
    how = {"kind": "judge", "generation": {"n": n, "temperature": 0.0, "max_new_tokens": 8}}
    return support_prm.save_causal(place / "m", smol, "qwen2", max_position_embeddings=2048, **WIDE), how


FAMILIES = [
    "qwen2.5-math-prm",
    "two layers on a Llama",
    "trl-prm qwen2",
    "trl-prm llama",
    "skywork-o1-open-prm",
    "math-shepherd",
    "rlhflow-mistral",
    "rlhflow-mistral tied",
    "token pair of Granite",
    "own kind",
    "trained step_ce",
    "trained step_soft",
    "trained token_pair",
    "adapter of a token pair",
    "adapter of a classifier",
    "judge 0",
    "judge 1",
]


@contextlib.contextmanager
def loaded(folder, engine, options=CPU, **how):
    """A reward model, closed at the end."""
    model = load_reward_model(folder, engine=engine, load_options=options, **how)
    try:
        yield model
    finally:
        held = getattr(model, "trunk", None) or model.model
        if engine == "vllm":
            held.close()


def traces_of(model, n=12):
    """Made solutions; one with marks inside its texts, empty steps and several scripts; and one that is long."""
    found = [(one["problem"], one["steps"]) for one in support.make_traces(n)]
    odd = ["a <extra_0> b ки + -", "", "Straße, 答案 = 3\n\n", "5 + 4 = 9 \n", "\U0001f600 +"]
    found += [("Is 2 + 2 = 4? \n ки <extra_0>", odd), ("Q?", ["One."]), ("Long? " * 40, ["a step + 1", "another"] * 20)]
    encoded = [model.encode(problem, steps) for problem, steps in found]
    return [one for one in encoded if len(one) <= model.max_length]


def scores_of(model, traces):
    return [one.scores for one in model.score(traces)]


def differences(ours, theirs):
    return [float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_transformers(family, smol, trained, tmp_path, record_property):
    folder, how = made(family, tmp_path, smol, trained)
    with loaded(folder, "hf", **how) as model:
        traces = traces_of(model)
        expected = scores_of(model, traces)
        hashes, scoring = model.hashes, model.scoring()
    with loaded(folder, "vllm", **how) as model:
        assert [one.ids.tolist() for one in traces_of(model)] == [one.ids.tolist() for one in traces]
        found = scores_of(model, traces)
        alone = [scores_of(model, [trace])[0] for trace in traces[-4:]]
        mixed = scores_of(model, [traces[i] for i in (-1, 0, -3, 1, -2)])
        assert (model.engine, model.hashes, model.scoring()) == ("vllm", hashes, scoring)
    assert len({round(float(x), 4) for one in expected for x in one}) > 20  # the scores tell steps apart
    largest, spread = max(differences(found, expected)), np.concatenate(expected).std()
    record_property("largest difference", largest)
    print(f"\n{family}: {sum(map(len, expected))} steps, spread {spread:.1f}, largest difference {largest:.1e}")
    assert largest < TOLERANCE
    # What else is in the batch does not matter, nor its order.
    assert max(differences(alone, found[-4:])) < 1e-4
    assert max(differences(mixed, [found[i] for i in (-1, 0, -3, 1, -2)])) < 1e-4
