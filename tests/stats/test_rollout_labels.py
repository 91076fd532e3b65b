"""Intervals of shares against SciPy's exact test, their coverage in simulation, and the rules by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from prmbench.stats.rollout_labels import decided, right_steps, share_intervals


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=6), st.sampled_from([1, 4]))
def test_intervals_are_those_of_the_exact_test(pairs, looks):
    successes, trials = np.array([min(k, n) for k, n in pairs]), np.array([n for _, n in pairs])
    low, high = share_intervals(successes, trials, looks)
    for i, (k, n) in enumerate(zip(successes.tolist(), trials.tolist(), strict=True)):
        exact = binomtest(k, n).proportion_ci(1 - 0.05 / looks, method="exact")
        assert [low[i], high[i]] == pytest.approx([exact.low, exact.high])


def test_nothing_is_known_without_trials():
    assert [one.tolist() for one in share_intervals(np.array([0]), np.array([0]))] == [[0.0], [1.0]]


@pytest.mark.parametrize("rule", ["any", "threshold", "none"])
def test_intervals_cover_even_where_sampling_stops_early(rule):
    rng, k, looks = np.random.default_rng(0), 16, 4
    for p in (0.02, 0.1, 0.3, 0.5, 0.55, 0.9):
        tosses = rng.random((4000, k)) < p
        stop = np.full(len(tosses), k)
        if rule != "none":
            for n in (12, 8, 4):
                successes = tosses[:, :n].sum(axis=1)
                stop = np.where(decided(successes, np.full(len(tosses), n), rule, 0.5, looks), n, stop)
        successes = np.array([row[:n].sum() for row, n in zip(tosses, stop, strict=True)])
        low, high = share_intervals(successes, stop, 1 if rule == "none" else looks)
        assert np.mean((low <= p) & (p <= high)) >= 0.95, (rule, p)
        if rule != "none" and p == 0.9:
            assert stop.mean() < 13  # it does stop


def test_rules_by_hand():
    values = np.array([0.5, 0.25, 0.0, 0.75])
    assert right_steps(values, 0.5, "any", 0.5).tolist() == [True, True, False, True]
    assert right_steps(values, 0.5, "threshold", 0.5).tolist() == [True, False, False, True]
    assert right_steps(values, 0.5, "gain", 0.0).tolist() == [True, False, False, True]
    assert right_steps(values, 0.75, "gain", -0.25).tolist() == [True, True, False, True]
    assert right_steps(np.array([0.0, 0.0]), 0.0, "gain", 0.0).tolist() == [False, False]


def test_what_is_decided():
    successes, trials = np.array([0, 1, 4, 0]), np.array([4, 4, 4, 4])
    assert decided(successes, trials, "any", 0.5, 4).tolist() == [False, True, True, False]
    assert decided(successes, trials, "gain", 0.5, 4).tolist() == [False] * 4
    # At 1.25% error a look, 4 of 4 reaches down to 0.28 and 0 of 4 up to 0.72.
    assert decided(successes, trials, "threshold", 0.25, 4).tolist() == [False, False, True, False]
    assert decided(successes, trials, "threshold", 0.75, 4).tolist() == [True, False, False, True]


@pytest.mark.parametrize(("truth", "mean"), [(0.1, 0.18), (0.3, 0.41)])
def test_values_of_a_run_that_stops_at_a_success_are_too_high(truth, mean):
    """The figures of docs/labels.md: eight continuations, looked at after every two of them."""
    found = np.random.default_rng(0).random((200_000, 8)) < truth
    successes = np.cumsum(found, axis=1)[:, 1::2]
    trials = np.arange(2, 9, 2)
    stopped = np.stack(
        [decided(one, np.full(len(one), n), "any", 0.5, 4) for one, n in zip(successes.T, trials, strict=True)], 1
    )
    last = np.where(stopped.any(axis=1), stopped.argmax(axis=1), 3)
    values = successes[np.arange(len(last)), last] / trials[last]
    assert values.mean() == pytest.approx(mean, abs=0.007)
