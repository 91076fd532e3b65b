"""Figures repeated over independent seeds: means, paired differences, and what may be said of an ordering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

OrderingVerdict = Literal["appears", "does not appear", "practically equal", "undecided"]


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds with its Student interval.

    Attributes:
        mean: The mean.
        low: Lower end of the interval; NaN with fewer than two seeds.
        high: Upper end of the interval; NaN with fewer than two seeds.
    """

    mean: float
    low: float
    high: float


def seed_mean(values: Sequence[float], level: float = 0.95) -> SeedMean:
    """Compute a mean over seeds and its interval. Seeds are taken as independent draws.

    Args:
        values: One figure a seed, at least one.
        level: Coverage of the interval, between 0 and 1.

    Returns:
        The mean and its interval.
    """
    x = np.asarray(values, dtype=np.float64)
    half = float("nan")
    if len(x) > 1:
        from scipy.stats import t as student

        half = float(student.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    mean = float(x.mean())
    return SeedMean(mean, mean - half, mean + half)


def ordering(
    larger: Sequence[float], smaller: Sequence[float], level: float = 0.95, margin: float = 0.0
) -> tuple[SeedMean, OrderingVerdict]:
    """Say whether one figure is above another, seed by seed.

    Args:
        larger: One figure a seed, claimed to be the larger.
        smaller: The other figure of the same seeds, in the same order.
        level: Coverage of the interval, between 0 and 1.
        margin: Differences up to this size, either way, do not matter; it must be named before the figures are seen.

    Returns:
        The paired difference, and "appears" when its interval is above 0, "does not appear" when it is below, "practically equal"
        when it lies within the margin, else "undecided".
    """
    difference = seed_mean(np.subtract(larger, smaller).tolist(), level)
    if difference.low > 0:
        return difference, "appears"
    if difference.high < 0:
        return difference, "does not appear"
    equal = -margin <= difference.low and difference.high <= margin
    return difference, "practically equal" if equal and margin > 0 else "undecided"


def seed_p_value(differences: Sequence[float]) -> float:
    """Compute the two-sided p-value of Student's t-test that paired differences have mean 0.

    Args:
        differences: One difference a seed.

    Returns:
        The p-value; NaN with fewer than two seeds, or where a difference is not defined. Where all differences are equal to each
        other it is what it tends to: 1 where they are 0, else 0.
    """
    x = np.asarray(differences, dtype=np.float64)
    if len(x) < 2 or np.isnan(x).any():
        return float("nan")
    if np.ptp(x) == 0:
        return float(x[0] == 0)
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(x, 0.0).pvalue)
