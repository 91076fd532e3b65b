"""Figures of repeated sampling: pass@k and maj@k of one problem's completions, and intervals that resample problems.

The completions of a problem are not independent of each other, so intervals resample whole problems, never completions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK = 1 << 22  # numbers held at once


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Compute the chance that k of n completions, drawn without replacement, hold a right one: 1 - C(n - c, k) / C(n, k).

    Args:
        n: Completions of the problem.
        correct: How many of them are right, c.
        k: How many are drawn.

    Returns:
        The chance, between 0 and 1.

    Raises:
        ValueError: Not 1 <= k <= n, or not 0 <= correct <= n.
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"expected 1 <= k <= n and 0 <= correct <= n, got k={k}, n={n}, correct={correct}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority(answers: Sequence[int], correct: Sequence[bool], weights: Sequence[float] | None = None) -> float:
    """Compute the chance that the most common answer is right.

    Args:
        answers: Class of each completion's answer; -1 where none was found, which does not vote.
        correct: Whether each answer is right; equal within a class.
        weights: What each vote counts, at least 0; None is 1 each.

    Returns:
        1 or 0, or between classes with equally many votes the share of them that is right; 0 when nothing votes.

    Raises:
        ValueError: A weight is negative.
    """
    votes: dict[int, float] = {}
    right: dict[int, bool] = {}
    for i, answer in enumerate(answers):
        weight = 1.0 if weights is None else weights[i]
        if weight < 0:
            raise ValueError(f"a vote weighs {weight}; expected 0 or more")
        if answer >= 0:
            votes[answer] = votes.get(answer, 0.0) + weight
            right[answer] = correct[i]
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [right[answer] for answer, vote in votes.items() if math.isclose(vote, most, rel_tol=1e-12)]
    return sum(winners) / len(winners)


def mean_resamples(values: Floats, *, n_resamples: int, rng: np.random.Generator) -> Floats:
    """Draw bootstrap resamples of a mean over problems.

    Args:
        values: One figure a problem, or m figures. Shape [n_problems] or [n_problems, m].
        n_resamples: Number of resamples; 0 gives an empty array.
        rng: Source of random numbers.

    Returns:
        The mean in each resample. Shape [n_resamples] or [n_resamples, m].
    """
    n = len(values)
    block = max(1, _BLOCK // n)
    parts = [np.empty((0, *values.shape[1:]))]
    for start in range(0, n_resamples, block):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(block, n_resamples - start))
        parts.append(counts @ values / n)
    return np.concatenate(parts)
