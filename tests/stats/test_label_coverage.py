"""How often the intervals of labels hold the true rate: computed, not simulated, and compared with the table on the page."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, binom, norm

from prmbench.policies.state_counts import LabelOptions
from prmbench.stats.rollout_labels import decided, share_intervals

PAGE = Path(__file__).resolve().parents[2] / "docs" / "labels.md"
RATES = np.linspace(0.005, 0.995, 199)


def wilson(s, n):
    z = norm.ppf(0.975)
    centre, half = s / n + z * z / (2 * n), z * np.sqrt(s / n * (1 - s / n) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def jeffreys(s, n):
    low, high = beta.ppf(0.025, s + 0.5, n - s + 0.5), beta.ppf(0.975, s + 0.5, n - s + 0.5)
    return np.where(s > 0, low, 0.0), np.where(s < n, high, 1.0)


def coverage(k, rule, threshold, *, adaptive, interval=None):
    """Chance that the interval holds each of `RATES`, and the mean share of continuations spent. All outcomes are summed."""
    options = LabelOptions(k, rule, threshold, adaptive)
    edges = np.linspace(0, k, options.looks + 1).round().astype(int).tolist()
    covered, spent = np.zeros(len(RATES)), np.zeros(len(RATES))
    going = np.zeros((len(RATES), k + 1))  # the chance of so many successes, where the state was not left
    going[:, 0] = 1.0
    for first, n in itertools.pairwise(edges):
        more = binom.pmf(np.arange(n - first + 1), n - first, RATES[:, None])
        now = np.zeros_like(going)
        for j in range(n - first + 1):
            now[:, j:] += going[:, : k + 1 - j] * more[:, [j]]
        successes, trials = np.arange(n + 1), np.full(n + 1, n)
        over = np.full(n + 1, n == k)
        if options.adaptive:
            over |= decided(successes, trials, rule, options.limit, options.looks)
        low, high = interval(successes, trials) if interval else share_intervals(successes, trials, options.looks)
        left = now[:, : n + 1] * over
        covered += (left * (low <= RATES[:, None]) * (RATES[:, None] <= high)).sum(axis=1)
        spent += left.sum(axis=1) * n / k
        now[:, : n + 1] -= left
        going = now
    return covered, float(spent.mean())


@pytest.mark.parametrize("k", [2, 5, 16, 40])
@pytest.mark.parametrize(
    ("rule", "threshold"), [("any", 0.5), ("threshold", 0.5), ("threshold", 0.3), ("threshold", 0.9)]
)
def test_no_rate_is_covered_less_often_than_the_level(rule, threshold, k):
    for adaptive in (True, False):
        assert coverage(k, rule, threshold, adaptive=adaptive)[0].min() >= 0.95


def test_stopping_early_breaks_intervals_that_do_not_know_of_it():
    """Why each look has a part of the error."""
    assert coverage(64, "threshold", 0.3, adaptive=True, interval=share_intervals)[0].min() < 0.93
    assert coverage(64, "threshold", 0.3, adaptive=True)[0].min() > 0.975


def test_the_table_on_the_page():
    rows = re.findall(
        r"^\| (\d+) \| (no|`any`|`threshold` ([\d.]+)) \| (\d+)% \| (.+) \|$",
        PAGE.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert len(rows) == 8
    for k, what, threshold, spent, cells in rows:
        rule = "threshold" if threshold else "any"
        of = (int(k), rule, float(threshold or 0.5))
        found = [
            coverage(*of, adaptive=what != "no", interval=one) for one in (None, share_intervals, wilson, jeffreys)
        ]
        assert [f"{100 * covered.min():.1f}" for covered, _ in found] == cells.split(" | "), (k, what)
        assert f"{100 * found[0][1]:.0f}" == spent
