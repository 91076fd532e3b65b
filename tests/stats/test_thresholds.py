from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.stats.thresholds import (
    best_threshold,
    crossfit_thresholds,
    f1_and_accuracies,
    f1_curve,
    f1_from_counts,
    fold_assignment,
    matches,
)

# Few distinct values, so that ties within and between traces are common; infinities included.
SCORE = st.one_of(
    st.integers(-3, 3).map(float), st.sampled_from([math.inf, -math.inf]), st.floats(-2, 2, allow_nan=False, width=32)
)


@st.composite
def labelled(draw):
    n = draw(st.integers(2, 12))
    scores = [draw(st.lists(SCORE, min_size=1, max_size=5)) for _ in range(n)]
    labels = [draw(st.integers(-1, len(row) - 1)) for row in scores]
    labels[0], labels[1] = 0, -1
    return scores, labels


def predict(row, threshold):
    """ProcessBench's prediction: the first step below the threshold."""
    return next((i for i, s in enumerate(row) if s < threshold), -1)


def slow_f1(scores, labels, threshold):
    """ProcessBench's definition, one trace at a time."""
    right = {True: [], False: []}
    for row, label in zip(scores, labels, strict=True):
        right[label >= 0].append(predict(row, threshold) == label)
    acc_error, acc_correct = (sum(right[kind]) / len(right[kind]) for kind in (True, False))
    return 0.0 if acc_error + acc_correct == 0 else 2 * acc_error * acc_correct / (acc_error + acc_correct)


def every_outcome(scores):
    """Thresholds that visit every distinct outcome: each value, just above each value, and both infinities."""
    values = sorted({s for row in scores for s in row})
    return [-math.inf, math.inf, *values, *(float(np.nextafter(v, math.inf)) for v in values)]


@given(labelled())
@settings(max_examples=400, deadline=None)
def test_best_threshold_equals_brute_force(case):
    scores, labels = case
    found = best_threshold(matches(scores, labels))
    assert not math.isnan(found)
    best = max(slow_f1(scores, labels, t) for t in every_outcome(scores))
    assert slow_f1(scores, labels, found) == pytest.approx(best, abs=1e-12)


@given(labelled(), st.one_of(SCORE, st.floats(-4, 4)))
@settings(max_examples=300, deadline=None)
def test_hit_equals_the_prediction_being_right(case, threshold):
    scores, labels = case
    hits = matches(scores, labels).hit(threshold)
    assert hits.tolist() == [predict(row, threshold) == k for row, k in zip(scores, labels, strict=True)]


@given(labelled())
@settings(max_examples=200, deadline=None)
def test_a_strictly_increasing_map_never_changes_the_best_f1(case):
    scores, labels = case
    mapped = [[math.atan(s) * 3 + 1 for s in row] for row in scores]
    if len({s for row in scores for s in row}) != len({s for row in mapped for s in row}):
        return  # the map collapsed two floats: no longer strictly increasing
    here, there = matches(scores, labels), matches(mapped, labels)
    assert slow_f1(scores, labels, best_threshold(here)) == slow_f1(mapped, labels, best_threshold(there))


def test_hand_worked_case():
    # A: wrong at 1, found for t in (1, 4]. B: wrong at 0, found for t > 2. C: right, kept for t <= 3. D: right, t <= 1.5.
    scores = [[4.0, 1.0, 9.0], [2.0, 5.0], [3.0, 8.0], [1.5, 7.0]]
    labels = [1, 0, -1, -1]
    found = matches(scores, labels)
    assert found.low.tolist() == [1.0, 2.0, -math.inf, -math.inf]
    assert found.high.tolist() == [4.0, math.inf, 3.0, 1.5]
    # (1, 1.5]: 1 and 2 of 2 -> 2/3; (1.5, 2]: 1 and 1 -> 1/2; (2, 3]: 2 and 1 -> 2/3; beyond: 0 of the right ones.
    # Two best intervals; (2, 3] is the wider, and its middle is returned.
    assert best_threshold(found) == 2.5
    assert slow_f1(scores, labels, 2.5) == pytest.approx(2 / 3)


def test_every_threshold_equally_good_gives_zero():
    # The wrong step is never below an earlier one, so no threshold finds it.
    assert best_threshold(matches([[1.0, 1.0], [0.0]], [1, -1])) == 0.0


