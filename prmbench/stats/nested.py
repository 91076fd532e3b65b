"""Intervals of paired differences over seeds x items, where both were drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def nested_interval(
    differences: Sequence[Floats], n_resamples: int, rng: np.random.Generator, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over seeds of the mean over a seed's items, with a two-level percentile interval: seeds are drawn again, then each
    drawn seed's items.

    With few seeds it is too narrow, as percentile intervals are; the Student interval over seeds
    (`prmbench.stats.seeds.seed_mean`) is the one to judge by.

    Args:
        differences: per seed, the paired difference of each item, float64, shape [items].

    Returns:
        (mean, low, high).
    """
    means = np.array([one.mean() for one in differences])
    found = np.empty(n_resamples)
    for i in range(n_resamples):
        seeds = rng.integers(len(differences), size=len(differences))
        found[i] = np.mean(
            [differences[s][rng.integers(len(differences[s]), size=len(differences[s]))].mean() for s in seeds]
        )
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2])
    return float(means.mean()), float(low), float(high)
