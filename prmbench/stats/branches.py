"""How a signal of candidate tokens goes with what the policy makes of them (the TD probe, docs/protocols.md).

A state has several branches, one for each candidate token. Every branch is rolled out K times, and a share of its rollouts is
right. A rollout is a coin toss, so the share is the branch's true value plus noise. With K > 1 the noise of a branch is known: it
is share (1 - share) / (K - 1). It can be taken out of a correlation, which is then divided by the square root of the share's
reliability: the part of the share's variance that is not noise. That reliability is the mean, over all splits of the rollouts in
two halves, of the covariance of the halves, stepped up to K (Spearman-Brown), in closed form.
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
        state: The state that each branch is of, counted from 0 without gaps. Branches of a state are side by side. Shape [n].
        cluster: What a bootstrap draws as a whole (the problem), counted from 0 without gaps. All branches of a state have the
            same. Shape [n].
        right: Right rollouts of each branch. Shape [n].
        rolled: Rollouts of every branch, K.
    """

    state: Integers
    cluster: Integers
    right: Integers
    rolled: int

    @property
    def share(self) -> Floats:
        """Share of each branch's rollouts that is right. Shape [n]."""
        return self.right / self.rolled

    @property
    def coin(self) -> Floats:
        """Variance of the rollouts of each branch, share (1 - share). Shape [n]."""
        return self.share * (1 - self.share)

    @property
    def noise(self) -> Floats:
        """Unbiased variance of each branch's share around its true value; NaN with one rollout. Shape [n]."""
        return self.coin / (self.rolled - 1) if self.rolled > 1 else np.full(len(self.right), np.nan)

    def centred(self, values: Floats) -> Floats:
        """Subtract from each value the mean of its state.

        Args:
            values: One value a branch. Shape [n].

        Returns:
            The differences. Shape [n].
        """
        size = np.bincount(self.state)
        return values - (np.bincount(self.state, weights=values) / size)[self.state]


def signal_figures(signal: Floats, branches: Branches, weights: Floats) -> dict[str, Floats]:
    """Compute everything about one signal.

    Args:
        signal: One finite value a branch. Shape [n].
        branches: What became of the branches.
        weights: How often each branch counts, equal within a state. Shape [rows, n].

    Returns:
        Figures of shape [rows]; NaN where one is not defined. ``auc`` is of the signal against the outcomes of single rollouts.
        ``pearson`` and ``spearman`` are correlations with the outcomes of single rollouts, which is what a probe with one
        rollout a branch measures, whatever K is. ``pearson_mean`` is the correlation with the branch's share, and ``corrected``
        with its true value. ``within``, ``within_mean`` and ``within_corrected`` are the same three of deviations from the
        state's mean, so that differences between states and problems do not count. ``agreement`` is Kendall's tau-b of signal
        and share within a state, averaged over the states in which both vary.
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
    """Compute how much of the variance of the branches' shares is not noise.

    Args:
        branches: What became of the branches.
        weights: How often each branch counts, equal within a state. Shape [rows, n].

    Returns:
        Figures of shape [rows]. ``pass_rate`` is the mean share. ``reliability`` is 1 - noise / variance over all branches, and
        ``within`` the same within states; both are NaN with one rollout a branch, or without variance.
    """
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
    """What noise adds, in expectation, to the sum of squares about the mean: each branch's own, less its part in the mean."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((weights @ branches.noise) * (1 - 1 / weights.sum(axis=1)))


def _noise_within(branches: Branches, weights: Floats) -> Floats:
    """The same within states."""
    size = np.bincount(branches.state)[branches.state]
    return weights @ (branches.noise * (size - 1) / size)


def _agreement(signal: Floats, branches: Branches, weights: Floats) -> Floats:
    """Average Kendall's tau-b over states.

    All pairs of branches that are a certain distance apart are compared at once, for each distance within a state.
    `scipy.stats.kendalltau` takes one state at a time, which makes a bootstrap over many states slow.
    """
    state = branches.state
    starts = np.flatnonzero(np.diff(state, prepend=-1))
    # Of the pairs in each state: their signs' product, those that differ in x, those that differ in y.
    agree = np.zeros((3, len(starts)))
    for distance in range(1, int(np.bincount(state).max())):
        first = np.flatnonzero(state[distance:] == state[:-distance])
        x, y = (np.sign(v[first + distance] - v[first]) for v in (signal, branches.right))
        agree += [np.bincount(state[first], weights=w, minlength=len(starts)) for w in (x * y, x * x, y * y)]
    tau = ratio(agree[0], agree[1] * agree[2])
    of_state = weights[:, starts] * ~np.isnan(tau)
    total = of_state.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, of_state @ np.nan_to_num(tau) / total, np.nan)
