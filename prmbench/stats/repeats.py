"""Figures of repeated sampling: avg@k, pass@k, maj@k of one problem's completions, and intervals that resample problems.

A problem's completions are not independent of each other, so intervals resample whole problems, never completions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK = 1 << 22  # numbers held at once


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that k of the n completions, drawn without replacement, hold a correct one: 1 - C(n - c, k) / C(n, k).

    Raises:
        ValueError: not 1 <= k <= n, or not 0 <= correct <= n.
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"expected 1 <= k <= n and 0 <= correct <= n, got k={k}, n={n}, correct={correct}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority(answers: Sequence[int], correct: Sequence[bool], weights: Sequence[float] | None = None) -> float:
    """Chance that the most common answer is right.

    Args:
        answers: class of each completion's answer; -1: none found, which does not vote.
        correct: whether each is right; equal within a class.
        weights: what each vote counts; None: 1. Votes must not be negative.

    Returns:
        1 or 0; between classes with equally many votes the share of right ones among them; 0 when nothing votes.

    Raises:
        ValueError: a negative weight.
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
    """Means over resampled problems.

    Args:
        values: float64, shape [n_problems] or [n_problems, m]: one figure (or m figures) a problem.

    Returns:
        float64, shape [n_resamples] or [n_resamples, m].
    """
    n = len(values)
    block = max(1, _BLOCK // n)
    parts = []
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        counts = rng.multinomial(n, np.full(n, 1 / n), size=size)
        parts.append(counts @ values / n)
    return np.concatenate(parts) if parts else np.empty((0, *values.shape[1:]))
