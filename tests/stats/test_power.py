from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.stats.power import pairs_needed, power_of, smallest_effect


def test_textbook():
    """A paired t-test of effect 0.5 at 80% power takes 34 pairs (G*Power and Cohen's tables)."""
    assert pairs_needed(0.5, 1.0) == 34
    assert pairs_needed(0.2, 1.0) == 199
    assert pairs_needed(-0.5, 1.0) == 34
    assert power_of(34, 0.5, 1.0) == pytest.approx(0.808, abs=0.001)


def test_simulation():
    """The share of 20,000 simulated tests that decide, within four standard errors."""
    rng, n, effect, sd = np.random.default_rng(0), 9, 1.4, 1.5
    x = rng.normal(effect, sd, size=(20_000, n))
    from scipy.stats import t

    low = x.mean(1) - t.ppf(0.975, n - 1) * x.std(1, ddof=1) / math.sqrt(n)
    assert np.mean(low > 0) == pytest.approx(power_of(n, effect, sd), abs=4 * 0.5 / math.sqrt(20_000))


@given(st.floats(0.05, 5), st.floats(0.1, 3))
@settings(max_examples=50, deadline=None)
def test_the_smallest_number_is_the_smallest(effect, sd):
    n = pairs_needed(effect, sd)
    assert power_of(n, effect, sd) >= 0.8
    assert n == 2 or power_of(n - 1, effect, sd) < 0.8
    assert power_of(n, smallest_effect(n, sd), sd) == pytest.approx(0.8, abs=1e-6)
    assert smallest_effect(n, sd) <= effect * (1 + 1e-6)


def test_edges():
    assert pairs_needed(0.0, 1.0) is None
    assert pairs_needed(1e-9, 1.0) is None
    assert pairs_needed(1.0, 0.0) == 2
    assert smallest_effect(1, 1.0) == math.inf
    assert smallest_effect(5, 0.0) == 0.0


def test_what_is_no_number_decides_nothing():
    assert pairs_needed(math.nan, 1.0) is None
    assert pairs_needed(1.0, math.nan) is None
    assert math.isnan(smallest_effect(5, math.nan))


def test_up_to_ten_million_pairs_are_looked_for():
    """Between 2^23 and ten million there is an answer, too."""
    n = pairs_needed(0.001, 1.1)
    assert n == pytest.approx((1.96 + 0.8416) ** 2 * 1.1**2 / 0.001**2, rel=1e-3)
    assert 2**23 < n < 10_000_000
    assert pairs_needed(0.001, 1.2) is None
