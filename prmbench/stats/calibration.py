"""Calibration of predicted probabilities of correctness, and how a prefix value is read as one (docs/protocols.md).

The bins are our own: `sklearn.calibration.calibration_curve` takes no weights and no observed shares, and leaves out how much is
in each bin, which the expected calibration error needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

N_BINS = 15


def softplus(x: Floats) -> Floats:
    """Compute log(1 + exp(x)) without overflow.

    Args:
        x: Numbers, in any shape.

    Returns:
        Numbers above 0, in the same shape.
    """
    return np.logaddexp(0.0, x)


def sigmoid(x: Floats) -> Floats:
    """Compute 1 / (1 + exp(-x)) without overflow.

    Args:
        x: Numbers, in any shape.

    Returns:
        Probabilities, in the same shape.
    """
    from scipy.special import expit

    return np.asarray(expit(x))


def margin_logit(value: Floats, margin: float) -> Floats:
    """Compute the logit of the probability that a value trained with a margin stands for.

    The cross-entropy of Eq. 9 with outcome probability p, p softplus(m - v) + (1 - p) softplus(v + m), is least where
    p / (1 - p) = s(v + m) / s(m - v), with s the sigmoid. With m = 0 the logit is v itself.

    Args:
        value: v_bar, the mean log-ratio of a prefix times beta, in any shape.
        margin: The margin m of the objective, at least 0.

    Returns:
        Logits in the same shape; 0 where the value is 0.
    """
    value = np.asarray(value, dtype=np.float64)
    return softplus(value - margin) - softplus(-value - margin)


def brier(probability: Floats, outcome: Floats, weight: Floats | None = None) -> float:
    """Compute the Brier score, the mean squared difference of a probability and an outcome.

    Args:
        probability: Predicted probabilities. Shape [n].
        outcome: What happened: 0, 1, or an observed share between them. Shape [n].
        weight: How much each prediction counts, at least 0; None is equally much. Shape [n].

    Returns:
        The score, between 0 (best) and 1.
    """
    from sklearn.metrics import mean_squared_error  # the same as its brier_score_loss, which takes no shares

    return float(mean_squared_error(outcome, probability, sample_weight=weight))


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: bins of equal width over [0, 1], the last of which includes 1.

    Attributes:
        predicted: Weighted mean probability in each bin; NaN where it is empty. Shape [n_bins].
        observed: Weighted mean outcome in each bin; NaN where it is empty. Shape [n_bins].
        share: Share of all weight that is in each bin. Shape [n_bins].
    """

    predicted: Floats
    observed: Floats
    share: Floats

    def ece(self) -> float:
        """Compute the expected calibration error.

        Returns:
            The mean over bins, by their share, of the absolute difference of predicted and observed.
        """
        some = self.share > 0
        return float(np.sum(self.share[some] * np.abs(self.predicted[some] - self.observed[some])))


def reliability(
    probability: Floats, outcome: Floats, weight: Floats | None = None, n_bins: int = N_BINS
) -> Reliability:
    """Bin predictions by their probability.

    Args:
        probability: Predicted probabilities. Shape [n].
        outcome: What happened: 0, 1, or an observed share between them. Shape [n].
        weight: How much each prediction counts, at least 0; None is equally much. Shape [n].
        n_bins: Number of bins.

    Returns:
        The means and the share of each bin.

    Raises:
        ValueError: A probability is outside [0, 1], or there are no predictions.
    """
    if len(probability) == 0 or np.min(probability) < 0 or np.max(probability) > 1:
        raise ValueError("expected probabilities between 0 and 1, at least one")
    weight = np.ones(len(probability)) if weight is None else weight
    index = _bin(probability, n_bins)
    mass, predicted, observed = (
        np.bincount(index, weights=weight * x, minlength=n_bins) for x in (1.0, probability, outcome)
    )
    with np.errstate(invalid="ignore"):
        return Reliability(predicted / mass, observed / mass, mass / mass.sum())


def ece_rows(probability: Floats, outcome: Floats, weights: Floats, n_bins: int = N_BINS) -> Floats:
    """Compute the expected calibration error (`Reliability.ece`) under each row of weights.

    Args:
        probability: Predicted probabilities. Shape [n].
        outcome: What happened: 0, 1, or an observed share between them. Shape [n].
        weights: How much each prediction counts, at least 0. Shape [rows, n].
        n_bins: Number of bins.

    Returns:
        The error of each row. Shape [rows].
    """
    inside = (_bin(probability, n_bins)[:, None] == np.arange(n_bins)).astype(np.float64)
    gap = weights @ (inside * (probability - outcome)[:, None])  # mass times mean difference, bin by bin
    return np.asarray(np.abs(gap).sum(axis=1) / weights.sum(axis=1))


def _bin(probability: Floats, n_bins: int) -> NDArray[np.int64]:
    return np.minimum((probability * n_bins).astype(np.int64), n_bins - 1)
