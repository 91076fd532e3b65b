from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from prmbench.stats.weighted import cluster_weights, moments, ratio, weighted_auc, weighted_midranks


@st.composite
def cases(draw):
    n = draw(st.integers(2, 12))
    values = draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n))  # few values: many ties
    counts = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    other = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    return np.array(values, dtype=float), np.array(counts), np.array(other, dtype=float)


@given(cases())
def test_as_if_every_item_were_written_out(case):
    """Weights that are counts are the same as items repeated."""
    values, counts, other = case
    w = counts[None].astype(float)
    long, along = np.repeat(values, counts), np.repeat(other, counts)
    if len(long):
        assert np.repeat(weighted_midranks(values, w)[0], counts) == pytest.approx(rankdata(long))
        found = moments(values, other, w)
        assert found.xy[0] == pytest.approx(np.sum((long - long.mean()) * (along - along.mean())), abs=1e-9)
        assert found.yy[0] == pytest.approx(np.sum((along - along.mean()) ** 2), abs=1e-9)
    if len(set(long)) > 1 and len(set(along)) > 1:
        ranks = moments(weighted_midranks(values, w), weighted_midranks(other, w)[0], w)
        rho = ratio(ranks.xy, ranks.xx * ranks.yy)[0]
        assert rho == pytest.approx(spearmanr(long, along).statistic)


@given(cases())
def test_auc_is_that_of_the_pairs(case):
    values, positive, negative = case
    up, down = np.repeat(values, positive), np.repeat(values, negative.astype(int))
    found = weighted_auc(values, positive[None].astype(float), negative[None])[0]
    if not len(up) or not len(down):
        assert np.isnan(found)
        return
    truth = np.r_[np.ones(len(up)), np.zeros(len(down))]
    assert found == pytest.approx(roc_auc_score(truth, np.r_[up, down]))


def test_worked_by_hand():
    # 1 < 2 = 2 < 3; positives at 2 and 3, negatives at 1 and 2: pairs (2,1) 1, (2,2) 1/2, (3,1) 1, (3,2) 1
    scores = np.array([1.0, 2.0, 2.0, 3.0])
    assert weighted_auc(scores, np.array([[0, 1.0, 0, 1]]), np.array([[1.0, 0, 1, 0]]))[0] == 3.5 / 4
    assert weighted_midranks(scores, np.ones((1, 4))).tolist() == [[1, 2.5, 2.5, 4]]
    assert weighted_midranks(scores, np.array([[2.0, 1, 0, 1]]))[0, [0, 1, 3]].tolist() == [1.5, 3, 4]


def test_clusters_are_drawn_whole():
    cluster = np.array([0, 0, 1, 2, 2, 2])
    weights = cluster_weights(cluster, 200, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert weights[:, 2].mean() == pytest.approx(1, abs=0.2)


def test_no_variance_is_not_a_correlation():
    found = moments(np.ones(4), np.arange(4.0), np.ones((1, 4)))
    assert np.isnan(ratio(found.xy, found.xx * found.yy)[0])


def test_what_does_not_vary_in_a_resample_has_no_variance():
    """The share of a sample that draws one problem alone, far from the mean of all: rounding is not variance."""
    y = np.r_[np.full(10, 1 / 3), np.random.default_rng(0).integers(0, 4, 20) / 3]
    weights = np.r_[np.full(10, 3.0), np.zeros(20)][None]
    found = moments(y, y, np.vstack([weights, 7 * weights, np.ones(30)]))
    assert found.yy[:2].tolist() == found.xx[:2].tolist() == [0, 0]
    assert found.yy[2] == pytest.approx(30 * y.var())
