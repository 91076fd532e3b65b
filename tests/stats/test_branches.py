from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr

from prmbench.stats.branches import Branches, reliability_figures, signal_figures
from prmbench.stats.weighted import resample


def make(n_states=60, top=5, rolled=6, seed=0, problems=30):
    rng = np.random.default_rng(seed)
    state = np.repeat(np.arange(n_states), top)
    truth = np.clip(rng.beta(1, 1, n_states)[state] + 0.25 * rng.standard_normal(len(state)), 0, 1)
    right = rng.binomial(rolled, truth)
    signal = truth + 0.4 * rng.standard_normal(len(state))
    return Branches(state, state % problems, right, rolled), truth, np.round(signal, 1)


def one(branches, signal):
    return {k: v[0] for k, v in signal_figures(signal, branches, np.ones((1, len(signal)))).items()}


def written_out(branches, signal):
    """Every rollout a row: (signal, outcome, state)."""
    rows = [
        (x, float(k < r), s)
        for x, r, s in zip(signal, branches.right, branches.state, strict=True)
        for k in range(branches.rolled)
    ]
    return (np.array(column) for column in zip(*rows, strict=True))


def test_single_rollouts_against_scipy():
    branches, _, signal = make()
    found = one(branches, signal)
    x, y, s = written_out(branches, signal)
    assert found["pearson"] == pytest.approx(pearsonr(x, y).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(x, y).statistic)
    pairs = [(a > b) + 0.5 * (a == b) for a in x[y == 1] for b in x[y == 0]]
    assert found["auc"] == pytest.approx(np.mean(pairs))
    x, y = x.copy(), y.copy()
    for state in range(s.max() + 1):
        x[s == state] -= x[s == state].mean()
        y[s == state] -= y[s == state].mean()
    assert found["within"] == pytest.approx(pearsonr(x, y).statistic)
    assert found["pearson_mean"] == pytest.approx(pearsonr(signal, branches.share).statistic)


def test_agreement_is_the_mean_tau_of_states_with_something_to_order():
    branches, _, signal = make(n_states=20, rolled=2)
    taus = []
    for state in range(20):
        mine = branches.state == state
        if np.ptp(signal[mine]) and np.ptp(branches.right[mine]):
            taus.append(kendalltau(signal[mine], branches.right[mine]).statistic)
    assert 0 < len(taus) < 20
    assert one(branches, signal)["agreement"] == pytest.approx(np.mean(taus))


def test_reliability_is_split_half_stepped_up():
    """Over all splits of the rollouts in two halves, the halves' covariance; then Spearman-Brown.

    The closed form differs by the mean's own noise alone, 1/n.
    """
    branches, _, _ = make(n_states=12, top=5, rolled=4)
    n, k = len(branches.right), branches.rolled
    outcomes = np.array([[float(j < r) for j in range(k)] for r in branches.right])
    covariances, variances = [], []
    for half in itertools.combinations(range(k), k // 2):
        other = [j for j in range(k) if j not in half]
        a, b = outcomes[:, list(half)].mean(axis=1), outcomes[:, other].mean(axis=1)
        # A row's outcomes are sorted: over all splits that makes no difference to the mean.
        covariances.append(np.mean(a * b) - branches.share.mean() ** 2)
        variances.append(np.mean(a * a) - branches.share.mean() ** 2)
    r = np.mean(covariances) / np.mean(variances)
    found = reliability_figures(branches, np.ones((1, n)))["reliability"][0]
    assert found == pytest.approx(2 * r / (1 + r), abs=2 / n)


def test_the_noise_is_taken_out():
    """With few rollouts the plain correlation is too low, the corrected one that with the true values; so within states."""
    few, truth, signal = make(n_states=4_000, rolled=2, problems=4_000)
    found = one(few, signal)
    real = pearsonr(signal, truth).statistic
    assert found["pearson"] < found["pearson_mean"] < real - 0.05
    assert found["corrected"] == pytest.approx(real, abs=0.02)
    centred = pearsonr(few.centred(signal), few.centred(truth)).statistic
    assert found["within_mean"] < centred - 0.05
    assert found["within_corrected"] == pytest.approx(centred, abs=0.03)
    true = reliability_figures(few, np.ones((1, len(truth))))
    assert true["reliability"][0] == pytest.approx(np.var(truth) / np.var(few.share), abs=0.03)
    assert true["within"][0] == pytest.approx(np.var(few.centred(truth)) / np.var(few.centred(few.share)), abs=0.03)


def test_one_rollout_gives_no_correction():
    branches, _, signal = make(rolled=1)
    found = one(branches, signal)
    assert np.isnan(found["corrected"])
    assert np.isnan(found["within_corrected"])
    assert found["pearson"] == pytest.approx(found["pearson_mean"])


def test_weights_are_repetition():
    """A cluster drawn twice is a cluster whose branches are there twice, as other states."""
    branches, _, signal = make(n_states=6, problems=3)
    counts = np.array([2, 0, 1])
    rows, states, new = [], [], 0
    for cluster, count in enumerate(counts):
        for state in np.unique(branches.state[branches.cluster == cluster]):
            for _ in range(count):
                rows += np.flatnonzero(branches.state == state).tolist()
                states += [new] * int(np.sum(branches.state == state))
                new += 1
    again = Branches(np.array(states), np.array(states), branches.right[rows], branches.rolled)
    expected = one(again, signal[rows])
    found = signal_figures(signal, branches, counts[branches.cluster][None].astype(float))
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value), name


def test_resamples_are_of_problems():
    branches, _, signal = make()
    samples = resample(branches.cluster, lambda w: signal_figures(signal, branches, w), 300, np.random.default_rng(0))
    again = resample(branches.cluster, lambda w: signal_figures(signal, branches, w), 300, np.random.default_rng(0))
    assert samples["auc"].shape == (300,)
    assert (samples["auc"] == again["auc"]).all()
    assert samples["pearson"].mean() == pytest.approx(one(branches, signal)["pearson"], abs=0.02)
    assert samples["pearson"].std() > 0.01
