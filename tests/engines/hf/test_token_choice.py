from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from prmbench.engines.hf.token_choice import choose
from prmbench.engines.sampling import SamplingParams


def draw(logits, params, n=20_000, seed=0):
    uniform = torch.from_numpy(np.random.default_rng(seed).random(n))
    return choose(torch.tensor(logits).repeat(n, 1), uniform, params).numpy()


def test_frequencies_are_the_softmax():
    logits = [0.0, 1.0, -1.0, 2.0, 0.5]
    counts = np.bincount(draw(logits, SamplingParams(temperature=0.7)), minlength=5)
    expected = torch.softmax(torch.tensor(logits).double() / 0.7, -1).numpy()
    assert stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 1e-3


def slow_allowed(logits, params, tolerance=1e-6):
    """Tokens that top-k and top-p leave, by what is clearly likelier than each: float32 may not tell near ones apart."""
    probs = torch.softmax(torch.tensor(logits).double(), -1).tolist()
    allowed = set()
    for i, prob in enumerate(probs):
        likelier = [other for other in probs if other > prob * (1 + tolerance)]
        if len(likelier) < (params.top_k or len(probs)) and sum(likelier) < params.top_p + tolerance:
            allowed.add(i)
    return allowed


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=8, unique=True),
    st.sampled_from([0.3, 0.5, 0.9, 1.0]),
    st.integers(0, 5),
    st.floats(0, 1, exclude_max=True),
)
@example([0.0, 2**-7, 2**-126, -1.0], 0.3, 0, 0.0)  # two that differ, and are one after the largest is subtracted
@example([0.0, 1e-8], 0.5, 0, 0.9)  # the first may reach the mass or not
@settings(max_examples=300, deadline=None)
def test_only_allowed_tokens_are_chosen(logits, top_p, top_k, uniform):
    params = SamplingParams(top_p=top_p, top_k=top_k)
    found = int(choose(torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64), params)[0])
    assert found in slow_allowed(logits, params)


def test_top_p_keeps_the_token_that_crosses_the_mass():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).tolist()
    assert set(draw(logits, SamplingParams(top_p=0.6), 2000)) == {0, 1}
    assert set(draw(logits, SamplingParams(top_k=1), 200)) == {0}


def test_temperature_zero_is_greedy():
    assert set(draw([0.0, 3.0, 1.0], SamplingParams(temperature=0), 50)) == {1}


def test_a_uniform_next_to_one_stays_inside():
    params = SamplingParams()
    logits = torch.tensor([[1.0, 2.0, float("-inf"), float("-inf")]])
    assert int(choose(logits, torch.tensor([1 - 2**-53], dtype=torch.float64), params)[0]) == 1


@given(
    st.integers(0, 10_000),
    st.sampled_from([0.2, 0.7, 0.95, 0.9999, 1.0]),
    st.sampled_from([0, 1, 7, 40, 900]),
    st.sampled_from([0.02, 0.3, 1.0, 5.0]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_equals_a_sort_of_everything(seed, top_p, top_k, temperature, ties):
    """The same token as from a thousand tokens sorted in float64: peaked rows, flat rows, many ties."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(6, 1_000))).float()
    if ties:
        logits = (2 * logits).round() / 2
    uniform = torch.from_numpy(rng.random(6))
    found = choose(logits.clone(), uniform, SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k)).tolist()
    probs = torch.softmax(logits.double() / temperature, -1)
    order = probs.argsort(dim=-1, descending=True, stable=True)
    for row in range(6):
        ranked = probs[row, order[row]]
        keep = ranked.cumsum(0) - ranked < top_p
        keep[top_k or 1_000 :] = False
        allowed = torch.zeros(1_000, dtype=torch.float64)
        allowed[order[row][keep]] = ranked[keep]
        edges = torch.cat([torch.zeros(1), allowed.cumsum(0)]) / allowed.sum()
        token = found[row]
        assert allowed[token] > 0 or abs(float((ranked.cumsum(0) - top_p).abs().min())) < 1e-6
        assert edges[token] - 1e-6 <= uniform[row] <= edges[token + 1] + 1e-6


def test_logits_that_are_not_finite():
    for bad in (float("nan"), float("inf")):
        for params in (SamplingParams(), SamplingParams(temperature=0), SamplingParams(top_p=0.9)):
            with pytest.raises(FloatingPointError, match="not finite"):
                choose(torch.tensor([[0.0, 1.0], [0.0, bad]]), torch.tensor([0.5, 0.5]).double(), params)
    with pytest.raises(FloatingPointError, match="not finite"):
        choose(torch.full((1, 300), -torch.inf), torch.tensor([0.5]).double(), SamplingParams())
