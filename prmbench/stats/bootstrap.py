"""Percentile bootstrap intervals over items, vectorised.

Intervals of F1 hold the thresholds as chosen. They say how much the figure would move with other items of the same kind, and not
how much a threshold chosen anew would move it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def f1_intervals(
    hits: Bools, has_error: Bools, samples: Mapping[str, Floats], level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Compute the intervals of the ProcessBench F1 and of its two accuracies.

    They are those of `interval`, except where resampling gives no width. An accuracy of 0 or 1 has the exact bound of
    `share_interval`. F1 is 0 where an accuracy a is 0, and at most 2a / (1 + a) whatever the other one is; so its upper end is
    this bound at the upper end of a, and of two such accuracies the smaller end decides. F1 is 1 where both accuracies are 1,
    and its lower end is the harmonic mean of their lower ends. The tails of the two accuracies sum to 1 - level, so that both
    bounds cover.

    Args:
        hits: Whether the prediction of each trace is right. Shape [n].
        has_error: Whether each trace has a wrong step. Shape [n].
        samples: What `f1_resamples` drew: resamples of ``f1``, ``acc_error`` and ``acc_correct``.
        level: Coverage of the intervals, between 0 and 1.

    Returns:
        The two ends by the same names; both NaN where a class is empty or nothing was drawn.
    """
    classes = {"acc_error": hits[has_error], "acc_correct": hits[~has_error]}
    if not all(map(len, classes.values())):
        return {name: interval(drawn, level) for name, drawn in samples.items()}
    found = {name: share_interval([some.astype(np.float64)], samples[name], level) for name, some in classes.items()}
    found["f1"] = interval(samples["f1"], level)
    if len(samples["f1"]):
        without = [found[name][1] for name, some in classes.items() if not some.any()]
        if without:
            found["f1"] = 0.0, 2 * min(without) / (1 + min(without))
        elif hits.all():
            lows = [found[name][0] for name in classes]
            found["f1"] = 2 * lows[0] * lows[1] / sum(lows), 1.0
    return found


def mean_interval(
    values: Sequence[float], ends: Sequence[tuple[float, float]], samples: Sequence[Floats], level: float = 0.95
) -> tuple[float, float]:
    """Compute the interval of a plain mean of several sets' figures.

    It is that of `interval` over the mean of the sets' resamples. Where the resamples of a set have no width, the intervals of
    the sets are combined instead: the distance from the mean to an end is the root of the sum of the squared distances, over the
    number of sets (the method of variance estimates recovery, Zou and Donner 2008).

    Args:
        values: The figure of each set.
        ends: The interval of each set.
        samples: The resamples of each set. Shape [n_resamples] each.
        level: Coverage of the interval, between 0 and 1.

    Returns:
        The two ends; both NaN when there are no resamples.
    """
    if not len(samples[0]) or all(np.ptp(one[~np.isnan(one)]) > 0 for one in samples if not np.isnan(one).all()):
        return interval(np.mean(samples, axis=0), level)
    figures, bounds, centre = np.asarray(values), np.asarray(ends), float(np.mean(values))
    below, above = np.sqrt(((bounds - figures[:, None]) ** 2).sum(axis=0)) / len(figures)
    return centre - float(below), centre + float(above)


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
