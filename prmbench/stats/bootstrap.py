"""Percentile bootstrap intervals over items, vectorised.

Intervals of F1 hold the thresholds as chosen. They say how much the figure would move with other items of the same kind, and not
how much a threshold chosen anew would move it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.stats.thresholds import f1_from_counts

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """Compute the percentile interval of resampled values. Undefined (NaN) resamples are left out.

    Args:
        samples: One value a resample. Shape [n_resamples].
        level: Coverage of the interval, between 0 and 1.

    Returns:
        The two ends; both NaN when every resample is undefined.
    """
    kept = samples[~np.isnan(samples)]
    if kept.size == 0:
        return float("nan"), float("nan")
    tail = (1.0 - level) / 2
    low, high = np.quantile(kept, [tail, 1.0 - tail])
    return float(low), float(high)


def share_interval(values: Sequence[Floats], samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """Compute the interval of a mean, over sets, of the mean share in each set.

    It is that of `interval`, but where every item has the share 0, or every item 1, resampling gives an interval without width.
    There the bound is exact: with mean shares m_s, all n_s items of each set have 0 with a chance of at most the product of
    (1 - m_s)^n_s, because an item that is not 0 has a share of at most 1. The bound is the largest mean of the m_s for which
    that chance is not below the tail.

    Args:
        values: For each set, a share for each item. Shape [n_s].
        samples: Resampled means. Shape [n_resamples].
        level: Coverage of the interval, between 0 and 1.

    Returns:
        The two ends; both NaN when there are no resamples.
    """
    pooled = np.concatenate([np.asarray(one, dtype=np.float64) for one in values])
    if not len(samples) or np.ptp(pooled) > 0 or pooled[0] not in (0.0, 1.0):
        return interval(samples, level)
    width = _largest_mean([len(one) for one in values], (1.0 - level) / 2)
    return (0.0, width) if pooled[0] == 0 else (1 - width, 1.0)


def _largest_mean(sizes: Sequence[int], tail: float) -> float:
    """Find the largest mean of shares m_s for which the product of (1 - m_s)^n_s is at least `tail`.

    With u_s = -log(1 - m_s) this is a sum of concave functions under a linear limit. Sets with a share above 0 have the same
    (1 - m_s) / n_s, and sets that are too large for it have the share 0. The loop takes the sets from the smallest on.
    """
    n = np.sort(np.asarray(sizes, dtype=np.float64))
    for count in range(1, len(n) + 1):
        some = n[:count]
        rate = np.exp((np.log(tail) - (some * np.log(some)).sum()) / some.sum())
        if count == len(n) or rate * n[count] >= 1:
            break
    return float((1 - rate * some).sum() / len(n))


def f1_resamples(hits: Bools, has_error: Bools, *, n_resamples: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Draw bootstrap resamples of the ProcessBench F1 and of its two accuracies.

    An item enters only by its class and by whether it was predicted right. So a resample of the items is a multinomial draw of
    four counts: the same distribution as drawing the items one by one, at no cost in their number.

    Args:
        hits: Whether the prediction of each trace is right. Shape [n].
        has_error: Whether each trace has a wrong step. Shape [n].
        n_resamples: Number of resamples; 0 gives empty arrays.
        rng: Source of random numbers.

    Returns:
        ``f1``, ``acc_error`` and ``acc_correct`` of each resample, between 0 and 1; NaN where a class is empty. Shape
        [n_resamples] each.
    """
    cells = np.bincount(2 * ~has_error + 1 * ~hits, minlength=4)  # errors first, and hits first among each
    draws = rng.multinomial(len(hits), cells / len(hits), size=n_resamples)
    hit_error, miss_error, hit_correct, miss_correct = draws.T
    n_error, n_correct = hit_error + miss_error, hit_correct + miss_correct
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "f1": f1_from_counts(hit_error, n_error, hit_correct, n_correct),
            "acc_error": np.where(n_error > 0, hit_error / n_error, np.nan),
            "acc_correct": np.where(n_correct > 0, hit_correct / n_correct, np.nan),
        }
