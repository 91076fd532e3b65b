"""From right continuations of a state to its value, an interval and a label."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rule = Literal["any", "threshold", "gain"]

LEVEL = 0.95


def share_intervals(successes: Ints, trials: Ints, looks: int = 1) -> tuple[Floats, Floats]:
    """Compute the Clopper-Pearson interval of a share.

    Args:
        successes: Number of successes. Shape [n].
        trials: Number of trials; 0 gives the interval from 0 to 1. Shape [n].
        looks: How often the interval may be looked at before stopping. Each look has that part of the error, so that the interval
            covers wherever it stops (a union bound).

    Returns:
        The lower and the upper ends. Shape [n] each.
    """
    from scipy.stats import beta

    tail = (1 - LEVEL) / 2 / looks
    k, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        low = np.where(k > 0, beta.ppf(tail, np.maximum(k, 1), n - k + 1), 0.0)
        high = np.where(k < n, beta.ppf(1 - tail, k + 1, np.maximum(n - k, 1)), 1.0)
    return low, high


def decided(successes: Ints, trials: Ints, rule: Rule, threshold: float, looks: int) -> NDArray[np.bool_]:
    """Say for which states more continuations cannot, or hardly can, change the label.

    Args:
        successes: Right continuations so far. Shape [n].
        trials: Continuations so far. Shape [n].
        rule: ``any`` is decided by one success, ``threshold`` where the interval lies on one side of the threshold, ``gain`` never.
        threshold: The threshold.
        looks: How often it is looked at.

    Returns:
        Whether each is decided. Shape [n].
    """
    if rule == "any":
        return np.asarray(successes) > 0
    if rule == "gain":
        return np.zeros(len(successes), dtype=np.bool_)
    low, high = share_intervals(successes, trials, looks)
    return np.asarray((low >= threshold) | (high < threshold))


def right_steps(values: Floats, start: float, rule: Rule, threshold: float) -> NDArray[np.bool_]:
    """Label the steps of one solution.

    Args:
        values: The value at the end of each step. Shape [n_steps].
        start: The value of the state before the first step.
        rule: ``any``: the value is above 0. ``threshold``: it is at least the threshold. ``gain``: it is above 0, and at least the
            value of the state before plus the threshold.
        threshold: The threshold.

    Returns:
        Whether each step is right. Shape [n_steps].
    """
    if rule == "any":
        return values > 0
    if rule == "threshold":
        return values >= threshold
    before = np.concatenate([[start], values[:-1]])
    return np.asarray((values > 0) & (values >= before + threshold))
