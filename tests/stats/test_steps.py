"""Figures of labelled steps against scikit-learn and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, recall_score, roc_auc_score

from prmbench.stats.auc import auc
from prmbench.stats.steps import LabelledSteps, figures, first_error_cells, mean_of_known, solution_cells
from prmbench.stats.thresholds import fold_assignment

step = st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0, np.inf]), st.booleans())
traces = st.lists(st.lists(step, min_size=1, max_size=5), min_size=1, max_size=8)


def joined(rows):
    scores = np.array([score for row in rows for score, _ in row])
    wrong = np.array([bad for row in rows for _, bad in row])
    return LabelledSteps(scores, wrong, np.repeat(np.arange(len(rows)), [len(row) for row in rows]), len(rows))


def both_sorts(steps):
    return steps.wrong.any() and not steps.wrong.all()


@given(traces, st.data())
def test_cells_are_those_of_scikit_learn(rows, data):
    thresholds = np.array([data.draw(st.sampled_from([-0.7, 0.0, 0.25, 1.0])) for _ in rows])
    cells = joined(rows).cells(thresholds)
    for row, threshold, cell in zip(rows, thresholds, cells, strict=True):
        right, kept = [not bad for _, bad in row], [score >= threshold for score, _ in row]
        (tn, fp), (fn, tp) = confusion_matrix(right, kept, labels=[False, True])
        assert cell.tolist() == [tp, fp, tn, fn]


@given(traces, st.sampled_from([-0.7, 0.0, 0.25, 1.0]))
def test_figures_are_those_of_scikit_learn(rows, threshold):
    steps = joined(rows)
    found = figures(steps.cells(np.full(len(rows), threshold)).sum(axis=0))
    right, kept = ~steps.wrong, steps.scores >= threshold
    by_class = {
        name: f1_score(right, kept, pos_label=label, zero_division=0)
        for name, label in (("f1_right", True), ("f1_wrong", False))
    }
    there = {"f1_right": right.any(), "f1_wrong": steps.wrong.any()}
    for name, value in by_class.items():
        assert found[name] == pytest.approx(value) if there[name] else np.isnan(found[name])
    known = [by_class[name] for name in by_class if there[name]]
    assert found["prm_score"] == pytest.approx(np.mean(known))
    assert found["accuracy"] == pytest.approx(np.mean(right == kept))
    if both_sorts(steps):
        a, b = (recall_score(right, kept, pos_label=label, zero_division=0) for label in (True, False))
        assert found["balanced_f1"] == pytest.approx(2 * a * b / (a + b) if a + b else 0.0)
    else:
        assert np.isnan(found["balanced_f1"])


def test_a_case_by_hand():
    # 6 right steps of which 4 are kept, 4 wrong ones of which 3 are flagged.
    found = figures(np.array([4.0, 1.0, 3.0, 2.0]))
    assert found["f1_right"] == pytest.approx(8 / 11)
    assert found["f1_wrong"] == pytest.approx(6 / 9)
    assert found["prm_score"] == pytest.approx((8 / 11 + 6 / 9) / 2)
    assert found["balanced_f1"] == pytest.approx(2 * (2 / 3) * (3 / 4) / (2 / 3 + 3 / 4))
    assert found["accuracy"] == pytest.approx(0.7)
    assert np.isnan(figures(np.zeros(4))["prm_score"])


@given(traces)
def test_the_best_threshold_is_the_best_of_all(rows):
    steps = joined(rows)
    if not both_sorts(steps):
        with pytest.raises(ValueError, match="needs right and wrong steps"):
            steps.best_threshold()
        return

    def score(threshold):
        return figures(steps.cells(np.full(len(rows), threshold)).sum(axis=0))["prm_score"]

    values = steps.scores.tolist()
    candidates = [*values, *(float(np.nextafter(v, np.inf)) for v in values), -2.0]
    assert score(steps.best_threshold()) == pytest.approx(max(score(t) for t in candidates))


@given(traces, st.integers(0, 3))
def test_crossfit_uses_the_other_folds_alone(rows, seed):
    steps, ids = joined(rows), [f"t{i}" for i in range(len(rows))]
    try:
        chosen, folds = steps.crossfit_thresholds(ids, seed=seed)
    except ValueError:
        assume(False)
    assert folds.tolist() == fold_assignment(ids, np.array([any(b for _, b in row) for row in rows]), 5, seed).tolist()
    for fold in set(folds.tolist()):
        others = [row for row, f in zip(rows, folds, strict=True) if f != fold]
        assert set(chosen[folds == fold].tolist()) == {joined(others).best_threshold()}


@given(traces, st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_auc_and_average_precision_are_those_of_scikit_learn(rows, counts):
    steps, weights = joined(rows), np.array(counts[: len(rows)], dtype=np.float64)
    by_step = weights[steps.trace]
    alive = by_step > 0
    wrong, rank = steps.wrong[alive], np.unique(steps.scores, return_inverse=True)[1][alive]
    rows_of_weights = np.stack([weights, np.ones(len(rows)), weights])
    (precision, _, again), (area, _, _) = steps.average_precision(rows_of_weights), auc(steps.wins(), rows_of_weights)
    if not wrong.any():
        assert np.isnan([precision, area]).all()
        return
    assert precision == again == pytest.approx(average_precision_score(wrong, -rank, sample_weight=by_step[alive]))
    if wrong.all():
        assert np.isnan(area)
    else:
        assert area == pytest.approx(roc_auc_score(~wrong, rank, sample_weight=by_step[alive]))


@given(st.lists(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_solutions_and_first_errors_by_a_plain_loop(rows, data):
    thresholds = np.array([data.draw(st.sampled_from([-0.5, 0.5, 2.0])) for _ in rows])
    labels = [data.draw(st.sampled_from([None, -1, *range(len(row))])) for row in rows]
    wrong = [None if k is None else k >= 0 for k in labels]
    scores = [np.array(row) for row in rows]
    first, whole = (
        first_error_cells(scores, labels, thresholds),
        solution_cells(np.array([min(r) for r in rows]), wrong, thresholds),
    )
    for row, threshold, label, a, b in zip(rows, thresholds, labels, first.tolist(), whole.tolist(), strict=True):
        guess = next((i for i, s in enumerate(row) if s < threshold), -1)
        if label is None:
            assert a == b == [0, 0, 0, 0]
            continue
        assert a == ([guess == label, 1, 0, 0] if label >= 0 else [0, 0, guess == label, 1])
        flagged = guess >= 0
        assert b == [[not flagged, 0, 0, flagged], [0, not flagged, flagged, 0]][label >= 0]


def test_mean_of_known():
    found = mean_of_known(np.array([1.0, np.nan, np.nan]), np.array([0.0, 0.5, np.nan]))
    assert found[:2].tolist() == [0.5, 0.5]
    assert np.isnan(found[2])
