"""Scoring, sampling, training and saving over the zoo, against transformers' own forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo

from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.load import LoadOptions, load_causal_lm, load_trunk
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.training.model.forward import give_logprobs

CPU = LoadOptions("cpu", "float32")
VOCABULARY = 101


@pytest.fixture(params=list(zoo.ARCHITECTURES))
def animal(request, tmp_path):
    """A model, and the folder that it was saved in."""
    model = zoo.build(request.param, VOCABULARY)
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_scored_sampled_and_saved(animal, tmp_path):
    model, folder = animal
    loaded = load_causal_lm(folder, CPU)
    engine = HFEngine(loaded, "it")
    ids = np.random.default_rng(0).integers(6, VOCABULARY, size=40)
    wanted = zoo.logprobs(model, ids)
    at = np.arange(len(ids) - 1), ids[1:]

    # Scored in a batch of several lengths.
    whole, short = engine.score([ids, ids[:9]], [1, 3], frozenset({"logprob", "topk"}), top=3)
    assert np.abs(whole.logprob - wanted[at]).max() < 1e-4
    assert np.abs(short.logprob - wanted[at][2:8]).max() < 1e-4
    assert np.abs(whole.topk_logprobs - np.sort(wanted[:-1])[:, ::-1][:, :3]).max() < 1e-4

    # Sampled greedily beside a prompt of another length: each token is the likeliest, or as likely to rounding.
    requests = [Request(ids[:12], "a", 0), Request(ids[:5], "b", 0)]
    found = engine.generate(requests, frozenset(), SamplingParams(temperature=0, max_new_tokens=6), 0)
    for request, completion in zip(requests, found, strict=True):
        after = zoo.logprobs(model, np.concatenate([request.prompt, completion.ids]))[len(request.prompt) - 1 : -1]
        assert np.abs(after.max(axis=1) - after[np.arange(6), completion.ids]).max() < 1e-4

    # Saved and loaded again: the same model, and the same states of its decoder.
    loaded.save_pretrained(tmp_path / "again")
    again = HFEngine(load_causal_lm(tmp_path / "again", CPU), "it")
    assert np.abs(again.score([ids], [1], frozenset({"logprob"}))[0].logprob - wanted[at]).max() < 1e-4
    trunk = load_trunk(folder, CPU)
    with torch.inference_mode():
        states, own = (one(input_ids=torch.tensor(ids)[None]).last_hidden_state for one in (trunk, engine.trunk))
    assert float((states - own).abs().max()) < 1e-5


def test_trained(animal):
    """What trainers call has the log-probs and the gradients of transformers' own forward."""
    model, folder = animal
    trained = load_causal_lm(folder, CPU).train()
    give_logprobs(trained, "it")
    ids = torch.from_numpy(np.random.default_rng(1).integers(6, VOCABULARY, size=(1, 24)))
    n = ids.shape[1] - 3
    values = trained(input_ids=ids, rows=torch.zeros(n, dtype=torch.long), columns=torch.arange(3, 24))["values"]
    values.sum().backward()
    plain = model.train()(input_ids=ids).logits.log_softmax(-1)[0, 2:-1].gather(1, ids[0, 3:, None])[:, 0]
    plain.sum().backward()
    assert float((values - plain).detach().abs().max()) < 1e-4
    wanted = dict(model.named_parameters())
    for name, weight in trained.named_parameters():
        (own,) = {name, name.replace("model.", "language_model.model.", 1), f"language_model.{name}"} & wanted.keys()
        if wanted[own].grad is not None:  # experts that nothing came to have none
            scale = max(1.0, float(wanted[own].grad.abs().max()))
            assert float((weight.grad - wanted[own].grad).abs().max()) < 1e-3 * scale, name
