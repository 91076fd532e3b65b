"""Figures repeated over independent seeds: means, paired differences, and what may be said of an ordering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["appears", "does not appear", "undecided"]


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds with its Student-t interval. low, high: NaN with fewer than two seeds."""

    mean: float
    low: float
    high: float


def seed_mean(values: Sequence[float], level: float = 0.95) -> SeedMean:
    """Mean over seeds and the interval of the mean, seeds taken as independent draws.

    Args:
        values: one figure a seed, at least one.
    """
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return SeedMean(mean, float("nan"), float("nan"))
    from scipy.stats import t as student  # here: half a second that other figures need not wait for

    half = float(student.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return SeedMean(mean, mean - half, mean + half)


def ordering(larger: Sequence[float], smaller: Sequence[float], level: float = 0.95) -> tuple[SeedMean, Verdict]:
    """Whether one figure is above another, seed by seed.

    Args:
        larger, smaller: figures of the same seeds in the same order; the claim is that the first are larger.

    Returns:
        (the paired difference, "appears" when its interval is above 0, "does not appear" when it is below, else "undecided").
    """
    difference = seed_mean(np.subtract(larger, smaller).tolist(), level)
    if difference.low > 0:
        return difference, "appears"
    return difference, "does not appear" if difference.high < 0 else "undecided"
