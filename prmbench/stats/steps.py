"""Figures of solutions with a label for every step: is a step with a score below the threshold a wrong one?

Right steps are the positive class, as in PRMBench: a true positive is a right step that is not flagged, a true negative is a wrong
step that is flagged. Cells are counted for each trace first, so that a bootstrap over traces is one product of weights and cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prmbench.stats.auc import StepWins, wins
from prmbench.stats.thresholds import first_below, fold_assignment, middle_of_best

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_BLOCK = 1 << 22  # weights held at once


@dataclass(frozen=True)
class LabelledSteps:
    """The labelled steps of several traces, one after the other. Steps without a known label are not among them.

    Attributes:
        scores: Score of each step, without NaN. The higher, the better. Shape [s].
        wrong: Whether each is wrong. Shape [s].
        trace: The trace of each, from 0. Shape [s].
        n: Number of traces.
    """

    scores: Floats
    wrong: Bools
    trace: Ints
    n: int

    def of(self, traces: Bools) -> LabelledSteps:
        """Keep the steps of some traces.

        Args:
            traces: Whether each trace is kept. Shape [n].
        """
        keep = traces[self.trace]
        return LabelledSteps(self.scores[keep], self.wrong[keep], self.trace[keep], self.n)

    def cells(self, thresholds: Floats) -> Floats:
        """Count right and wrong steps by whether they are flagged.

        Args:
            thresholds: The threshold of each trace. Shape [n].

        Returns:
            For each trace true positives (right, not flagged), false positives (wrong, not flagged), true negatives (wrong,
            flagged), false negatives (right, flagged). Shape [n, 4].
        """
        flagged = self.scores < thresholds[self.trace]
        cell = np.where(self.wrong, np.where(flagged, 2, 1), np.where(flagged, 3, 0))
        return np.bincount(4 * self.trace + cell, minlength=4 * self.n).reshape(self.n, 4).astype(np.float64)

    def best_threshold(self) -> float:
        """Find the threshold with the highest PRMScore. The search is exact, without a grid.

        Returns:
            The threshold (`prmbench.stats.thresholds.middle_of_best`).

        Raises:
            ValueError: There is no right step, or no wrong one.
        """
        n_wrong = int(self.wrong.sum())
        n_right = len(self.wrong) - n_wrong
        if n_wrong == 0 or n_right == 0:
            raise ValueError(f"a threshold needs right and wrong steps; got {n_right} and {n_wrong}")
        ends = np.unique(np.append(self.scores, np.inf))
        flagged = [np.searchsorted(np.sort(self.scores[self.wrong == kind]), ends, "left") for kind in (True, False)]
        counts = np.stack([n_right - flagged[1], n_wrong - flagged[0], *flagged], axis=-1).astype(np.float64)
        # Equal shares need not be equal floats where they are sums of two quotients.
        return middle_of_best(ends, figures(counts)["prm_score"].round(12))

    def crossfit_thresholds(self, ids: Sequence[str], *, n_folds: int = 5, seed: int = 0) -> tuple[Floats, Ints]:
        """Give each trace the best threshold of the folds that it is not in, so that no trace helps to choose its own.

        Args:
            ids: Unique names of the traces.
            n_folds: Number of folds.
            seed: Seed of the folds.

        Returns:
            The threshold and the fold of each trace. Shape [n] each.

        Raises:
            ValueError: The other folds of some trace hold no right step, or no wrong one.
        """
        has_wrong = np.bincount(self.trace, weights=self.wrong, minlength=self.n) > 0
        folds = fold_assignment(ids, has_wrong, n_folds, seed)
        thresholds = np.empty(self.n)
        for fold in np.unique(folds):
            thresholds[folds == fold] = self.of(folds != fold).best_threshold()
        return thresholds, folds

    def wins(self) -> StepWins:
        """Compare every right step with every wrong one, for `prmbench.stats.auc.auc`."""
        right, wrong = ~self.wrong, self.wrong
        return wins(self.scores[right], self.trace[right], self.scores[wrong], self.trace[wrong], self.n)

    def average_precision(self, weights: Floats) -> Floats:
        """Compute the average precision of finding wrong steps by a low score: the mean, over wrong steps, of the precision there.

        Steps of equal score are found together. For weights of 1 it is `sklearn.metrics.average_precision_score`, which sorts
        again for each row of weights.

        Args:
            weights: How often each trace counts. Shape [b, n].

        Returns:
            The average precision of each row, between 0 and 1; NaN in a row without a wrong step. Shape [b].
        """
        if not len(self.scores):
            return np.full(len(weights), np.nan)
        order = np.argsort(self.scores, kind="stable")
        last = np.append(np.flatnonzero(self.scores[order[1:]] != self.scores[order[:-1]]), len(order) - 1)
        owner, wrong = self.trace[order], self.wrong[order].astype(np.float64)
        rows = max(1, _BLOCK // max(1, len(order)))
        return np.concatenate(
            [_precision(weights[i : i + rows][:, owner], wrong, last) for i in range(0, len(weights), rows)]
        )


def _precision(weight: Floats, wrong: Floats, last: Ints) -> Floats:
    """Average precision of steps that are sorted, `last` the last of each group of equal scores."""
    found = np.cumsum(weight * wrong, axis=1)[:, last]
    flagged = np.cumsum(weight, axis=1)[:, last]
    gained = np.diff(found, axis=1, prepend=0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(gained > 0, gained * found / flagged, 0.0).sum(axis=1) / found[:, -1])


def figures(cells: Floats) -> dict[str, Floats]:
    """Compute the figures of counts.

    Args:
        cells: True positives, false positives, true negatives and false negatives, right steps being positive. Shape [..., 4].

    Returns:
        Each of shape [...], from 0 to 1:
        ``f1_right`` and ``f1_wrong``: F1 of right and of wrong steps; NaN where there is no such step.
        ``prm_score``: their mean, PRMBench's PRMScore; one of them alone where the other is not defined.
        ``balanced_f1``: harmonic mean of the shares of right and of wrong steps that are judged right (Hard2Verify); NaN where
        there is no step of one sort.
        ``accuracy``: share of steps that are judged right; NaN without steps.
    """
    tp, fp, tn, fn = np.moveaxis(np.asarray(cells, dtype=np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        right = np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan)
        wrong = np.where(tn + fp > 0, 2 * tn / (2 * tn + fp + fn), np.nan)
        recall, specificity = tp / (tp + fn), tn / (tn + fp)
        both = recall + specificity
        return {
            "prm_score": mean_of_known(right, wrong),
            "f1_right": right,
            "f1_wrong": wrong,
            "balanced_f1": np.where(both == 0, 0.0, 2 * recall * specificity / both),
            "accuracy": (tp + tn) / (tp + fp + tn + fn),
        }


def mean_of_known(*values: Floats) -> Floats:
    """Average figures, place by place, over those that are defined.

    Args:
        *values: The figures, NaN where not defined. All of one shape.

    Returns:
        Their mean; NaN where none is defined.
    """
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nansum(values, axis=0) / known.sum(axis=0))


def solution_cells(lowest: Floats, wrong: Sequence[bool | None], thresholds: Floats) -> Floats:
    """Count solutions as `LabelledSteps.cells` counts steps: a solution is flagged when any of its steps is.

    Args:
        lowest: The lowest score of each trace's steps. Shape [n].
        wrong: Whether each trace has a wrong step; None where that is not known. Shape [n].
        thresholds: The threshold of each trace. Shape [n].

    Returns:
        The cells of each trace, all 0 where it is not known. Shape [n, 4].
    """
    known = np.array([one is not None for one in wrong])
    steps = LabelledSteps(
        lowest[known], np.array([bool(one) for one in wrong])[known], np.flatnonzero(known), len(lowest)
    )
    return steps.cells(thresholds)


def first_error_cells(scores: Sequence[Floats], labels: Sequence[int | None], thresholds: Floats) -> Floats:
    """Count what ProcessBench's F1 is made of.

    Args:
        scores: One score a step for each trace.
        labels: Index of the first wrong step, -1: none, None: not known. Shape [n].
        thresholds: The threshold of each trace. Shape [n].

    Returns:
        For each trace: error found exactly, error, predicted to have none and has none, has none. Shape [n, 4].
    """
    cells = np.zeros((len(labels), 4))
    for i, (row, label, threshold) in enumerate(zip(scores, labels, thresholds, strict=True)):
        if label is not None:
            first = 0 if label >= 0 else 2
            cells[i, first : first + 2] = first_below(row, float(threshold)) == label, 1
    return cells
