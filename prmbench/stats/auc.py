"""Step-level AUC: how often a right step scores above a first wrong step, where a tie counts one half.

Right steps are those before the first error, and all steps of a trace without one. Steps after the first error carry no label in
ProcessBench and are left out. A bootstrap over traces only changes how often each trace counts, so

    AUC = sum over right steps r and wrong steps e of w_r w_e [r above e]  /  (sum of all w_r  *  sum of all w_e)

where the weight of a step is that of its trace. With the wrong steps sorted by score, the wrong steps below a right step are a
prefix, whose weight is a cumulative sum. One sort then serves every resample. `sklearn.metrics.roc_auc_score` gives the same
figure, but sorts again for each resample; the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]

# Weights held at once, and the fewest resamples: what a processor's cache and its lines hold.
_BLOCK, _LINE = 1 << 17, 8


@dataclass(frozen=True)
class StepWins:
    """Where the right steps of traces stand among the wrong ones.

    Attributes:
        wrong_from: The trace of each wrong step, wrong steps in the order of their scores. int64, shape [e].
        above: Right steps of each trace that score above exactly j wrong steps, in row j. A right step that ties with wrong
            steps counts one half in the row where the ties begin, and one half where they end. Sparse, shape [e + 1, n].
    """

    wrong_from: NDArray[np.int64]
    above: csr_array


def step_wins(scores: Sequence[Floats], labels: Sequence[int]) -> StepWins:
    """Compare every right step with every first wrong one, by rank.

    Args:
        scores: One score a step for each trace, without NaN. The higher, the better the step.
        labels: Index of the first wrong step of each trace, or -1 where there is none.

    Returns:
        The comparisons, which `auc` and `auc_resamples` take.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in scores]
    label = np.asarray(labels, dtype=np.int64)
    rights = [row[: k if k >= 0 else None] for row, k in zip(rows, label, strict=True)]
    wrong_from = np.flatnonzero(label >= 0)
    wrong = np.array([rows[i][label[i]] for i in wrong_from], dtype=np.float64)
    owner = np.repeat(np.arange(len(rows)), [len(row) for row in rights])
    return wins(np.concatenate(rights), owner, wrong, wrong_from, len(rows))


def wins(
    right: Floats, right_from: NDArray[np.int64], wrong: Floats, wrong_from: NDArray[np.int64], n: int
) -> StepWins:
    """Compare every right step with every wrong one, by rank.

    Args:
        right: Scores of the right steps, without NaN. Shape [r].
        right_from: The trace of each. Shape [r].
        wrong: Scores of the wrong steps. Shape [e].
        wrong_from: The trace of each. Shape [e].
        n: Number of traces.

    Returns:
        The comparisons, which `auc` and `auc_resamples` take.
    """
    from scipy.sparse import csr_array

    order = np.argsort(wrong, kind="stable")
    rows = np.concatenate([np.searchsorted(wrong[order], right, side) for side in ("left", "right")])
    # Counts of steps are exact in single precision up to 2^24, and it takes half the time.
    most = max(np.bincount(right_from, minlength=1).max(), np.bincount(wrong_from, minlength=1).max())
    kind = np.float32 if n * most < 1 << 23 else np.float64
    halves = np.full(len(rows), 0.5, kind), (rows, np.tile(right_from, 2))
    return StepWins(wrong_from[order], csr_array(halves, shape=(len(wrong) + 1, n)))


def auc(steps: StepWins, weights: NDArray[np.floating] | None = None) -> Floats:
    """Compute the AUC, or one AUC for each row of weights.

    Args:
        steps: The steps, as `step_wins` gives them.
        weights: How often each trace counts, whole numbers from 0. Shape [b, n]; None is one row of ones.

    Returns:
        The AUC of each row, between 0 and 1; NaN where either sort of step has no weight. Shape [b].
    """
    kind = steps.above.dtype
    columns = np.ones((steps.above.shape[1], 1), kind) if weights is None else np.ascontiguousarray(weights.T, kind)
    met, of_wrong = steps.above @ columns, columns[steps.wrong_from]
    won = np.einsum("eb,eb->b", np.cumsum(of_wrong, axis=0), met[1:], dtype=np.float64)
    total = met.sum(axis=0, dtype=np.float64) * of_wrong.sum(axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, won / total, np.nan)


def auc_resamples(steps: StepWins, *, n_resamples: int, rng: np.random.Generator) -> Floats:
    """Draw bootstrap resamples of the AUC.

    Traces are drawn, not steps: the steps of one trace are not independent of each other.

    Args:
        steps: The steps, as `step_wins` gives them.
        n_resamples: Number of resamples; 0 gives an empty array.
        rng: Source of random numbers.

    Returns:
        The AUC of each resample; NaN where one lacks either sort of step. Shape [n_resamples].
    """
    n = steps.above.shape[1]
    block = max(_LINE, _BLOCK // n)
    out = np.empty(n_resamples)
    for start in range(0, n_resamples, block):
        rows = range(start, min(start + block, n_resamples))
        counts = np.array([np.bincount(rng.integers(n, size=n), minlength=n) for _ in rows], dtype=np.float32)
        out[start : start + len(rows)] = auc(steps, counts)
    return out


def ranking_auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Compute the share of (positive, negative) pairs that the scores order right, where a tie counts one half.

    Args:
        scores: One score an item. Infinities are allowed. Shape [n].
        positive: Whether each item is of the positive class. Shape [n].

    Returns:
        The share, between 0 and 1; NaN when a class is empty or a score is NaN.
    """
    from scipy.stats import rankdata
    from sklearn.metrics import roc_auc_score

    if np.isnan(scores).any() or positive.all() or not positive.any():
        return float("nan")
    return float(roc_auc_score(positive, rankdata(scores)))  # ranks, because it refuses infinities
