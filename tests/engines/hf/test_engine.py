from __future__ import annotations

import numpy as np
import pytest
import support
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from prmbench.engines.hf import engine as hf
from prmbench.engines.hf import head
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.errors import UserError

ALL = frozenset(hf.QUANTITIES)


def reference(model, ids, first):
    """Full logits of one sequence alone, in float64."""
    with torch.no_grad():
        logits = model.double()(torch.tensor(ids)[None]).logits[0]
    model.float()
    at = logits[first - 1 : len(ids) - 1]
    logprobs = torch.log_softmax(at, dim=-1)
    targets = torch.tensor(ids[first:])[:, None]
    return {
        "logit": at.gather(1, targets)[:, 0].numpy(),
        "logsumexp": torch.logsumexp(at, dim=-1).numpy(),
        "logprob": logprobs.gather(1, targets)[:, 0].numpy(),
        "all": logprobs.numpy(),
    }


@pytest.fixture(scope="module")
def engine():
    return HFEngine(support.tiny_llama(97, seed=3))


@pytest.fixture(scope="module")
def sequences():
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 97, size=n) for n in (40, 7, 23, 2, 40, 31)]
    return ids, [11, 1, 22, 1, 39, 5]


@pytest.mark.parametrize("tile", [None, (7, 20)])
def test_equals_full_float64_logits(engine, sequences, monkeypatch, tile):
    if tile:
        monkeypatch.setattr(hf, "TILE_ROWS", tile[0])
        monkeypatch.setattr(head, "tile_width", lambda device: tile[1])
    ids, first = sequences
    found = engine.score(ids, first, ALL, top=5)
    for row, start, scores in zip(ids, first, found, strict=True):
        expected = reference(engine.model, row, start)
        for name in ("logprob", "logit", "logsumexp"):
            values = getattr(scores, name)
            assert values.dtype == np.float64
            assert np.abs(values - expected[name]).max() < 1e-4
        best = np.argsort(-expected["all"], axis=1)[:, :5]
        assert (scores.topk_ids == best).all()
        assert np.abs(scores.topk_logprobs - np.take_along_axis(expected["all"], best, 1)).max() < 1e-4
        assert scores.hidden.shape == (len(row) - start, 32)


def test_only_what_is_asked_for(engine, sequences):
    found = engine.score(*sequences, frozenset({"logit"}))[0]
    assert found.logit is not None
    assert found.logprob is found.logsumexp is found.topk_ids is found.hidden is None
    with pytest.raises(ValueError, match="unknown quantities"):
        engine.score(*sequences, frozenset({"entropy"}))


def test_batch_composition_does_not_matter(engine, sequences):
    """The tolerance that the module states: 1e-4 a token in float32."""
    ids, first = sequences
    want = frozenset({"logprob"})
    together = engine.score(ids, first, want)
    order = [4, 0, 3, 5, 1, 2]
    shuffled = engine.score([ids[i] for i in order], [first[i] for i in order], want)
    for i in range(len(ids)):
        alone = engine.score([ids[i]], [first[i]], want)[0].logprob
        assert np.abs(together[i].logprob - alone).max() < 1e-4
        assert np.abs(shuffled[order.index(i)].logprob - alone).max() < 1e-4


def test_the_same_batch_gives_the_same_bits(engine, sequences):
    first, second = (engine.score(*sequences, frozenset({"logprob"})) for _ in range(2))
    assert all((a.logprob == b.logprob).all() for a, b in zip(first, second, strict=True))


@pytest.mark.slow
def test_smollm2_alone_and_in_a_batch(smollm2):
    engine = HFEngine(AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval())
    rng = np.random.default_rng(1)
    ids = [rng.integers(100, 40_000, size=n) for n in (90, 30, 61)]
    together = engine.score(ids, [5, 1, 30], frozenset({"logprob"}))
    for row, start, scores in zip(ids, [5, 1, 30], together, strict=True):
        alone = engine.score([row], [start], frozenset({"logprob"}))[0].logprob
        assert np.abs(scores.logprob - alone).max() < 1e-4


