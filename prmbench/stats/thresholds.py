"""First-error prediction from step scores, its F1, and the exact search for the threshold (docs/protocols.md).

A step is flagged when its score is *below* the threshold. The prediction for a trace is the index of its first flagged step, or
-1 when none is flagged. This is ProcessBench's own task and F1: the harmonic mean of the exact-match accuracy on traces with an
error and on traces without one, not the F1 of precision and recall that scikit-learn has.

What a threshold t does to one trace depends on one or two numbers only:

- a trace without an error is predicted right exactly when ``t <= min(scores)``;
- a trace whose first wrong step is k is predicted right exactly when ``scores[k] < t <= min(scores[:k])``.

So the number of right predictions is piecewise constant in t, and changes only at those end points. Sorting them once and summing
visits every distinct outcome, with no grid. A strictly increasing map of the scores never changes the best F1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Matches:
    """The thresholds at which each trace is predicted right: an interval ``(low, high]``, empty where ``high <= low``.

    Attributes:
        low: Lower end, not included; minus infinity, included, for a trace without an error. Shape [n].
        high: Upper end, included. Shape [n].
        has_error: Whether each trace has a wrong step. Shape [n].
    """

    low: Floats
    high: Floats
    has_error: Bools

    def __len__(self) -> int:
        return len(self.high)

    def __getitem__(self, keep: Bools | Ints) -> Matches:
        return Matches(self.low[keep], self.high[keep], self.has_error[keep])

    def hit(self, threshold: float | Floats) -> Bools:
        """Say which traces a threshold predicts right.

        Args:
            threshold: One threshold for all traces, or one for each. Shape [n].

        Returns:
            Whether each prediction is right. Shape [n].
        """
        return np.asarray((threshold <= self.high) & (~self.has_error | (threshold > self.low)))


def matches(scores: Sequence[Sequence[float] | Floats], labels: Sequence[int] | Ints) -> Matches:
    """Reduce each trace to the thresholds that predict it right.

    Args:
        scores: One score a step for each trace, at least one step each. Infinities are allowed.
        labels: Index of the first wrong step of each trace, or -1 where there is none.

    Returns:
        The interval of each trace.

    Raises:
        ValueError: A score is NaN, a trace is empty, or a label is out of range. The message gives the trace's position.
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
    """Predict the first wrong step of one trace.

    Args:
        scores: One score a step. Shape [n_steps].
        threshold: The threshold.

    Returns:
        Index of the first step whose score is below the threshold, or -1 when there is none.
    """
    below = np.flatnonzero(scores < threshold)
    return int(below[0]) if len(below) else -1


def f1_from_counts(
    hit_error: Ints | int, n_error: Ints | int, hit_correct: Ints | int, n_correct: Ints | int
) -> Floats:
    """Compute ProcessBench's F1, the harmonic mean of ``hit_error / n_error`` and ``hit_correct / n_correct``.

    A single division of exact integers makes equal rationals equal floats, so that ties between thresholds are real ties. That
    is why `scipy.stats.hmean` does not serve here.

    Args:
        hit_error: Traces with an error that were predicted right. All four may be arrays of one shape.
        n_error: Traces with an error.
        hit_correct: Traces without an error that were predicted right.
        n_correct: Traces without an error.

    Returns:
        F1 between 0 and 1; 0 when nothing was predicted right, NaN when a class is empty.
    """
    a, b, c, d = (np.asarray(x, dtype=np.float64) for x in (hit_error, n_error, hit_correct, n_correct))
    bottom = a * d + c * b
    with np.errstate(invalid="ignore", divide="ignore"):
        out = np.where(bottom > 0, 2.0 * a * c / bottom, 0.0)
    return np.where((b == 0) | (d == 0), np.nan, out)


def f1_and_accuracies(hits: Bools, has_error: Bools) -> dict[str, float]:
    """Compute ProcessBench's F1 and the two accuracies of which it is the harmonic mean.

    Args:
        hits: Whether the prediction of each trace is right. Shape [n].
        has_error: Whether each trace has a wrong step. Shape [n].

    Returns:
        ``f1``, ``acc_error`` and ``acc_correct``, each between 0 and 1. An accuracy is NaN when its class is empty, and F1 when
        either is.
    """
    n_error, n_correct = int(has_error.sum()), int((~has_error).sum())
    hit_error, hit_correct = int(hits[has_error].sum()), int(hits[~has_error].sum())
    return {
        "f1": float(f1_from_counts(hit_error, n_error, hit_correct, n_correct)),
        "acc_error": hit_error / n_error if n_error else math.nan,
        "acc_correct": hit_correct / n_correct if n_correct else math.nan,
    }


