"""First-error prediction from step scores, its F1, and the exact search for the threshold (DESIGN 4.2, 4.3).

A step is flagged when its score is *below* the threshold; the prediction for a trace is the index of its first flagged
step, or -1 when none is. This is ProcessBench's own task and F1: the harmonic mean of the exact-match accuracy on
traces with an error and on traces without one, not the usual F1 of precision and recall.

What a threshold t does to one trace depends on one or two numbers only:

- a trace without an error is predicted right exactly when ``t <= min(scores)``;
- a trace whose first wrong step is k is predicted right exactly when ``scores[k] < t <= min(scores[:k])``.

So the number of right predictions is piecewise constant in t, changing only at those end points; sorting them once and
summing visits every distinct outcome, with no grid. A strictly increasing map of the scores never changes the best F1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Matches:
    """The half-open interval ``(low, high]`` of thresholds at which each trace is predicted right.

    Attributes:
        low: float64, shape [n]; ``-inf`` with ``closed_low`` semantics for traces without an error (any t <= high).
        high: float64, shape [n]. The interval is empty where ``high <= low`` (a trace with an error only).
        has_error: bool, shape [n].
    """

    low: Floats
    high: Floats
    has_error: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.high)

    def __getitem__(self, keep: NDArray[np.bool_] | Ints) -> Matches:
        return Matches(self.low[keep], self.high[keep], self.has_error[keep])

    def hit(self, threshold: float | Floats) -> NDArray[np.bool_]:
        """Return, per trace, whether the threshold (one for all, or one each) predicts it right. bool, shape [n]."""
        return (threshold <= self.high) & (~self.has_error | (threshold > self.low))


def matches(scores: Sequence[Sequence[float] | Floats], labels: Sequence[int] | Ints) -> Matches:
    """Reduce each trace to the thresholds that predict it right.

    Args:
        scores: per trace, one score a step; at least one step each, infinities allowed.
        labels: per trace, the index of the first wrong step, or -1.

    Raises:
        ValueError: a NaN score, an empty trace or a label out of range; the message gives the trace's position.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in scores]
    counts = np.array([row.size for row in rows], dtype=np.int64)
    label_array = np.asarray(labels, dtype=np.int64)
    if len(label_array) != len(rows):
        raise ValueError(f"{len(rows)} traces, {len(label_array)} labels")
    if not rows:
        return Matches(np.empty(0), np.empty(0), np.empty(0, dtype=np.bool_))
    if (bad := np.flatnonzero((counts == 0) | (label_array < -1) | (label_array >= counts))).size:
        i = int(bad[0])
        raise ValueError(f"trace {i}: label {label_array[i]} does not fit {counts[i]} step scores")
    flat = np.concatenate([*rows, [np.inf]])
    starts = np.cumsum(counts) - counts
    if (nan := np.flatnonzero(np.isnan(flat))).size:
        i = int(np.searchsorted(starts, nan[0], side="right")) - 1
        raise ValueError(f"trace {i}: step {nan[0] - starts[i]} has a NaN score")
    has_error = label_array >= 0
    low = np.where(has_error, flat[starts + np.maximum(label_array, 0)], -np.inf)
    ends = starts + np.where(has_error, label_array, counts)
    high = np.minimum.reduceat(flat, np.stack([starts, ends], axis=1).ravel())[::2]
    return Matches(low, np.where(ends > starts, high, np.inf), has_error)


def first_below(scores: Floats, threshold: float) -> int:
    """The prediction: index of the first step whose score (float64, shape [n_steps]) is below the threshold, -1: none."""
    below = np.flatnonzero(scores < threshold)
    return int(below[0]) if len(below) else -1


def f1_from_counts(
    hit_error: Ints | int, n_error: Ints | int, hit_correct: Ints | int, n_correct: Ints | int
) -> Floats:
    """Harmonic mean of ``hit_error / n_error`` and ``hit_correct / n_correct``; 0 when both are 0, NaN without a class.

    Works on arrays. Written with a single division of exact integers, so that equal rationals are equal floats and
    ties between thresholds are real ties.
    """
    a, b, c, d = (np.asarray(x, dtype=np.float64) for x in (hit_error, n_error, hit_correct, n_correct))
    top = 2.0 * a * c
    bottom = a * d + c * b
    with np.errstate(invalid="ignore", divide="ignore"):
        out = np.where(bottom > 0, top / bottom, 0.0)
    return np.where((b == 0) | (d == 0), np.nan, out)


