"""Two subjects on the same items: paired differences, their intervals, McNemar's test, and many comparisons at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prmbench.stats.thresholds import f1_from_counts

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class McNemar:
    """Items that only one of two got right, and the exact two-sided p of so uneven a split; 1 when there is none."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: Bools, second: Bools) -> McNemar:
    """McNemar's exact test. first, second: bool, shape [n], the same items in the same order."""
    from scipy.stats import binomtest  # here: half a second that other figures need not wait for

    a, b = int(np.sum(first & ~second)), int(np.sum(~first & second))
    return McNemar(a, b, float(binomtest(a, a + b, 0.5).pvalue) if a + b else 1.0)


def f1_difference(first: Bools, second: Bools, has_error: Bools) -> float:
    """F1 (harmonic mean of the two classes' accuracies) of the first minus that of the second; NaN without a class."""
    return _f1(first, has_error) - _f1(second, has_error)


def _f1(hits: Bools, has_error: Bools) -> float:
    correct = ~has_error
    counts = (hits[has_error].sum(), has_error.sum(), hits[correct].sum(), correct.sum())
    return float(f1_from_counts(*(int(x) for x in counts)))


def f1_difference_resamples(
    first: Bools, second: Bools, has_error: Bools, *, n_resamples: int, rng: np.random.Generator
) -> Floats:
    """Paired bootstrap of `f1_difference`: items drawn with replacement, both subjects on the same draw.

    An item enters by its class and who got it right, so a resample is a multinomial draw of eight counts.

    Returns:
        float64, shape [n_resamples]; NaN where a class is empty.
    """
    cell = 4 * has_error + 2 * first + second
    counts = np.bincount(cell.astype(np.int64), minlength=8)
    draws = rng.multinomial(len(cell), counts / len(cell), size=n_resamples).reshape(n_resamples, 2, 2, 2)
    correct, error = draws[:, 0], draws[:, 1]  # [draw, first, second]
    n_correct, n_error = correct.sum(axis=(1, 2)), error.sum(axis=(1, 2))
    of_first = f1_from_counts(error[:, 1].sum(axis=1), n_error, correct[:, 1].sum(axis=1), n_correct)
    of_second = f1_from_counts(error[:, :, 1].sum(axis=1), n_error, correct[:, :, 1].sum(axis=1), n_correct)
    return of_first - of_second


def two_sided_p(samples: Floats) -> float:
    """Bootstrap p of "no difference": twice the smaller share of resamples on either side of 0, 0 itself counting on both, with
    one more resample added so that it is never 0. Undefined resamples are left out; 1 when all are."""
    kept = samples[~np.isnan(samples)]
    if not len(kept):
        return 1.0
    smaller = min(int(np.sum(kept <= 0)), int(np.sum(kept >= 0)))
    return min(1.0, 2 * (smaller + 1) / (len(kept) + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p adjusted so that rejecting those below a level keeps the chance of any false rejection below
    it. In the order given."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, running = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = running
    return adjusted


def ranks_with_ties(values: Sequence[float], differs: Sequence[Sequence[bool]]) -> list[int]:
    """Rank of each subject: 1 plus the number of those with a higher value that differ significantly from it; and never better than
    that of a subject with a higher value (differences are not transitive: a noisier subject may differ from fewer).

    Args:
        values: higher is better. differs: whether subject i and j differ.
    """
    n = len(values)
    raw = [1 + sum(values[j] > values[i] and differs[i][j] for j in range(n)) for i in range(n)]
    return [max(raw[j] for j in range(n) if j == i or values[j] > values[i]) for i in range(n)]
