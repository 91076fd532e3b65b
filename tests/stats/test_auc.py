from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from prmbench.stats.auc import auc, auc_resamples, ranking_auc, step_wins


@st.composite
def labelled(draw):
    n = draw(st.integers(2, 10))
    rows = [np.array(draw(st.lists(st.integers(-2, 2).map(float), min_size=2, max_size=5))) for _ in range(n)]
    labels = [draw(st.integers(-1, len(row) - 1)) for row in rows]
    labels[0], labels[1] = 1, -1
    weights = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=np.float32)
    weights[:2] = np.maximum(weights[:2], 1)
    return rows, labels, weights


def steps_of(rows, labels):
    """(score, right?, trace) of each labelled step, one at a time."""
    return [
        (row[j], j != k, i)
        for i, (row, k) in enumerate(zip(rows, labels, strict=True))
        for j in range(len(row) if k < 0 else k + 1)
    ]


@given(labelled())
@settings(max_examples=200, deadline=None)
def test_weighted_auc_equals_scikit_learn(case):
    rows, labels, weights = case
    score, right, owner = (np.array(column) for column in zip(*steps_of(rows, labels), strict=True))
    ours = auc(step_wins(rows, labels), np.stack([np.ones_like(weights), weights]))
    assert ours[0] == pytest.approx(roc_auc_score(right, score), abs=1e-12)
    assert ours[1] == pytest.approx(roc_auc_score(right, score, sample_weight=weights[owner]), abs=1e-12)


def test_hand_worked_case():
    # Right steps 3, 1; wrong step 1: one win, one tie.
    assert auc(step_wins([np.array([3.0, 1.0, 9.0]), np.array([1.0])], [1, -1]))[0] == 0.75


def test_without_a_class_it_is_undefined():
    assert np.isnan(auc(step_wins([np.array([1.0])], [-1]))[0])
    assert np.isnan(auc(step_wins([np.array([1.0])], [0]))[0])


def test_resamples_match_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=4) for _ in range(60)]
    labels = [int(rng.integers(-1, 4)) for _ in range(60)]
    fast = auc_resamples(step_wins(rows, labels), n_resamples=4000, rng=np.random.default_rng(1))
    slow = []
    for _ in range(600):
        chosen = rng.integers(60, size=60)
        score, right, _ = zip(*steps_of([rows[i] for i in chosen], [labels[i] for i in chosen]), strict=True)
        slow.append(roc_auc_score(right, score))
    assert np.mean(fast) == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / np.sqrt(600))
    assert np.std(fast) == pytest.approx(np.std(slow), rel=0.15)


def test_each_resample_is_the_auc_of_the_traces_drawn():
    """Whatever the block, resample after resample uses the stream of draws, so that intervals can be computed again."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(-3, 4, size=5).astype(float) for _ in range(300)]
    labels = [int(rng.integers(-1, 5)) for _ in range(300)]
    found = auc_resamples(step_wins(rows, labels), n_resamples=20, rng=np.random.default_rng(7))
    score, right, owner = (np.array(column) for column in zip(*steps_of(rows, labels), strict=True))
    draws = np.random.default_rng(7).integers(300, size=(20, 300))
    for drawn, value in zip(draws, found, strict=True):
        times = np.bincount(drawn, minlength=300)[owner]
        assert value == pytest.approx(roc_auc_score(right, score, sample_weight=times), abs=1e-12)


def test_a_hundred_thousand_traces():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(100_000, 8)).round(3), np.where(np.arange(100_000) % 2, -1, 3)
    start = time.process_time()
    steps = step_wins(list(scores), labels.tolist())
    assert len(auc_resamples(steps, n_resamples=16, rng=rng)) == 16
    assert time.process_time() - start < 10
    labelled = (labels[:, None] < 0) | (np.arange(8) <= 3)
    right = ((labels[:, None] < 0) | (np.arange(8) < 3))[labelled]
    assert auc(steps)[0] == pytest.approx(roc_auc_score(right, scores[labelled]), abs=1e-12)


def test_more_steps_than_single_precision_counts():
    many = np.random.default_rng(0).normal(size=3_000_000)
    steps = step_wins([many, np.array([0.0, 0.2]), np.array([0.1])], [-1, 1, 0])
    above = [int((many > wrong).sum()) for wrong in (0.2, 0.1)]  # 0.0 is above neither
    assert auc(steps)[0] == pytest.approx(sum(above) / (3_000_001 * 2), rel=1e-15)
    weighted = auc(steps, np.array([[9.0, 2, 1]]))[0]
    assert weighted == pytest.approx((9 * 2 * above[0] + 9 * above[1]) / ((9 * 3_000_000 + 2) * 3), rel=1e-15)


def test_ranking_of_infinities_and_of_what_is_no_number():
    positive = np.array([True, False, True, False])
    assert ranking_auc(np.array([np.inf, 1.0, 2.0, -np.inf]), positive) == 1
    assert np.isnan(ranking_auc(np.array([np.nan, 1.0, 2.0, 3.0]), positive))


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
@settings(max_examples=80, deadline=None)
def test_ranking_auc_equals_sklearn(pairs):
    scores, positive = np.array([s for s, _ in pairs], dtype=np.float64), np.array([p for _, p in pairs])
    found = ranking_auc(scores, positive)
    if positive.all() or not positive.any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(positive, scores))
