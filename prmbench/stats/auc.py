"""Step-level AUC: how often a right step scores above a first wrong step, ties counting one half.

Right steps are those before the first error and all steps of a trace without one. Steps after the first error carry
no label in ProcessBench and are left out. A trace has at most one wrong step, so with a weight w per trace

    AUC = sum over e, i of w_e w_i wins[i, e]  /  (sum over e of w_e  *  sum over i of w_i right[i])

where wins[i, e] counts the right steps of trace i that score above the wrong step of trace e. Resampling traces only
changes w, and a product of matrices does all resamples at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK = 1 << 24  # numbers held at once


@dataclass(frozen=True)
class StepWins:
    """Pairwise comparisons behind an AUC.

    Attributes:
        wins: float32, shape [n, e]: right steps of trace i above the wrong step of the e-th trace with an error.
        wrong_from: int64, shape [e]: which trace each column is of.
        n_right: float64, shape [n]: right steps of each trace.
    """

    wins: NDArray[np.float32]
    wrong_from: NDArray[np.int64]
    n_right: Floats


def step_wins(scores: Sequence[Floats], labels: Sequence[int]) -> StepWins:
    """Compare every right step with every wrong one; `scores` and `labels` as in `prmbench.stats.thresholds.matches`."""
    rights = [
        np.asarray(row, dtype=np.float64)[: len(row) if k < 0 else k] for row, k in zip(scores, labels, strict=True)
    ]
    wrong_from = np.array([i for i, k in enumerate(labels) if k >= 0], dtype=np.int64)
    wrong = np.array([scores[i][labels[i]] for i in wrong_from], dtype=np.float64)
    n_right = np.array([len(r) for r in rights])
    some = np.flatnonzero(n_right)
    starts = np.cumsum(n_right)[some] - n_right[some]
    joined = np.concatenate(rights)
    wins = np.zeros((len(rights), len(wrong)), dtype=np.float32)
    block = max(1, _BLOCK // max(1, len(joined)))
    for start in range(0, len(wrong), block):
        against = wrong[None, start : start + block]
        won = (joined[:, None] > against).astype(np.float32) + np.float32(0.5) * (joined[:, None] == against)
        if len(some):
            wins[some, start : start + block] = np.add.reduceat(won, starts, axis=0)
    return StepWins(wins, wrong_from, n_right.astype(np.float64))


def auc(steps: StepWins, weights: NDArray[np.float32] | None = None) -> Floats:
    """AUC with a weight per trace.

    Args:
        weights: float32, shape [b, n]; None: one row of ones.

    Returns:
        float64, shape [b] ([1] without weights); NaN where either class has no weight.
    """
    if weights is None:
        weights = np.ones((1, len(steps.n_right)), dtype=np.float32)
    of_wrong = weights[:, steps.wrong_from]
    won = ((weights @ steps.wins) * of_wrong).sum(axis=1, dtype=np.float64)
    total = of_wrong.sum(axis=1, dtype=np.float64) * (weights @ steps.n_right)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, won / total, np.nan)


def auc_resamples(steps: StepWins, *, n_resamples: int, rng: np.random.Generator) -> Floats:
    """Bootstrap over traces (not steps: steps of one trace are not independent). float64, shape [n_resamples]."""
    n = len(steps.n_right)
    block = max(1, _BLOCK // (4 * n))
    out = np.empty(n_resamples)
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        out[start : start + size] = auc(steps, counts.astype(np.float32))
    return out


def ranking_auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Share of (positive, negative) pairs that the scores order right, ties counting one half; NaN without one of each.

    Args:
        scores: float64, shape [n]. positive: bool, shape [n].
    """
    negatives = np.sort(scores[~positive])
    wanted = scores[positive]
    if not len(negatives) or not len(wanted):
        return float("nan")
    below = np.searchsorted(negatives, wanted, side="left")
    not_above = np.searchsorted(negatives, wanted, side="right")
    return float((below + not_above).sum() / (2 * len(wanted) * len(negatives)))
