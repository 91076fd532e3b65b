from __future__ import annotations

import numpy as np
import pytest

from prmbench.stats.nested import nested_interval


def test_one_seed_is_the_bootstrap_of_its_items():
    x = np.random.default_rng(0).normal(size=50)
    mean, low, high = nested_interval([x], 4_000, np.random.default_rng(1))
    draws = [np.random.default_rng([2, i]).choice(x, 50).mean() for i in range(4_000)]
    assert mean == x.mean()
    assert (low, high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.02)


def test_variance_is_that_of_both_levels():
    """Seed effects with variance 1, items with variance 4, 20 seeds of 25 items: 1/20 + 4/500."""
    rng = np.random.default_rng(3)
    widths = []
    for _ in range(20):
        data = [rng.normal() + 2 * rng.normal(size=25) for _ in range(20)]
        _, low, high = nested_interval(data, 400, rng)
        widths.append((high - low) / 3.92)
    assert np.mean(widths) == pytest.approx(np.sqrt(1 / 20 + 4 / 500), rel=0.1)


def test_equal_differences_have_no_width():
    assert nested_interval([np.full(4, 0.5)] * 3, 100, np.random.default_rng(0)) == (0.5, 0.5, 0.5)
