"""Figures with intervals that draw whole clusters (problems) again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.results.schema import Estimate
from prmbench.stats.bootstrap import interval, share_interval
from prmbench.stats.weighted import resample

Floats = NDArray[np.float64]


def clustered_estimates(
    cluster: NDArray[np.int64],
    figures: Callable[[Floats], dict[str, Floats]],
    n_resamples: int,
    seed: int,
    shares: frozenset[str] = frozenset(),
) -> dict[str, Estimate]:
    """Compute figures with percentile intervals that draw whole clusters with replacement.

    The same draws serve every figure of the same items.

    Args:
        cluster: The cluster of each item, numbered from 0 without gaps. Shape [n].
        figures: Computes figures from weights of shape [rows, n]; it gives one number a row for each name.
        n_resamples: Bootstrap resamples; 0 gives no intervals.
        seed: Seed of the draws.
        shares: Figures that are shares. Where one is 0 or 1 it is so in every resample; its interval then has the exact bound of as
            many items as there are clusters.

    Returns:
        The figures by name.
    """
    values = figures(np.ones((1, len(cluster))))
    samples = resample(cluster, figures, n_resamples, np.random.default_rng(seed))
    out = {}
    for name, (value,) in values.items():
        low, high = np.nan, np.nan
        if n_resamples and name in shares:
            low, high = share_interval([np.full(int(cluster.max()) + 1, value)], samples[name])
        elif n_resamples:
            low, high = interval(samples[name])
        ends = [None if np.isnan(x) or np.isnan(value) else float(x) for x in (low, high)]
        out[name] = Estimate(value=None if np.isnan(value) else float(value), low=ends[0], high=ends[1])
    return out


def numbered(keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """Number keys in the order of their first appearance.

    Args:
        keys: The keys.

    Returns:
        A number for each key, from 0. Shape [n].
    """
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], dtype=np.int64)
