"""Intervals of paired differences over seeds and items, where both were drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def nested_interval(
    differences: Sequence[Floats], n_resamples: int, rng: np.random.Generator, level: float = 0.95
) -> tuple[float, float, float]:
    """Compute the mean over seeds of the mean over items, with a two-level percentile interval.

    Each resample draws the seeds again, and then the items of each drawn seed. With few seeds the interval is too narrow, as
    percentile intervals are. The Student interval over seeds (`prmbench.stats.seeds.seed_mean`) is the one to judge by.

    Args:
        differences: For each seed, the paired difference of each item. Shape [n_items].
        n_resamples: Number of resamples.
        rng: Source of random numbers.
        level: Coverage of the interval, between 0 and 1.

    Returns:
        The mean and the two ends of its interval.
    """
    found = np.empty(n_resamples)
    for i in range(n_resamples):
        drawn = [differences[s] for s in rng.integers(len(differences), size=len(differences))]
        found[i] = np.mean([one[rng.integers(len(one), size=len(one))].mean() for one in drawn])
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2])
    return float(np.mean([one.mean() for one in differences])), float(low), float(high)
