"""Selection of one of several candidates by their scores, and votes among them: Best-of-N (DESIGN 4.4).

Ties are drawn evenly: among candidates of equal score each is as likely to be taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def selection_weights(scores: Floats, size: int) -> Floats:
    """Probability that each candidate is the one selected from a random subset of `size`, drawn without replacement.

    With t candidates of a score and l below it, the highest of the subset has that score with probability
    (C(l + t, N) - C(l, N)) / C(n, N), and the t share it evenly.

    Args:
        scores: shape [n]; no NaN.

    Returns:
        float64, shape [n], summing to 1.

    Raises:
        ValueError: not 1 <= size <= n, or a NaN score.
    """
    n = len(scores)
    if not 1 <= size <= n:
        raise ValueError(f"expected 1 <= N <= {n} candidates, got N={size}")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    _, index, ties = np.unique(scores, return_inverse=True, return_counts=True)
    below = np.cumsum(ties) - ties
    whole = math.comb(n, size)
    share = [
        (math.comb(int(low + tied), size) - math.comb(int(low), size)) / whole / tied
        for low, tied in zip(below, ties, strict=True)
    ]
    return np.array(share)[index.reshape(-1)]


def expected_best(scores: Floats, correct: NDArray[np.bool_], size: int) -> float:
    """Exact expectation, over all subsets of `size`, of whether the selected candidate is right.

    Args:
        scores: shape [n]. correct: bool, shape [n].
    """
    return float(selection_weights(scores, size) @ correct)


def first_best(scores: Floats, correct: NDArray[np.bool_], size: int) -> float:
    """The same for one subset, the first `size` candidates: what a single run would have seen.

    Raises:
        ValueError: fewer candidates than that, or a NaN score.
    """
    if not 1 <= size <= len(scores):
        raise ValueError(f"expected 1 <= N <= {len(scores)} candidates, got N={size}")
    return expected_best(scores[:size], correct[:size], size)


def subsets(n: int, size: int, limit: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """All subsets of `size` of n where there are at most `limit`, else that many random ones (with replacement).

    For figures without a closed form, such as majority votes.
    """
    import itertools

    if math.comb(n, size) <= limit:
        return list(itertools.combinations(range(n), size))
    return [tuple(sorted(rng.permutation(n)[:size].tolist())) for _ in range(limit)]


def expected_vote(
    answers: Sequence[int], correct: NDArray[np.bool_], weights: Floats | None, drawn: Sequence[tuple[int, ...]]
) -> float:
    """Mean of `prmbench.stats.repeats.majority` over subsets of the candidates, all at once.

    Args:
        answers, correct, weights: as there, of all n candidates. drawn: subsets, each of candidate indices.
    """
    classes = np.asarray(answers)
    n_classes = int(classes.max(initial=-1)) + 1
    if n_classes == 0:
        return 0.0
    weights = np.ones(len(classes)) if weights is None else weights
    ballots = np.zeros((len(classes), n_classes))
    voting = classes >= 0
    ballots[np.flatnonzero(voting), classes[voting]] = weights[voting]
    there = np.zeros((len(classes), n_classes))
    there[np.flatnonzero(voting), classes[voting]] = 1
    right = np.zeros(n_classes, dtype=np.bool_)
    right[classes[voting]] = correct[voting]
    members = np.zeros((len(drawn), len(classes)))
    for row, subset in enumerate(drawn):
        members[row, list(subset)] = 1
    votes = np.where(members @ there > 0, members @ ballots, -np.inf)
    most = votes.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        winners = (votes >= most - 1e-12 * np.abs(most)) & np.isfinite(votes)
    counts = winners.sum(axis=1)
    return float(np.mean(np.where(counts > 0, (winners & right).sum(axis=1) / np.maximum(counts, 1), 0.0)))


AGGREGATIONS = ("min", "last", "product", "mean")
"""Ways to make one score of a completion from its steps' scores."""


def aggregate(step_logits: Sequence[float] | Floats, how: str) -> float:
    """One score of a completion from its steps', in logit space where the steps' are.

    ``min``: the lowest step. ``last``: the last. ``mean``: their mean. ``product``: the log of the product of their probabilities,
    the sum of log s(x). No steps: minus infinity, so that it is taken last.

    Raises:
        ValueError: none of `AGGREGATIONS`.
    """
    x = np.asarray(step_logits, dtype=np.float64)
    if how not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation '{how}': expected one of {', '.join(AGGREGATIONS)}")
    if not len(x):
        return -math.inf
    if how == "min":
        return float(x.min())
    if how == "last":
        return float(x[-1])
    if how == "mean":
        return float(x.mean())
    return float(-np.logaddexp(0.0, -x).sum())
