from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.stats.bootstrap import f1_resamples
from prmbench.stats.paired import (
    f1_difference,
    f1_difference_resamples,
    holm,
    mcnemar,
    ranks_with_ties,
    two_sided_p,
)

outcomes = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=30)


def columns(rows):
    return [np.array(column) for column in zip(*rows, strict=True)]


def slow_f1(hits, has_error):
    error = [h for h, e in zip(hits, has_error, strict=True) if e]
    correct = [h for h, e in zip(hits, has_error, strict=True) if not e]
    if not error or not correct:
        return float("nan")
    a, b = sum(error) / len(error), sum(correct) / len(correct)
    return 2 * a * b / (a + b) if a + b else 0.0


@given(outcomes)
def test_difference_is_that_of_two_f1(rows):
    first, second, has_error = columns(rows)
    wanted = slow_f1(first, has_error) - slow_f1(second, has_error)
    assert f1_difference(first, second, has_error) == pytest.approx(wanted, abs=1e-12, nan_ok=True)


@given(outcomes)
def test_mcnemar_is_the_exact_binomial(rows):
    first, second, _ = columns(rows)
    found = mcnemar(first, second)
    b, c = sum(x and not y for x, y, _ in rows), sum(y and not x for x, y, _ in rows)
    n = b + c
    tail = sum(math.comb(n, k) for k in range(n + 1) if math.comb(n, k) <= math.comb(n, b)) / 2**n
    assert (found.only_first, found.only_second) == (b, c)
    assert found.p == pytest.approx(min(1.0, tail))


def test_resamples_are_those_of_drawing_items():
    rng = np.random.default_rng(0)
    has_error = rng.random(80) < 0.5
    first = rng.random(80) < 0.6
    second = np.where(rng.random(80) < 0.7, first, rng.random(80) < 0.4)
    found = f1_difference_resamples(first, second, has_error, n_resamples=20_000, rng=np.random.default_rng(1))
    slow = []
    for i in range(2_000):
        draw = np.random.default_rng([2, i]).integers(80, size=80)
        slow.append(slow_f1(first[draw], has_error[draw]) - slow_f1(second[draw], has_error[draw]))
    assert found.mean() == pytest.approx(np.mean(slow), abs=0.005)
    assert found.std() == pytest.approx(np.std(slow), rel=0.06)
    # Pairing matters: the two alone vary more than their difference.
    alone = [
        f1_resamples(h, has_error, n_resamples=20_000, rng=np.random.default_rng(i))["f1"]
        for i, h in enumerate((first, second))
    ]
    assert found.std() < 0.9 * np.sqrt(alone[0].var() + alone[1].var())


def test_the_same_subject_twice_never_differs():
    rng = np.random.default_rng(0)
    hits, has_error = rng.random(50) < 0.5, rng.random(50) < 0.5
    samples = f1_difference_resamples(hits, hits, has_error, n_resamples=500, rng=rng)
    assert (samples == 0).all()
    assert two_sided_p(samples) == 1.0


def test_two_sided_p():
    assert two_sided_p(np.array([1.0] * 99)) == pytest.approx(2 / 100)
    assert two_sided_p(np.array([1.0] * 50 + [-1.0] * 49 + [np.nan])) == pytest.approx(1.0)
    assert two_sided_p(np.array([np.nan])) == 1.0


def test_under_no_difference_p_is_uniform():
    """Two coins of one bias: p below 0.1 in about a tenth of experiments."""
    rng = np.random.default_rng(5)
    small = 0
    for _ in range(300):
        first, second = rng.random((2, 120)) < 0.5
        has_error = np.arange(120) % 2 == 0
        p = two_sided_p(f1_difference_resamples(first, second, has_error, n_resamples=400, rng=rng))
        small += p < 0.1
    assert 0.05 < small / 300 < 0.17


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test(p):
    """Adjusted p of i: the largest, over all sets of hypotheses with i, of the Bonferroni p of the set."""
    wanted = []
    for i in range(len(p)):
        others = [j for j in range(len(p)) if j != i]
        sets = [(i, *extra) for r in range(len(p)) for extra in itertools.combinations(others, r)]
        wanted.append(max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets))
    assert holm(p) == pytest.approx(wanted)


def test_ranks():
    differs = [[False, False, True], [False, False, True], [True, True, False]]
    assert ranks_with_ties([0.5, 0.6, 0.2], differs) == [1, 1, 3]
    assert ranks_with_ties([0.5, 0.6, 0.2], [[False] * 3] * 3) == [1, 1, 1]
    # The noisy last one differs from nobody, yet it is not above the second, which the first beats.
    differs = [[False, True, False], [True, False, False], [False, False, False]]
    assert ranks_with_ties([0.6, 0.5, 0.4], differs) == [1, 2, 2]


@given(outcomes, st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_the_other_order_gives_the_same_draws_with_the_other_sign(rows, seed):
    """So that no p depends on which of two subjects is named first."""
    first, second, has_error = columns(rows)
    one, other = (
        f1_difference_resamples(a, b, has_error, n_resamples=40, rng=np.random.default_rng(seed))
        for a, b in ((first, second), (second, first))
    )
    if (first != second).any():
        np.testing.assert_array_equal(one, -other)
