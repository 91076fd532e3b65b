from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.stats.repeats import majority, mean_resamples, pass_at_k


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_equals_enumeration(correct, data):
    k = data.draw(st.integers(1, len(correct)))
    drawn = [any(subset) for subset in itertools.combinations(correct, k)]
    assert pass_at_k(len(correct), sum(correct), k) == pytest.approx(np.mean(drawn))


def test_pass_at_k_refuses_what_makes_no_sense():
    for n, c, k in ((4, 1, 5), (4, 5, 1), (4, 1, 0), (4, -1, 1)):
        with pytest.raises(ValueError, match="expected 1 <= k <= n"):
            pass_at_k(n, c, k)


def test_majority_hand_worked():
    right, wrong = True, False
    assert majority([0, 0, 1], [right, right, wrong]) == 1
    assert majority([0, 1, 1], [right, wrong, wrong]) == 0
    assert majority([0, 1], [right, wrong]) == 0.5  # a tie
    assert majority([0, 1, 2], [right, wrong, wrong]) == pytest.approx(1 / 3)
    assert majority([0, -1, -1], [right, wrong, wrong]) == 1  # what has no answer does not vote
    assert majority([-1, -1], [wrong, wrong]) == 0
    assert majority([0, 1, 1], [right, wrong, wrong], [3.0, 1.0, 1.0]) == 1
    assert majority([0, 1, 1], [right, wrong, wrong], [0.3, 0.1, 0.2]) == 0.5  # 0.1 + 0.2 is a tie, up to rounding
    with pytest.raises(ValueError, match=r"a vote weighs -1"):
        majority([0], [right], [-1.0])


@given(st.lists(st.tuples(st.integers(-1, 3), st.floats(0, 2)), min_size=1, max_size=8))
def test_majority_equals_a_plain_count(votes):
    answers, weights = [a for a, _ in votes], [w for _, w in votes]
    correct = [a == 0 for a in answers]
    totals = {a: sum(w for b, w in votes if b == a) for a in set(answers) - {-1}}
    if not totals:
        assert majority(answers, correct, weights) == 0
        return
    best = max(totals.values())
    winners = [a for a, t in totals.items() if abs(t - best) <= 1e-12 * best]
    assert majority(answers, correct, weights) == pytest.approx((0 in winners) / len(winners))


@given(st.integers(2, 30), st.integers(1, 3), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_resamples_have_the_mean_and_spread_of_resampling(n, m, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, m))
    found = mean_resamples(values, n_resamples=4000, rng=rng)
    assert found.shape == (4000, m)
    spread = values.std(axis=0) / np.sqrt(n)
    assert np.abs(found.mean(axis=0) - values.mean(axis=0)).max() < 6 * spread.max() / np.sqrt(4000) + 1e-12
    assert found.std(axis=0) == pytest.approx(spread, rel=0.15)
    assert mean_resamples(values[:, 0], n_resamples=3, rng=rng).shape == (3,)
    assert mean_resamples(values, n_resamples=0, rng=rng).shape == (0, m)


def test_intervals_cover(request):
    """Problems of different difficulty, eight completions each: an interval that resamples problems covers the truth."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        p = rng.beta(0.5, 0.8, size=60)
        values = rng.binomial(8, p) / 8
        low, high = np.quantile(mean_resamples(values, n_resamples=500, rng=rng), [0.025, 0.975])
        covered += low <= 0.5 / 1.3 <= high
    assert 180 <= covered <= 199
