"""What is given to vLLM and what is done with its numbers, without vLLM: transformers computes what vLLM would."""

from __future__ import annotations

import pytest
import support
import support_prm
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from prmbench.engines.checkpoint import read_weights
from prmbench.engines.hf.trunk import Trunk
from prmbench.engines.load import LoadOptions
from prmbench.engines.vllm import trunk as vllm_trunk
from prmbench.reward_models.loading import load_reward_model

CPU = LoadOptions(device="cpu", dtype="float32")
HEAD = ("score.weight", "score.0.weight", "score.0.bias", "score.2.weight", "score.2.bias")


class Pooling:
    """Reads a layout as vLLM does: the decoder, and the head that lies beside it."""

    def __init__(self, folder, options, source, *, task):
        self.trunk, self.task, self.head = Trunk(folder, options, source), task, read_weights(folder, HEAD)
        self.max_length, self.device_and_dtype = self.trunk.max_length - 1, self.trunk.device_and_dtype

    def pool(self, sequences, positions):
        states, head = self.trunk.states(sequences, positions), self.head
        if self.task == "token_embed":
            found = states
        elif "score.weight" in head:
            found = states @ head["score.weight"].T
        else:
            hidden = torch.relu(states @ head["score.0.weight"].T + head["score.0.bias"])
            found = hidden @ head["score.2.weight"].T + head["score.2.bias"]
        return [one.numpy() for one in found.split([len(some) for some in positions])]


@pytest.fixture
def no_vllm(monkeypatch):
    monkeypatch.setattr(vllm_trunk, "VLLMPooling", Pooling)
    monkeypatch.setattr(vllm_trunk, "require_vllm", lambda: None)


def llama_with_two_layers(folder, tokenizer):
    support_prm.save_linear_classifier(folder, tokenizer, "llama")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("score")}
    head = {"score.0.weight": torch.randn(8, 16), "score.0.bias": torch.randn(8), "score.2.weight": torch.randn(2, 8)}
    support_prm._rewrite(folder, kept | head)
    return folder


def with_value_head(folder, tokenizer):
    support_prm.save_causal(folder, tokenizer, "qwen2")
    support.change_weights(folder, lambda weights: weights.update({"value_head.weight": torch.randn(1, 16)}))
    return folder


SAVED = {
    "two layers, Qwen2": (support_prm.save_mlp_classifier, {"kind": "classifier"}),
    "two layers, Llama": (llama_with_two_layers, {"kind": "classifier"}),
    "one layer": (support_prm.save_linear_classifier, {"kind": "classifier"}),
    "value head": (support_prm.save_value_head, {"kind": "value_head"}),
    "pair": (support_prm.save_causal, {"kind": "token_pair", "pair": ["a", "b"]}),
    "q_rm after": (with_value_head, {"kind": "q_rm"}),
    "q_rm before": (with_value_head, {"kind": "q_rm", "read_state": "before"}),
}
LAYOUT = {"prompt": "text", "mark": "\n"}


@pytest.mark.parametrize("name", SAVED)
def test_scores_are_those_of_transformers(name, no_vllm, tiny, tmp_path):
    save, how = SAVED[name]
    folder = save(tmp_path / "m", AutoTokenizer.from_pretrained(tiny))
    how = how if how["kind"] == "q_rm" else {**how, "marks": LAYOUT}
    expected = load_reward_model(folder, load_options=CPU, **how)
    model = load_reward_model(folder, load_options=CPU, engine="vllm", **how)
    traces = [expected.encode(one["problem"], one["steps"]) for one in support.make_traces(6)]
    for ours, theirs in zip(model.score(traces), expected.score(traces), strict=True):
        one, other = (ours.scores, theirs.scores) if ours.sums is None else (ours.sums, theirs.sums)
        assert one == pytest.approx(other, abs=1e-4)
        assert len(set(other.round(4))) == len(other) > 1
    assert (model.engine, expected.engine) == ("vllm", "hf")
    assert (model.hashes, model.scoring(), model.warnings) == (expected.hashes, expected.scoring(), expected.warnings)
    assert model.max_length == 1023
    assert model.facts["engine"] == "vllm"


def test_a_kind_of_ones_own_is_given_hidden_states(no_vllm, tiny, tmp_path):
    folder = support_prm.save_linear_classifier(tmp_path / "m", AutoTokenizer.from_pretrained(tiny))
    (tmp_path / "spread.py").write_text(
        "from prmbench import MarkedRewardModel, register\n"
        "@register('spread_of_states')\n"
        "class Spread(MarkedRewardModel):\n"
        "    def read(self, states):\n"
        "        return states.std(dim=1)\n"
    )
    how = {"kind": "spread_of_states", "plugin": tmp_path / "spread.py", "marks": LAYOUT, "load_options": CPU}
    found = []
    for engine in ("hf", "vllm"):
        model = load_reward_model(folder, engine=engine, **how)
        found.append(model.score([model.encode("1 + 1?", ["2.", "So 2."])])[0].scores)
    assert found[1] == pytest.approx(found[0], abs=1e-5)
