"""Percentile bootstrap intervals over items, vectorised.

Intervals of F1 hold the thresholds as chosen: they say how much the figure would move with other items of the same
kind, and not how much a threshold chosen anew would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.stats.thresholds import f1_from_counts

Floats = NDArray[np.float64]


def interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of resampled values; undefined (NaN) resamples are left out.

    Returns:
        (low, high); NaN, NaN when every resample is undefined.
    """
    kept = samples[~np.isnan(samples)]
    if kept.size == 0:
        return float("nan"), float("nan")
    tail = (1.0 - level) / 2
    low, high = np.quantile(kept, [tail, 1.0 - tail])
    return float(low), float(high)


def share_interval(values: Sequence[Floats], samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """Interval of a mean over sets of the sets' mean shares: `interval`, but where every item has 0, or every item 1, for which
    resampling gives an interval without width.

    Then the bound is exact: with mean shares m_s, all n_s items have 0 with a chance of at most the product of (1 - m_s)^n_s, since
    an item that is not 0 has a share of at most 1. The bound is the largest mean for which that is not below the tail.

    Args:
        values: per set, a share for each item, float64, shape [n]. samples: resampled means.
    """
    pooled = np.concatenate([np.asarray(one, dtype=np.float64) for one in values])
    if not len(samples) or np.ptp(pooled) > 0 or pooled[0] not in (0.0, 1.0):
        return interval(samples, level)
    width = _largest_mean([len(one) for one in values], (1.0 - level) / 2)
    return (0.0, width) if pooled[0] == 0 else (1 - width, 1.0)


def _largest_mean(sizes: Sequence[int], tail: float) -> float:
    """Largest mean of shares m_s with the product of (1 - m_s)^n_s at least `tail`.

    With u_s = -log(1 - m_s) a sum of concave functions under a linear limit: sets that have a share have it with
    (1 - m_s) / n_s the same, and those too large for that have none. Small sets first, so the sets with a share are found by size.
    """
    n = np.sort(np.asarray(sizes, dtype=np.float64))
    for count in range(1, len(n) + 1):
        some = n[:count]
        rate = np.exp((np.log(tail) - (some * np.log(some)).sum()) / some.sum())
        if count == len(n) or rate * n[count] >= 1:
            break
    return float((1 - rate * some).sum() / len(n))


def f1_resamples(
    hits: NDArray[np.bool_], has_error: NDArray[np.bool_], *, n_resamples: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """Resample items with replacement and recompute F1, acc_error and acc_correct.

    An item enters only by its class and whether it was predicted right, so a resample of the items is a multinomial
    draw of four counts: the same distribution as drawing the items one by one, at no cost in their number.

    Args:
        hits: bool, shape [n]; has_error: bool, shape [n].

    Returns:
        ``{"f1", "acc_error", "acc_correct"}``, each float64, shape [n_resamples]; NaN where a class is empty.
    """
    cells = np.array(
        [
            np.sum(hits & has_error),
            np.sum(~hits & has_error),
            np.sum(hits & ~has_error),
            np.sum(~hits & ~has_error),
        ]
    )
    n = int(cells.sum())
    draws = rng.multinomial(n, cells / n, size=n_resamples)
    hit_error, miss_error, hit_correct, miss_correct = draws.T
    n_error, n_correct = hit_error + miss_error, hit_correct + miss_correct
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "f1": f1_from_counts(hit_error, n_error, hit_correct, n_correct),
            "acc_error": np.where(n_error > 0, hit_error / n_error, np.nan),
            "acc_correct": np.where(n_correct > 0, hit_correct / n_correct, np.nan),
        }
