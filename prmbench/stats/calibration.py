"""Calibration of predicted probabilities of correctness, and the two ways to read one off a prefix value (DESIGN 4.7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

N_BINS = 15


def softplus(x: Floats) -> Floats:
    """log(1 + exp(x)) without overflow."""
    return np.logaddexp(0.0, x)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-softplus(-np.asarray(x, dtype=np.float64)))


def margin_logit(value: Floats, margin: float) -> Floats:
    """Logit of the probability that a value trained with a margin stands for.

    The cross-entropy of Eq. 9 with outcome probability p, p softplus(m - v) + (1 - p) softplus(v + m), is least where
    p / (1 - p) = s(v + m) / s(m - v), s the sigmoid. With m = 0 this is v itself.

    Args:
        value: v_bar, any shape. margin: m >= 0.

    Returns:
        The same shape; 0 where the value is 0.
    """
    value = np.asarray(value, dtype=np.float64)
    return softplus(value - margin) - softplus(-value - margin)


def brier(probability: Floats, outcome: Floats, weight: Floats | None = None) -> float:
    """Mean squared difference of a probability and an outcome (0, 1, or an observed share).

    Args:
        probability, outcome: float64, shape [n]. weight: float64, shape [n]; None: equal.
    """
    return float(np.average((probability - outcome) ** 2, weights=weight))


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: bins of equal width over [0, 1], the last closed on the right.

    Attributes:
        predicted, observed: float64, shape [n_bins]: weighted means within each bin; NaN where it is empty.
        share: float64, shape [n_bins]: weight in each bin, summing to 1.
    """

    predicted: Floats
    observed: Floats
    share: Floats

    def ece(self) -> float:
        """Expected calibration error: mean of |predicted - observed| over bins, by share."""
        some = self.share > 0
        return float(np.sum(self.share[some] * np.abs(self.predicted[some] - self.observed[some])))


def reliability(
    probability: Floats, outcome: Floats, weight: Floats | None = None, n_bins: int = N_BINS
) -> Reliability:
    """Bin predictions by their probability.

    Args:
        probability, outcome: float64, shape [n]. weight: float64, shape [n]; None: equal.

    Raises:
        ValueError: a probability outside [0, 1], or no predictions.
    """
    if len(probability) == 0 or np.min(probability) < 0 or np.max(probability) > 1:
        raise ValueError("expected probabilities between 0 and 1, at least one")
    weight = np.ones(len(probability)) if weight is None else weight
    index = np.minimum((probability * n_bins).astype(np.int64), n_bins - 1)
    mass = np.bincount(index, weights=weight, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(index, weights=weight * probability, minlength=n_bins) / mass
        observed = np.bincount(index, weights=weight * outcome, minlength=n_bins) / mass
    return Reliability(predicted, observed, mass / mass.sum())


def ece_rows(probability: Floats, outcome: Floats, weights: Floats, n_bins: int = N_BINS) -> Floats:
    """Expected calibration error (`Reliability.ece`) under each row of weights.

    Args:
        probability, outcome: float64, shape [n]. weights: float64, shape [rows, n].

    Returns:
        float64, shape [rows].
    """
    index = np.minimum((probability * n_bins).astype(np.int64), n_bins - 1)
    inside = (index[:, None] == np.arange(n_bins)).astype(np.float64)
    gap = weights @ (inside * (probability - outcome)[:, None])  # mass times mean difference, bin by bin
    return np.abs(gap).sum(axis=1) / weights.sum(axis=1)
