"""Selection of one of several completions by their scores, and votes among them (Best-of-N, docs/protocols.md).

Ties are drawn evenly: of completions with equal scores each is as likely to be taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

AGGREGATIONS = ("min", "last", "product", "mean")
"""Ways to make one score of a completion from the scores of its steps."""


def selection_weights(scores: Floats, size: int) -> Floats:
    """Compute the chance of each completion to be the one selected from a random subset, drawn without replacement.

    With t completions of a score and l below it, the highest of the subset has that score with probability
    (C(l + t, N) - C(l, N)) / C(n, N), and the t share it evenly.

    Args:
        scores: One score a completion, without NaN. Shape [n].
        size: Completions in a subset, N.

    Returns:
        The chances, which sum to 1. Shape [n].

    Raises:
        ValueError: Not 1 <= size <= n, or a score is NaN.
    """
    n = len(scores)
    if not 1 <= size <= n:
        raise ValueError(f"expected 1 <= N <= {n} completions, got N={size}")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    # The chance that all of the subset are among the k lowest, C(k, N) / C(n, N), and that the k-th lowest is its highest.
    k = np.arange(n, 0, -1)
    among = np.cumprod(np.concatenate([[1.0], np.maximum(k[:-1] - size, 0) / k[:-1]]))
    highest = (among * size / k)[::-1]
    # Completions of one score share the chance that any of them is selected.
    _, index, ties = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.add.reduceat(highest, np.cumsum(ties) - ties) / ties)[index.reshape(-1)]


def expected_best(scores: Floats, correct: Bools, size: int) -> float:
    """Compute the exact expectation, over all subsets of a size, of whether the selected completion is right.

    Args:
        scores: One score a completion, without NaN. Shape [n].
        correct: Whether each completion is right. Shape [n].
        size: Completions in a subset.

    Returns:
        The expectation, between 0 and 1.

    Raises:
        ValueError: Not 1 <= size <= n, or a score is NaN.
    """
    return float(selection_weights(scores, size) @ correct)


def first_best(scores: Floats, correct: Bools, size: int) -> float:
    """Compute the same for one subset, the first completions: what a single run would have seen.

    Args:
        scores: One score a completion, without NaN. Shape [n].
        correct: Whether each completion is right. Shape [n].
        size: How many completions from the first on.

    Returns:
        1 or 0, or between completions with equal scores the share of them that is right.

    Raises:
        ValueError: Not 1 <= size <= n, or a score is NaN.
    """
    if not 1 <= size <= len(scores):
        raise ValueError(f"expected 1 <= N <= {len(scores)} completions, got N={size}")
    return expected_best(scores[:size], correct[:size], size)


def subsets(n: int, size: int, limit: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """List subsets, for figures without a closed form, such as majority votes.

    Args:
        n: Completions to choose from.
        size: Completions in a subset.
        limit: How many subsets to list at most.
        rng: Source of random numbers.

    Returns:
        All subsets where there are at most `limit`, else `limit` random ones, drawn with replacement.
    """
    if math.comb(n, size) <= limit:
        return list(itertools.combinations(range(n), size))
    return [tuple(sorted(rng.permutation(n)[:size].tolist())) for _ in range(limit)]


def expected_vote(
    answers: Sequence[int], correct: Bools, weights: Floats | None, drawn: Sequence[tuple[int, ...]]
) -> float:
    """Average `prmbench.stats.repeats.majority` over subsets of the completions, all at once.

    Args:
        answers: Class of each completion's answer; -1 where none was found, which does not vote. Length n.
        correct: Whether each answer is right; equal within a class. Shape [n].
        weights: What each vote counts, at least 0; None is 1 each. Shape [n].
        drawn: The subsets, each as the positions of its completions.

    Returns:
        The mean, between 0 and 1.
    """
    classes = np.asarray(answers)
    voting = np.flatnonzero(classes >= 0)
    if not len(voting):
        return 0.0
    # Completions by the class that they vote for, and which of them are in each subset.
    order = voting[np.argsort(classes[voting], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(classes[order]) != 0])
    members = np.zeros((len(drawn), len(classes)))
    for row, subset in enumerate(drawn):
        members[row, list(subset)] = 1
    # The votes of each class in each subset; a class without a completion there cannot win.
    there = members[:, order]
    ballots = there if weights is None else there * weights[order]
    votes = np.where(np.add.reduceat(there, starts, axis=1) > 0, np.add.reduceat(ballots, starts, axis=1), -np.inf)
    right = correct[order[starts]]
    most = votes.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        winners = (votes >= most - 1e-12 * np.abs(most)) & np.isfinite(votes)
    counts = winners.sum(axis=1)
    return float(np.mean(np.where(counts > 0, (winners & right).sum(axis=1) / np.maximum(counts, 1), 0.0)))


def aggregate(step_logits: Sequence[float] | Floats, how: str) -> float:
    """Make one score of a completion from the scores of its steps.

    Args:
        step_logits: Scores of the steps, in logit space.
        how: ``min`` takes the lowest step, ``last`` the last, ``mean`` their mean, and ``product`` the log of the product of
            their probabilities, which is the sum of log s(x).

    Returns:
        The score, in logit space but for ``product``; minus infinity without steps, so that the completion is taken last.

    Raises:
        ValueError: `how` is none of `AGGREGATIONS`.
    """
    x = np.asarray(step_logits, dtype=np.float64)
    if how not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation '{how}': expected one of {', '.join(AGGREGATIONS)}")
    if not len(x):
        return -math.inf
    if how == "product":
        return float(-np.logaddexp(0.0, -x).sum())
    if how == "last":
        return float(x[-1])
    return float(x.min() if how == "min" else x.mean())
