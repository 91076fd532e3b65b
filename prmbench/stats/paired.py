"""Two subjects on the same items: paired differences, their intervals, McNemar's test, and many comparisons at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prmbench.stats.thresholds import f1_and_accuracies, f1_from_counts

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class McNemar:
    """Outcome of McNemar's exact test.

    Attributes:
        only_first: Items that only the first got right.
        only_second: Items that only the second got right.
        p: Two-sided chance of so uneven a split; 1 when no item is right for one alone.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: Bools, second: Bools) -> McNemar:
    """Test whether one of two subjects is right more often on the same items.

    Args:
        first: Whether the first got each item right. Shape [n].
        second: Whether the second did, in the same order. Shape [n].

    Returns:
        The counts and the p value.
    """
    from scipy.stats import binomtest

    a, b = int(np.sum(first & ~second)), int(np.sum(~first & second))
    return McNemar(a, b, float(binomtest(a, a + b, 0.5).pvalue) if a + b else 1.0)


def f1_difference(first: Bools, second: Bools, has_error: Bools) -> float:
    """Subtract the ProcessBench F1 of one subject from that of another.

    Args:
        first: Whether the first predicted each trace right. Shape [n].
        second: Whether the second did, in the same order. Shape [n].
        has_error: Whether each trace has a wrong step. Shape [n].

    Returns:
        F1 of the first minus F1 of the second, between -1 and 1; NaN when a class is empty.
    """
    return f1_and_accuracies(first, has_error)["f1"] - f1_and_accuracies(second, has_error)["f1"]


def f1_difference_resamples(
    first: Bools, second: Bools, has_error: Bools, *, n_resamples: int, rng: np.random.Generator
) -> Floats:
    """Draw bootstrap resamples of `f1_difference`. Both subjects are measured on the same draw of items.

    An item enters only by its class and by who got it right, so a resample is a multinomial draw of eight counts. The two subjects
    in the other order give the same draws with the other sign.

    Args:
        first: Whether the first predicted each trace right. Shape [n].
        second: Whether the second did, in the same order. Shape [n].
        has_error: Whether each trace has a wrong step. Shape [n].
        n_resamples: Number of resamples; 0 gives an empty array.
        rng: Source of random numbers.

    Returns:
        The difference in each resample; NaN where a class is empty. Shape [n_resamples].
    """
    if first.tobytes() < second.tobytes():
        return -f1_difference_resamples(second, first, has_error, n_resamples=n_resamples, rng=rng)
    cell = 4 * has_error + 2 * first + second
    counts = np.bincount(cell.astype(np.int64), minlength=8)
    draws = rng.multinomial(len(cell), counts / len(cell), size=n_resamples).reshape(n_resamples, 2, 2, 2)
    correct, error = draws[:, 0], draws[:, 1]  # [draw, first, second]
    n_correct, n_error = correct.sum(axis=(1, 2)), error.sum(axis=(1, 2))
    of_first = f1_from_counts(error[:, 1].sum(axis=1), n_error, correct[:, 1].sum(axis=1), n_correct)
    of_second = f1_from_counts(error[:, :, 1].sum(axis=1), n_error, correct[:, :, 1].sum(axis=1), n_correct)
    return of_first - of_second


def two_sided_p(samples: Floats) -> float:
    """Compute the bootstrap p value of "no difference".

    It is twice the smaller share of resamples on either side of 0, where 0 itself counts on both sides. One more resample is
    added, so that the value is never 0. Undefined (NaN) resamples are left out.

    Args:
        samples: The difference in each resample. Shape [n_resamples].

    Returns:
        The p value, above 0 and at most 1; 1 when every resample is undefined.
    """
    kept = samples[~np.isnan(samples)]
    smaller = min(int(np.sum(kept <= 0)), int(np.sum(kept >= 0)))
    return min(1.0, 2 * (smaller + 1) / (len(kept) + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p values for many comparisons by Holm's step-down correction.

    Rejecting the comparisons whose adjusted value is below a level keeps the chance of any false rejection below that level.

    Args:
        p: One p value for each comparison.

    Returns:
        The adjusted values, in the order given.
    """
    adjusted, running = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = running
    return adjusted


def ranks_with_ties(values: Sequence[float], differs: Sequence[Sequence[bool]]) -> list[int]:
    """Rank subjects so that those that do not differ significantly may share a rank.

    The rank of a subject is 1 plus the number of subjects with a higher value that differ significantly from it. It is never
    better than the rank of a subject with a higher value: differences are not transitive, because a noisier subject may differ
    from fewer others.

    Args:
        values: One value for each subject; higher is better.
        differs: Whether subject i and subject j differ significantly, as row i and column j.

    Returns:
        The rank of each subject, from 1.
    """
    n = len(values)
    raw = [1 + sum(values[j] > values[i] and differs[i][j] for j in range(n)) for i in range(n)]
    return [max(raw[j] for j in range(n) if j == i or values[j] > values[i]) for i in range(n)]