def test_adjacent_floats():
    low = 1.0
    high = float(np.nextafter(low, 2))
    found = matches([[low], [high]], [0, -1])
    assert best_threshold(found) == high


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((0, 5, 0, 5), 0.0), ((5, 5, 5, 5), 1.0), ((1, 2, 1, 4), 1 / 3), ((0, 5, 5, 5), 0.0), ((3, 3, 0, 0), math.nan)],
)
def test_f1(counts, expected):
    assert float(f1_from_counts(*counts)) == pytest.approx(expected, nan_ok=True)


def test_equal_rationals_are_equal_floats():
    # 2/6 and 1/3 of the errors, same share of the correct ones: a tie must be a tie.
    assert f1_from_counts(2, 6, 3, 7) == f1_from_counts(1, 3, 6, 14)


def test_f1_and_its_accuracies_by_hand():
    """Two of three errors and one of two right traces are hit: F1 = 2 * (2/3) * (1/2) / (2/3 + 1/2) = 4/7."""
    hits, has_error = np.array([1, 1, 0, 1, 0], dtype=bool), np.array([1, 1, 1, 0, 0], dtype=bool)
    assert f1_and_accuracies(hits, has_error) == pytest.approx({"f1": 4 / 7, "acc_error": 2 / 3, "acc_correct": 1 / 2})
    alone = f1_and_accuracies(hits[:3], has_error[:3])
    assert alone == pytest.approx({"f1": math.nan, "acc_error": 2 / 3, "acc_correct": math.nan}, nan_ok=True)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([[1.0], [math.nan, 1.0]], [-1, 0], "trace 1: step 0 has a NaN"),
        ([[1.0]], [1], "trace 0: label 1 does not fit 1"),
        ([[]], [-1], "trace 0: label -1 does not fit 0"),
        ([[1.0]], [-2], "trace 0"),
    ],
)
def test_bad_input_names_the_trace(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        matches(scores, labels)


def test_one_class_is_an_error():
    with pytest.raises(ValueError, match="got 1 and 0"):
        best_threshold(matches([[1.0]], [0]))


def _random_case(n, seed):
    rng = np.random.default_rng(seed)
    scores = [rng.normal(size=rng.integers(1, 6)).round(1) for _ in range(n)]
    labels = [int(rng.integers(-1, len(row))) for row in scores]
    return scores, labels


def test_crossfit_equals_a_plain_loop():
    scores, labels = _random_case(60, 0)
    ids = [f"i{k}" for k in range(60)]
    found = matches(scores, labels)
    per_item, folds = crossfit_thresholds(found, ids, seed=3)
    for i in range(60):
        others = [j for j in range(60) if folds[j] != folds[i]]
        again = best_threshold(matches([scores[j] for j in others], [labels[j] for j in others]))
        assert per_item[i] == again


def test_crossfit_never_lets_a_trace_choose_its_own_threshold():
    scores, labels = _random_case(40, 1)
    ids = [f"i{k}" for k in range(40)]
    before, folds = crossfit_thresholds(matches(scores, labels), ids)
    for i in (0, 7, 23):
        changed = [row.copy() for row in scores]
        changed[i] = changed[i] * -50 + 100
        after, _ = crossfit_thresholds(matches(changed, labels), ids)
        same_fold = folds == folds[i]
        assert (after[same_fold] == before[same_fold]).all()


def test_folds_depend_on_ids_and_seed_not_on_order_and_spread_both_classes():
    ids = [f"i{k}" for k in range(53)]
    has_error = np.arange(53) % 3 == 0
    folds = fold_assignment(ids, has_error, 5, seed=1)
    shuffled = np.random.default_rng(0).permutation(53)
    again = fold_assignment([ids[i] for i in shuffled], has_error[shuffled], 5, seed=1)
    assert (again == folds[shuffled]).all()
    assert (folds != fold_assignment(ids, has_error, 5, seed=2)).any()
    for wanted in (True, False):
        sizes = np.bincount(folds[has_error == wanted], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    assert np.ptp(np.bincount(folds)) <= 1


@given(labelled())
@settings(deadline=None)
def test_the_curve_is_f1_at_every_threshold(case):
    """At, between and beyond all ends."""
    scores, labels = case
    ends, f1 = f1_curve(matches(scores, labels))
    assert ends[-1] == np.inf
    finite = ends[:-1]
    for t in (*finite, *(np.nextafter(e, np.inf) for e in finite), -1e9, 1e9):
        assert f1[np.searchsorted(ends, t)] == pytest.approx(slow_f1(scores, labels, t), nan_ok=True)