def f1_curve(found: Matches) -> tuple[Floats, Floats]:
    """Compute F1 at every threshold. It is constant between neighbouring ends of `Matches`.

    Args:
        found: The traces.

    Returns:
        The ends, of which the last is infinity, and F1 up to each end from the one before, NaN where a class is empty. Shape
        [p] each.
    """
    real, correct = found.has_error & (found.high > found.low), ~found.has_error
    ends = np.unique(np.concatenate([found.low[real], found.high[real], found.high[correct], [np.inf]]))
    first = np.searchsorted(ends, found.low[real]) + 1
    hit_error = _coverage(first, np.searchsorted(ends, found.high[real]), len(ends))
    top = np.searchsorted(ends, found.high[correct])
    hit_correct = _coverage(np.zeros_like(top), top, len(ends))
    return ends, f1_from_counts(hit_error, int(found.has_error.sum()), hit_correct, int(correct.sum()))


def best_threshold(found: Matches) -> float:
    """Find the threshold with the highest F1. The search is exact, without a grid.

    Args:
        found: The traces.

    Returns:
        The threshold (`middle_of_best`).

    Raises:
        ValueError: There is no trace with an error, or none without one, so that F1 is undefined.
    """
    n_error = int(found.has_error.sum())
    n_correct = len(found) - n_error
    if n_error == 0 or n_correct == 0:
        raise ValueError(f"F1 needs traces with and without an error; got {n_error} and {n_correct}")
    return middle_of_best(*f1_curve(found))


def middle_of_best(ends: Floats, values: Floats) -> float:
    """Choose a threshold of those that give the highest value. Neighbouring pieces with the same value are one interval.

    Args:
        ends: Ends of the pieces between which the value is constant, increasing, the last of them infinity. Shape [p].
        values: The value up to each end from the one before. Shape [p].

    Returns:
        The middle of the best interval, the widest of several, then the lowest. An end at infinity is replaced by the next float
        beyond the other end; 0 when every threshold is equally good.
    """
    is_best = values == values.max()
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
    """Choose a float in ``(low, high]``, the middle where there is one."""
    if np.isinf(low):
        return 0.0 if np.isinf(high) else float(high)
    if np.isinf(high):
        return float(np.nextafter(low, np.inf))
    middle = low / 2 + high / 2
    return float(middle if low < middle <= high else high)


def fold_assignment(ids: Sequence[str], has_error: Bools, n_folds: int, seed: int) -> Ints:
    """Assign traces to folds, with both classes spread evenly, whatever the order of the file.

    The folds are our own: those of `sklearn.model_selection.StratifiedKFold` depend on the order of the file and are others for
    the same seed, so that no figure of an entry would be what it was; and it refuses a class that is smaller than the folds.

    Args:
        ids: Unique names of the traces. The folds depend on them, on the classes and on the seed only.
        has_error: Whether each trace has a wrong step. Shape [n].
        n_folds: Number of folds.
        seed: Seed of the draw.

    Returns:
        The fold of each trace, from 0. Shape [n].
    """
    rng = np.random.default_rng(seed)
    order = np.array(sorted(range(len(ids)), key=lambda i: ids[i]), dtype=np.int64)
    folds = np.empty(len(ids), dtype=np.int64)
    dealt = 0
    for wanted in (True, False):
        members = rng.permutation(order[has_error[order] == wanted])
        folds[members] = (dealt + np.arange(len(members))) % n_folds
        dealt += len(members)
    return folds


def crossfit_thresholds(found: Matches, ids: Sequence[str], *, n_folds: int = 5, seed: int = 0) -> tuple[Floats, Ints]:
    """Give each trace the best threshold of the folds that it is not in, so that no trace helps to choose its own.

    Args:
        found: The traces.
        ids: Their unique names.
        n_folds: Number of folds.
        seed: Seed of the folds.

    Returns:
        The threshold and the fold of each trace. Shape [n] each.

    Raises:
        ValueError: The other folds of some trace hold no trace with an error, or none without one.
    """
    folds = fold_assignment(ids, found.has_error, n_folds, seed)
    thresholds = np.empty(len(found))
    for fold in np.unique(folds):
        thresholds[folds == fold] = best_threshold(found[folds != fold])
    return thresholds, folds
