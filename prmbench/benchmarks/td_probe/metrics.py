"""Figures of the TD probe from items alone (docs/protocols.md, "TD probe")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.clustered import clustered_estimates, numbered
from prmbench.benchmarks.td_probe.schema import (
    P_MIN,
    BranchGroup,
    BranchItem,
    PositionResult,
    SignalResult,
    TDProbeMetrics,
)
from prmbench.errors import UserError
from prmbench.results.schema import Estimate, Subject
from prmbench.reward_models.objectives import Convention
from prmbench.stats.branches import Branches, reliability_figures, signal_figures
from prmbench.stats.calibration import margin_logit, sigmoid

Floats = NDArray[np.float64]

N_POSITIONS = 5
MIN_RELIABILITY = 0.05
"""Below it a correlation is not corrected: the correction would multiply it by more than four, and by anything near 0."""


@dataclass(frozen=True)
class Columns:
    """Items as arrays, sorted by state. All have shape [n].

    Attributes:
        branches: What became of the branches.
        signals: Signals of the branches by name.
        position: Where in its trajectory each branch is, from 0 to 1.
        probability: The policy's probability of each branch.
    """

    branches: Branches
    signals: dict[str, Floats]
    position: Floats
    probability: Floats


def columns_of(items: Sequence[BranchItem], subject: Subject) -> Columns:
    """Turn items into arrays.

    Args:
        items: The items of one run.
        subject: What was evaluated; gives beta and the link from values to probabilities.

    Raises:
        UserError: Branches have different numbers of rollouts.
    """
    items = sorted(items, key=lambda item: (item.state, item.rank))
    numbers = {item.rolled for item in items}
    if len(numbers) != 1:
        raise UserError(f"branches have {min(numbers)} to {max(numbers)} rollouts; expected equally many of each")
    before = subject.beta * np.array([item.sum for item in items])
    td = subject.beta * np.array([item.ratio for item in items])
    t = np.array([item.t for item in items], dtype=np.float64)
    value = before + td
    logprob = np.array([item.logprob for item in items])
    signals = {"td": td, "value": value, "abs_value": np.abs(value), "mean_value": value / (t + 1)}
    convention = Convention.of(subject)
    if convention.margin is not None:
        old, new = (before / t, value / (t + 1)) if convention.own == "token_mean" else (before, value)
        old, new = (sigmoid(margin_logit(v, convention.margin)) for v in (old, new))
        signals["probability"] = new - old
    signals["policy"] = logprob
    branches = Branches(
        numbered([item.state for item in items]),
        numbered([(item.subset, item.id) for item in items]),
        np.array([item.right for item in items], dtype=np.int64),
        numbers.pop(),
    )
    return Columns(branches, signals, t / np.array([item.length for item in items]), np.exp(logprob))


def compute_td_probe(items: Sequence[BranchItem], subject: Subject, *, n_resamples: int, seed: int) -> TDProbeMetrics:
    """Compute all figures, from items and the subject. Intervals draw problems with replacement.

    Args:
        items: The items of one run.
        subject: What was evaluated; gives beta and the link from values to probabilities.
        n_resamples: Bootstrap resamples; 0 gives no intervals.
        seed: Seed of the draws.
    """
    found = columns_of(items, subject)
    branches = found.branches
    everything = np.ones(len(items), dtype=bool)
    several = _states_with_several(branches, found.probability >= P_MIN)
    positions = []
    for i in range(N_POSITIONS):
        low, high = i / N_POSITIONS, (i + 1) / N_POSITIONS
        inside = (found.position >= low) & ((found.position < high) | (i == N_POSITIONS - 1))
        if inside.any():
            positions.append(_position(found, inside, low, high, n_resamples, seed))
    return TDProbeMetrics(
        rollouts_per_branch=branches.rolled,
        mass=float(found.probability.sum() / (branches.state.max() + 1)),
        truncated=sum(item.cut for item in items) / (len(items) * branches.rolled),
        branches=_group(found, everything, n_resamples, seed),
        candidates=_group(found, several, n_resamples, seed) if several.any() else None,
        positions=positions,
    )


def _refused(reliability: Estimate, rolled: int, of: str) -> str:
    """Why a correlation is not corrected for noise; empty where it is."""
    if rolled == 1:
        return "one rollout a branch says nothing of their noise"
    if reliability.value is None:
        return f"the shares do not vary over {of}"
    if reliability.value < MIN_RELIABILITY or (reliability.low is not None and reliability.low <= 0):
        return (
            f"the shares' reliability over {of} is about 0 (below {MIN_RELIABILITY}, or its interval holds 0): it may all be "
            "rollout noise"
        )
    return ""


def _group(found: Columns, kept: NDArray[np.bool_], n_resamples: int, seed: int) -> BranchGroup:
    branches = _subset(found.branches, kept)
    common = clustered_estimates(
        branches.cluster, lambda w: reliability_figures(branches, w), n_resamples, seed, frozenset({"pass_rate"})
    )
    refused = {
        "corrected": _refused(common["reliability"], branches.rolled, "all branches"),
        "within_corrected": _refused(common["within"], branches.rolled, "branches of one state"),
    }
    signals = {}
    for name, values in found.signals.items():
        figures = _of_signal(values[kept], branches, n_resamples, seed)
        signals[name] = SignalResult(
            **{key: Estimate(value=None) if refused.get(key) else one for key, one in figures.items()}
        )
    return BranchGroup(
        n_states=int(branches.state.max()) + 1,
        n_branches=len(branches.right),
        pass_rate=common["pass_rate"],
        reliability=common["reliability"],
        within_reliability=common["within"],
        signals=signals,
        notes=[f"{name.replace('_', ', ')}: refused, {why}" for name, why in refused.items() if why],
    )


def _position(
    found: Columns, inside: NDArray[np.bool_], low: float, high: float, n_resamples: int, seed: int
) -> PositionResult:
    branches = _subset(found.branches, inside)
    value, td = (_of_signal(found.signals[name][inside], branches, n_resamples, seed) for name in ("value", "td"))
    return PositionResult(
        low=low,
        high=high,
        n_branches=int(inside.sum()),
        pass_rate=float(branches.share.mean()),
        value_auc=value["auc"],
        td_pearson=td["pearson"],
    )


def _of_signal(values: Floats, branches: Branches, n_resamples: int, seed: int) -> dict[str, Estimate]:
    return clustered_estimates(branches.cluster, lambda w: signal_figures(values, branches, w), n_resamples, seed)


def _subset(branches: Branches, kept: NDArray[np.bool_]) -> Branches:
    state, cluster = (np.unique(x[kept], return_inverse=True)[1] for x in (branches.state, branches.cluster))
    return Branches(state, cluster, branches.right[kept], branches.rolled)


def _states_with_several(branches: Branches, likely: NDArray[np.bool_]) -> NDArray[np.bool_]:
    several = np.bincount(branches.state, weights=likely) >= 2
    return likely & several[branches.state]