def test_half_precision_weights_keep_float32_results():
    model = support.tiny_llama(97, seed=3)
    rng = np.random.default_rng(2)
    ids = [rng.integers(0, 97, size=30)]
    exact = HFEngine(model).score(ids, [1], frozenset({"logprob"}))[0].logprob
    half = HFEngine(model.to(torch.bfloat16)).score(ids, [1], frozenset({"logprob"}))[0].logprob
    assert 0 < np.abs(half - exact).mean() < 0.05
    # Results on the grid of bfloat16 would repeat; float32 results do not.
    assert len({float(x) for x in half}) == len(half)


def _tiny(config_class, model_class, **extra):
    torch.manual_seed(0)
    config = config_class(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        **extra,
    )
    model = model_class(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(std=1.5)
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: _tiny(Gemma2Config, Gemma2ForCausalLM, final_logit_softcapping=5.0),
        lambda: _tiny(GraniteConfig, GraniteForCausalLM, logits_scaling=4.0),
    ],
)
def test_architectures_that_change_their_logits(make):
    engine = HFEngine(make())
    ids = [np.random.default_rng(0).integers(0, 61, size=20)]
    found = engine.score(ids, [3], frozenset({"logprob"}))[0].logprob
    assert np.abs(found - reference(engine.model, ids[0], 3)["logprob"]).max() < 1e-4


def test_a_soft_cap_is_found_on_weak_logits_in_half_precision():
    model = _tiny(Gemma2Config, Gemma2ForCausalLM, final_logit_softcapping=30.0)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.3)
    engine = HFEngine(model.to(torch.bfloat16))
    assert float(engine.finish(torch.tensor(10.0))) == pytest.approx(30 * np.tanh(1 / 3))


def test_an_unknown_change_of_logits_is_refused():
    model = support.tiny_llama(97)
    forward = model.forward

    def doubled(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits * 2
        return out

    model.forward = doubled
    with pytest.raises(UserError, match="changes its logits in a way that is not known"):
        HFEngine(model, "strange")


@pytest.mark.parametrize("tile", [None, (7, 20)])
def test_ids_without_a_meaning_have_no_probability(sequences, monkeypatch, tile):
    """Past the tokenizer, and in a gap: as if the output layer had no such rows."""
    if tile:
        monkeypatch.setattr(hf, "TILE_ROWS", tile[0])
        monkeypatch.setattr(head, "tile_width", lambda device: tile[1])
    allowed = np.setdiff1d(np.arange(90), [40, 41])
    model = support.tiny_llama(97, seed=3)
    engine = HFEngine(model, allowed=allowed)
    ids = [allowed[one % len(allowed)] for one in sequences[0]]
    first = sequences[1]
    found = engine.score(ids, first, ALL, top=5)
    for row, start, scores in zip(ids, first, found, strict=True):
        with torch.no_grad():
            logits = model.double()(torch.tensor(row)[None]).logits[0][start - 1 : len(row) - 1][:, allowed]
        model.float()
        wanted = logits.log_softmax(-1).numpy()
        at = np.arange(len(row) - start), np.searchsorted(allowed, row[start:])
        assert np.abs(scores.logprob - wanted[at]).max() < 1e-4
        assert np.abs(scores.logsumexp - logits.logsumexp(-1).numpy()).max() < 1e-4
        best = np.argsort(-wanted, axis=1)[:, :5]
        assert (scores.topk_ids == allowed[best]).all()
        assert np.abs(scores.topk_logprobs - np.take_along_axis(wanted, best, 1)).max() < 1e-4
        after = engine.next_logprobs(scores.hidden, row[start:, None])
        assert np.abs(after[:, 0] - wanted[at]).max() < 1e-4


@pytest.mark.parametrize("params", [{}, {"temperature": 0}, {"top_p": 0.9}, {"top_k": 60}, {"temperature": 1.5}])
def test_ids_without_a_meaning_are_never_sampled(params):
    model = support.tiny_llama(97, seed=3)
    with torch.no_grad():
        model.lm_head.weight[90:] *= 8  # else they would rarely be
    prompt = np.arange(5, 15)
    requests = [Request(prompt, f"k{i}", i) for i in range(8)]
    settings = SamplingParams(max_new_tokens=20, **params)
    free = HFEngine(model).generate(requests, frozenset(), settings, 0)
    assert max(one.ids.max() for one in free) >= 90
    held = HFEngine(model, allowed=np.arange(90)).generate(requests, frozenset(), settings, 0)
    assert max(one.ids.max() for one in held) < 90
    assert len({tuple(one.ids) for one in held}) == (1 if params == {"temperature": 0} else 8)
