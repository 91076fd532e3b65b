from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel

from prmbench.stats.seeds import ordering, seed_mean

figures = st.lists(st.floats(-5, 5), min_size=2, max_size=10).filter(lambda x: np.std(x) > 1e-3)


@given(figures)
def test_interval_equals_scipy(values):
    found = seed_mean(values, 0.9)
    wanted = ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), wanted.low, wanted.high))


@pytest.mark.filterwarnings("ignore:Precision loss")  # scipy's, of nearly equal differences
@given(figures, st.randoms())
def test_ordering_equals_a_paired_test(values, random):
    other = [v + random.uniform(-1, 1.5) for v in values]
    difference, verdict = ordering(other, values)
    test = ttest_rel(other, values)
    if test.pvalue < 0.05:
        assert verdict == ("appears" if difference.mean > 0 else "does not appear")
    else:
        assert verdict == "undecided"


def test_hand_worked():
    # Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.3027.
    difference, verdict = ordering([2, 4, 6], [1, 2, 3])
    assert difference.low == pytest.approx(2 - 4.302653 / 3**0.5)
    assert verdict == "undecided"
    assert ordering([10, 10.1, 10.2], [1, 1, 1])[1] == "appears"
    assert ordering([1, 1, 1], [10, 10.1, 10.2])[1] == "does not appear"
    assert ordering([1.0], [0.0])[1] == "undecided"  # one seed says nothing
