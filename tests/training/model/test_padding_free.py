"""A batch in one row gives a training the values and the gradients of the padded batch."""

from __future__ import annotations

import numpy as np
import pytest
import support
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from prmbench.engines.hf.states import run_without_padding
from prmbench.training.data.pairs import Response
from prmbench.training.model.forward import give_logprobs, give_values, pack
from prmbench.training.prm.forward import give_pair_logits, give_step_logits
from prmbench.training.prm.recipe import ConcentrationOptions
from prmbench.training.rl.candidates import candidate_finder
from prmbench.training.rl.methods import Algorithm

LENGTHS = ((40, 11), (9, 8), (23, 3), (31, 30))
FORWARDS = {
    "log-probs": lambda model: give_logprobs(model, "m"),
    "values after": lambda model: give_values(model, "after", 0),
    "values before": lambda model: give_values(model, "before", 0),
    "step logits": lambda model: give_step_logits(model, 0, ConcentrationOptions()),
    "pair logits": lambda model: give_pair_logits(model, (5, 9), "m"),
}


def qwen3():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    config = Qwen3Config(vocab_size=97, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model


MODELS = {"llama": lambda: support.tiny_llama(97, seed=3), "qwen3": qwen3}


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    packed = pack([Response(rng.integers(0, 97, size=n), p) for n, p in LENGTHS])
    return {name: packed[name] for name in ("input_ids", "rows", "columns")}


def run(make, give, batch, *, joined, **more):
    """Values, and the gradients of a sum that weighs each value by its place."""
    model = make()
    if joined:
        run_without_padding(model.get_decoder(), "m")
    give(model)
    found = model(**batch, **more)
    sum((values * torch.arange(1, len(values) + 1)).mean() for values in found.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: values.detach() for name, values in found.items()}, gradients


def same(joined, padded, relative=1e-5):
    """Within a part of the largest: float32 sums come in another order."""
    assert joined.keys() == padded.keys()
    for name, wanted in padded.items():
        torch.testing.assert_close(joined[name], wanted, rtol=0, atol=relative * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("kind", MODELS)
def test_values_and_gradients_are_those_of_the_padded_batch(kind, forward, batch):
    joined, padded = (run(MODELS[kind], FORWARDS[forward], batch, joined=one) for one in (True, False))
    same(joined[0], padded[0])
    same(joined[1], padded[1])
    assert len({round(float(one), 4) for one in padded[0]["values"]}) > 20


def test_picked_tokens_and_candidates_are_those_of_the_padded_batch(batch):
    where, tokens = torch.tensor([0, 3, 3, 7]), torch.tensor([5, 6, 7, 8])
    joined, padded = (
        run(MODELS["llama"], FORWARDS["log-probs"], batch, joined=one, where=where, tokens=tokens)
        for one in (True, False)
    )
    same(joined[0], padded[0])
    same(joined[1], padded[1])
    found = []
    for one in (True, False):
        model = MODELS["llama"]()
        if one:
            run_without_padding(model.get_decoder(), "m")
        give_logprobs(model, "m")
        with torch.no_grad():
            found.append(model(**batch, find=candidate_finder(Algorithm(method="distrl"))))
    assert len(found[1]["tokens"]) > 10
    same({name: one.float() for name, one in found[0].items()}, {name: one.float() for name, one in found[1].items()})


@pytest.mark.slow
def test_a_real_model_gives_the_same_log_probs_and_gradients(smollm2, batch):
    def make():
        return AutoModelForCausalLM.from_pretrained(smollm2)

    joined, padded = (run(make, FORWARDS["log-probs"], batch, joined=one) for one in (True, False))
    same(joined[0], padded[0], 1e-5)
    same(joined[1], padded[1], 1e-4)
