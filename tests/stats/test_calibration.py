from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from prmbench.stats.calibration import brier, ece_rows, margin_logit, reliability, sigmoid, softplus

predictions = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


@given(st.floats(0.02, 0.98), st.floats(0, 8))
@settings(max_examples=80, deadline=None)
def test_margin_link_is_that_of_the_loss_minimum(p, margin):
    def loss(v):
        return p * softplus(np.float64(margin - v)) + (1 - p) * softplus(np.float64(v + margin))

    best = minimize_scalar(loss, bounds=(-30, 30), method="bounded", options={"xatol": 1e-9}).x
    assert float(sigmoid(margin_logit(best, margin))) == pytest.approx(p, abs=2e-4)


def test_margin_link_hand_worked():
    # m = 5, p = 0.6 is at a value whose plain sigmoid is 0.987.
    v = math.log(0.987 / 0.013)
    assert float(sigmoid(margin_logit(v, 5.0))) == pytest.approx(0.6, abs=3e-3)
    assert margin_logit(np.array([0.0, 3.0]), 0.0).tolist() == pytest.approx([0.0, 3.0])
    assert float(margin_logit(0.0, 5.0)) == 0.0
    assert float(margin_logit(1000.0, 5.0)) == pytest.approx(995.0)
    assert float(margin_logit(-1000.0, 5.0)) == pytest.approx(-995.0)


@given(predictions)
@settings(max_examples=80, deadline=None)
def test_brier_and_bins_equal_sklearn(pairs):
    p, y = (np.array(x, dtype=np.float64) for x in zip(*pairs, strict=True))
    assert brier(p, y) == pytest.approx(brier_score_loss(y, p, pos_label=1), abs=1e-12)
    found = reliability(p, y, n_bins=5)
    if not np.any(np.isin(p, np.arange(1, 5) / 5)):  # the edges' own bin is a convention
        observed, predicted = calibration_curve(y, p, n_bins=5)
        some = found.share > 0
        assert found.observed[some] == pytest.approx(observed)
        assert found.predicted[some] == pytest.approx(predicted)
    assert found.share.sum() == pytest.approx(1)


def test_ece_hand_worked():
    # Two bins: 0.2 and 0.4 (one right of two), 0.9 (right). ECE = 2/3 * |0.3 - 0.5| + 1/3 * |0.9 - 1|.
    found = reliability(np.array([0.2, 0.4, 0.9]), np.array([0.0, 1.0, 1.0]), n_bins=2)
    assert found.ece() == pytest.approx(2 / 3 * 0.2 + 1 / 3 * 0.1)


@given(predictions, st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_a_weight_is_a_repetition(pairs, times):
    p, y = (np.array(x, dtype=np.float64) for x in zip(*pairs, strict=True))
    w = np.ones(len(p))
    w[0] = times
    repeated = np.concatenate([p, np.full(times - 1, p[0])]), np.concatenate([y, np.full(times - 1, y[0])])
    assert brier(p, y, w) == pytest.approx(brier(*repeated))
    assert reliability(p, y, w).ece() == pytest.approx(reliability(*repeated).ece())


def test_wrong_probabilities_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        reliability(np.array([1.2]), np.array([1.0]))
    with pytest.raises(ValueError, match="at least one"):
        reliability(np.array([]), np.array([]))


def test_ece_under_weights_is_that_of_repeated_items():
    rng = np.random.default_rng(0)
    p, outcome = rng.random(40), rng.integers(2, size=40).astype(float)
    p[:2] = 0.0, 1.0
    counts = rng.integers(0, 4, size=(5, 40))
    found = ece_rows(p, outcome, counts.astype(float), 7)
    for row, ece in zip(counts, found, strict=True):
        again = reliability(np.repeat(p, row), np.repeat(outcome, row), n_bins=7)
        assert ece == pytest.approx(again.ece())
