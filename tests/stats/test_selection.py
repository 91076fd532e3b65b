from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.stats.repeats import majority
from prmbench.stats.selection import (
    aggregate,
    expected_best,
    expected_vote,
    first_best,
    selection_weights,
    subsets,
)

candidates = st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=1, max_size=8)


@given(candidates, st.data())
@settings(max_examples=200, deadline=None)
def test_expected_equals_enumeration_of_all_subsets(drawn, data):
    """Few score levels, so ties are everywhere."""
    size = data.draw(st.integers(1, len(drawn)))
    scores, correct = np.array([s for s, _ in drawn], dtype=np.float64), np.array([c for _, c in drawn])
    outcomes = []
    for subset in itertools.combinations(range(len(drawn)), size):
        best = max(scores[i] for i in subset)
        tied = [bool(correct[i]) for i in subset if scores[i] == best]
        outcomes.append(sum(tied) / len(tied))
    assert expected_best(scores, correct, size) == pytest.approx(np.mean(outcomes), abs=1e-12)
    weights = selection_weights(scores, size)
    assert weights.sum() == pytest.approx(1)
    assert expected_best(scores, correct, 1) == pytest.approx(correct.mean())  # one candidate: the mean
    assert first_best(scores, correct, size) == pytest.approx(
        np.mean([c for s, c in drawn[:size] if s == max(s for s, _ in drawn[:size])])
    )


def test_hand_worked():
    # Scores 3 > 2 = 2 > 1; subsets of 2 of 4: the 3 is in three of six; one of the 2s wins two (with 1) and both share one.
    weights = selection_weights(np.array([2.0, 3.0, 1.0, 2.0]), 2)
    assert weights == pytest.approx([(1 + 0.5) / 6, 3 / 6, 0, (1 + 0.5) / 6])
    large = selection_weights(np.arange(1024, dtype=np.float64), 64)  # no overflow
    assert large[-1] == pytest.approx(64 / 1024)
    assert large[:63].tolist() == [0.0] * 63
    infinite = selection_weights(np.array([-np.inf, 0.0, -np.inf]), 2)
    assert infinite == pytest.approx([1 / 6, 2 / 3, 1 / 6])


def test_wrong_use_is_refused():
    for size in (0, 3):
        with pytest.raises(ValueError, match="expected 1 <= N <= 2"):
            selection_weights(np.array([1.0, 2.0]), size)
        with pytest.raises(ValueError, match="expected 1 <= N <= 2"):
            first_best(np.array([1.0, 2.0]), np.array([True, False]), size)
    with pytest.raises(ValueError, match="NaN"):
        selection_weights(np.array([1.0, np.nan]), 1)
    with pytest.raises(ValueError, match="unknown aggregation"):
        aggregate([1.0], "max")


@given(
    st.lists(st.tuples(st.integers(-1, 3), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=7),
    st.booleans(),
    st.data(),
)
def test_expected_vote_equals_one_vote_at_a_time(votes, weighted, data):
    answers, weights = [a for a, _ in votes], np.array([w for _, w in votes])
    correct = np.array([a == 0 for a in answers])
    drawn = list(itertools.combinations(range(len(votes)), data.draw(st.integers(1, len(votes)))))
    one_by_one = [
        majority(
            [answers[i] for i in subset],
            [bool(correct[i]) for i in subset],
            [float(weights[i]) for i in subset] if weighted else None,
        )
        for subset in drawn
    ]
    assert expected_vote(answers, correct, weights if weighted else None, drawn) == pytest.approx(np.mean(one_by_one))


def test_subsets():
    rng = np.random.default_rng(0)
    assert subsets(4, 2, 6, rng) == list(itertools.combinations(range(4), 2))
    drawn = subsets(10, 3, 50, rng)
    assert len(drawn) == 50
    assert all(len(set(s)) == 3 and max(s) < 10 for s in drawn)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=6))
def test_aggregations(x):
    assert aggregate(x, "min") == min(x)
    assert aggregate(x, "last") == x[-1]
    assert aggregate(x, "mean") == pytest.approx(sum(x) / len(x))
    product = math.prod(1 / (1 + math.exp(-v)) for v in x)
    if product > 1e-300:
        assert aggregate(x, "product") == pytest.approx(math.log(product), rel=1e-6, abs=1e-12)
    assert aggregate([], "min") == -math.inf


def test_classes_may_have_any_numbers():
    """A class of a stranger's file is no size of a table."""
    correct, drawn = np.array([True, False, False]), [(0, 1, 2), (0, 1), (1, 2)]
    wanted = expected_vote([0, 1, 1], correct, None, drawn)
    assert expected_vote([7, 10**14, 10**14], correct, None, drawn) == wanted
    many = expected_vote(range(20_000), np.arange(20_000) < 10_000, None, [tuple(range(20_000))] * 20)
    assert many == pytest.approx(0.5)
