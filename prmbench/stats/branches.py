"""How a signal of candidate tokens goes with what the policy makes of them (DESIGN 4.6).

A state has several branches, one a candidate token; every branch is rolled out K times, and a share of its rollouts is right. A
rollout is a coin toss, so the share is the branch's true value and noise. With K > 1 the noise is known (share (1 - share) /
(K - 1) a branch) and can be taken out of a correlation: divided by the square root of the share's reliability, the part of its
variance that is not noise. That reliability is the mean over all splits of the rollouts in two halves of the halves'
covariance, stepped up to K (Spearman-Brown), in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prmbench.stats.weighted import moments, ratio, weighted_auc, weighted_midranks

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Branches:
    """Outcomes of branches.

    Attributes:
        state: int64, shape [n], from 0 without gaps: the state a branch is of; branches of a state are side by side.
        cluster: int64, shape [n], likewise: what is drawn in a bootstrap (the problem), one for all branches of a state.
        right: int64, shape [n]: right rollouts. rolled: K.
    """

    state: Integers
    cluster: Integers
    right: Integers
    rolled: int

    @property
    def share(self) -> Floats:
        """Right rollouts of each branch, as a share. float64, shape [n]."""
        return self.right / self.rolled

    @property
    def coin(self) -> Floats:
        """share (1 - share): the variance of a branch's rollouts."""
        return self.share * (1 - self.share)

    @property
    def noise(self) -> Floats:
        """Unbiased variance of the share of each branch around its true value; NaN with one rollout."""
        return self.coin / (self.rolled - 1) if self.rolled > 1 else np.full(len(self.right), np.nan)

    def centred(self, values: Floats) -> Floats:
        """Values minus their state's mean."""
        size = np.bincount(self.state)
        return values - (np.bincount(self.state, weights=values) / size)[self.state]


def signal_figures(signal: Floats, branches: Branches, weights: Floats) -> dict[str, Floats]:
    """Everything about one signal, a number a row of weights (float64, shape [rows, n]).

    Returns:
        ``auc``: of the signal against single rollouts' outcomes. ``pearson``, ``spearman``: with single rollouts' outcomes (what
        a probe with one rollout a branch measures, whatever K). ``pearson_mean``: with the branch's share; ``corrected``: with its
        true value. ``within``, ``within_mean``, ``within_corrected``: the same three of deviations from the state's mean, so that
        differences between states and problems do not count. ``agreement``: Kendall's tau-b of signal and share within a state,
        over states in which both vary. NaN where a figure is not defined.
    """
    k, share = branches.rolled, branches.share
    spread = weights @ branches.coin  # of rollouts around their branch's share
    whole = moments(signal, share, weights)
    ranks = weighted_midranks(signal, weights * k)
    ranked = moments(ranks, share, weights)
    x, y = branches.centred(signal), branches.centred(share)
    xx, yy, xy = weights @ (x * x), weights @ (y * y), weights @ (x * y)
    return {
        "auc": weighted_auc(signal, weights * branches.right, weights * (k - branches.right)),
        "pearson": ratio(whole.xy, whole.xx * (whole.yy + spread)),
        "spearman": ratio(ranked.xy, ranked.xx * (ranked.yy + spread)),
        "pearson_mean": ratio(whole.xy, whole.xx * whole.yy),
        "corrected": ratio(whole.xy, whole.xx * (whole.yy - _noise(branches, weights))),
        "within": ratio(xy, xx * (yy + spread)),
        "within_mean": ratio(xy, xx * yy),
        "within_corrected": ratio(xy, xx * (yy - _noise_within(branches, weights))),
        "agreement": _agreement(signal, branches, weights),
    }


def reliability_figures(branches: Branches, weights: Floats) -> dict[str, Floats]:
    """``pass_rate``: mean share; ``reliability`` of the share over all branches, ``within`` states: 1 - noise / variance; NaN with
    one rollout a branch or without variance. A number a row of weights."""
    share = branches.share
    whole = moments(share, share, weights).yy
    within = weights @ branches.centred(share) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "pass_rate": weights @ share / weights.sum(axis=1),
            "reliability": np.where(whole > 0, 1 - _noise(branches, weights) / whole, np.nan),
            "within": np.where(within > 1e-12, 1 - _noise_within(branches, weights) / within, np.nan),
        }


def _noise(branches: Branches, weights: Floats) -> Floats:
    """What noise adds to the sum of squares about the mean, in expectation: each branch's own, less its part in the mean."""
    n = weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ branches.noise) * (1 - 1 / n)


def _noise_within(branches: Branches, weights: Floats) -> Floats:
    size = np.bincount(branches.state)[branches.state]
    return weights @ (branches.noise * (size - 1) / size)


def _agreement(signal: Floats, branches: Branches, weights: Floats) -> Floats:
    from scipy.stats import kendalltau  # here: half a second that other figures need not wait for

    starts = np.flatnonzero(np.r_[True, np.diff(branches.state) != 0])
    taus = []
    for start, end in zip(starts, [*starts[1:], len(signal)], strict=True):
        x, y = signal[start:end], branches.right[start:end]
        both = np.ptp(x) > 0 and np.ptp(y) > 0
        taus.append(float(kendalltau(x, y).statistic) if both else np.nan)
    tau = np.array(taus)
    of_state = weights[:, starts] * ~np.isnan(tau)
    total = of_state.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, of_state @ np.nan_to_num(tau) / total, np.nan)