def f1_curve(found: Matches) -> tuple[Floats, Floats]:
    """F1 at every threshold: it is constant between neighbouring ends of `Matches`.

    Returns:
        (ends, f1): float64, shape [p] each; f1[i] holds for thresholds in (ends[i - 1], ends[i]], the first for all up to
        ends[0], the last end is inf. NaN where a class is empty.
    """
    real, correct = found.has_error & (found.high > found.low), ~found.has_error
    ends = np.unique(np.concatenate([found.low[real], found.high[real], found.high[correct], [np.inf]]))
    first = np.searchsorted(ends, found.low[real]) + 1
    hit_error = _coverage(first, np.searchsorted(ends, found.high[real]), len(ends))
    top = np.searchsorted(ends, found.high[correct])
    hit_correct = _coverage(np.zeros_like(top), top, len(ends))
    return ends, f1_from_counts(hit_error, int(found.has_error.sum()), hit_correct, int(correct.sum()))


def best_threshold(found: Matches) -> float:
    """Return the middle of the best interval of thresholds: the exact maximum of F1, no grid.

    Neighbouring pieces with the same F1 are one interval; of several best intervals the widest wins, then the lowest.
    An end at infinity is replaced by the next float beyond the other end; 0 when every threshold is equally good.

    Raises:
        ValueError: there is no trace with an error, or none without one, so that F1 is undefined.
    """
    n_error = int(found.has_error.sum())
    n_correct = len(found) - n_error
    if n_error == 0 or n_correct == 0:
        raise ValueError(f"F1 needs traces with and without an error; got {n_error} and {n_correct}")
    ends, f1 = f1_curve(found)
    is_best = f1 == f1.max()
    first = np.flatnonzero(is_best & ~np.concatenate([[False], is_best[:-1]]))
    last = np.flatnonzero(is_best & ~np.concatenate([is_best[1:], [False]]))
    lows = np.where(first == 0, -np.inf, ends[first - 1])
    highs = ends[last]
    widths = np.where(np.isfinite(lows) & np.isfinite(highs), highs - lows, -1.0)
    return _middle(*max(zip(widths, -lows, lows, highs, strict=True))[2:])


def _coverage(first: Ints, last: Ints, size: int) -> Ints:
    """Count, for each of `size` pieces, the intervals first..last (inclusive) that cover it."""
    change = np.bincount(first, minlength=size + 1) - np.bincount(last + 1, minlength=size + 1)[: size + 1]
    return np.cumsum(change)[:size]


def _middle(low: float, high: float) -> float:
    """A float in ``(low, high]``, the middle where there is one."""
    if np.isinf(low) and np.isinf(high):
        return 0.0
    if np.isinf(low):
        return float(high)
    if np.isinf(high):
        return float(np.nextafter(low, np.inf))
    middle = low / 2 + high / 2
    return float(middle if low < middle <= high else high)


def fold_assignment(ids: Sequence[str], has_error: NDArray[np.bool_], n_folds: int, seed: int) -> Ints:
    """Assign traces to folds: seeded, independent of file order, with both classes spread evenly.

    Args:
        ids: unique ids; the assignment depends on them, the seed and the classes only.

    Returns:
        int64, shape [n], values 0..n_folds-1.
    """
    rng = np.random.default_rng(seed)
    order = np.array(sorted(range(len(ids)), key=lambda i: ids[i]), dtype=np.int64)
    folds = np.empty(len(ids), dtype=np.int64)
    start = 0
    for wanted in (True, False):
        members = rng.permutation(order[has_error[order] == wanted])
        folds[members] = (start + np.arange(len(members))) % n_folds
        start = (start + len(members)) % n_folds
    return folds


def crossfit_thresholds(found: Matches, ids: Sequence[str], *, n_folds: int = 5, seed: int = 0) -> tuple[Floats, Ints]:
    """Give each trace the best threshold of the folds it is not in, so that no trace helps to choose its own.

    Returns:
        (threshold per trace float64 [n], fold per trace int64 [n]).

    Raises:
        ValueError: some training part has no trace with an error, or none without one.
    """
    folds = fold_assignment(ids, found.has_error, n_folds, seed)
    thresholds = np.empty(len(found))
    for fold in range(n_folds):
        held_out = folds == fold
        if held_out.any():
            thresholds[held_out] = best_threshold(found[~held_out])
    return thresholds, folds
