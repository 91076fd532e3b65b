"""Figures of the TD probe, computed from its items alone (DESIGN 4.6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prmbench.benchmarks.clustered import clustered_estimates, numbered
from prmbench.data.records import LARGE, check_fields, check_number, read_records
from prmbench.errors import UserError
from prmbench.results.schema import Estimate, Record, Subject
from prmbench.reward_models.objectives import Convention
from prmbench.stats.branches import Branches, reliability_figures, signal_figures
from prmbench.stats.calibration import margin_logit, sigmoid

Floats = NDArray[np.float64]

P_MIN = 0.1
"""Branches at least this likely are those that DistRL would use (Eq. 25)."""
N_POSITIONS = 5
MIN_RELIABILITY = 0.05
"""Below it a correlation is not corrected: the correction would multiply it by more than four, and by anything near 0."""


@dataclass(frozen=True)
class BranchItem:
    """One branch: a state, a next token, and what became of its rollouts. No text.

    Attributes:
        subset, id, digest: the problem's set, id and sha256. sample: of the trajectory. rank: 0 for the likeliest next token.
        t: response tokens before the branch. length: response tokens of the trajectory. token: the branch's id.
        logprob: log pi(token given the state). sum: of the reward model's token values over the t tokens, before beta.
        ratio: token value of the branch, before beta. right, rolled: rollouts that ended right, of how many. cut: truncated ones.
    """

    subset: str
    id: str
    sample: int
    digest: str
    rank: int
    t: int
    length: int
    token: int
    logprob: float
    sum: float
    ratio: float
    right: int
    rolled: int
    cut: int

    @property
    def state(self) -> tuple[str, str, int]:
        """What the branches of a state share."""
        return self.subset, self.id, self.sample

    @property
    def key(self) -> tuple[str, str]:
        """What names it within a run."""
        return self.subset, f"{self.id}/{self.sample}/{self.rank}"

    def line(self) -> str:
        """One JSON line."""
        return json.dumps(self.__dict__) + "\n"


def parse_branch(place: str, record: Any) -> BranchItem:
    """Check one item's fields. Raises UserError that names the place and the field."""
    numbers = ("logprob", "sum", "ratio")
    kinds = {f.name: {"str": str, "int": int}[str(f.type)] for f in fields(BranchItem) if f.name not in numbers}
    kept = check_fields(place, record, kinds, "a branch")
    for name in numbers:
        value = record.get(name)
        check_number(place, name, value)
        kept[name] = float(value)
    whole = kept["right"], kept["cut"]
    if not 1 <= kept["rolled"] < LARGE or not all(0 <= n <= kept["rolled"] for n in whole):
        raise UserError(f"{place}: expected 'rolled' at least 1, 'right' and 'cut' from 0 to 'rolled'")
    if not 1 <= kept["t"] < kept["length"] < LARGE or not 0 <= kept["rank"] < LARGE:
        raise UserError(f"{place}: expected 't' at least 1 and below 'length', 'rank' at least 0")
    return BranchItem(**kept)


def read_branches(path: Path) -> list[BranchItem]:
    """Read an items file. Raises UserError for a broken line, a wrong field, or the same branch twice."""
    found: dict[tuple[str, str], BranchItem] = {}
    for place, record in read_records(path):
        item = parse_branch(place, record)
        if item.key in found:
            raise UserError(f"{place}: branch {item.rank} of '{item.id}' is there twice; delete one of the lines")
        found[item.key] = item
    return list(found.values())


class SignalResult(Record):
    """How one signal of a branch goes with the outcome of its rollouts; null: not defined on these branches."""

    auc: Estimate = Field(description="AUC against single rollouts' outcomes")
    pearson: Estimate = Field(description="correlation with single rollouts' outcomes, as the paper reports it")
    spearman: Estimate = Field(description="rank correlation with single rollouts' outcomes")
    pearson_mean: Estimate = Field(description="correlation with the share of a branch's rollouts that are right")
    corrected: Estimate = Field(
        description="correlation with the branch's true value: pearson_mean over the root of the share's reliability; null: "
        "refused, one rollout a branch or reliability about 0"
    )
    within: Estimate = Field(
        description="pearson of deviations from the state's mean: differences between states left out"
    )
    within_mean: Estimate = Field(description="pearson_mean of deviations from the state's mean")
    within_corrected: Estimate = Field(description="corrected, of deviations from the state's mean")
    agreement: Estimate = Field(
        description="mean over states of Kendall's tau-b between signal and share, where both vary"
    )


class PositionResult(Record):
    """Branches of one part of the response."""

    low: float = Field(description="from this share of the trajectory's tokens")
    high: float = Field(description="to below this share")
    n_branches: int
    pass_rate: float = Field(description="mean share of right rollouts")
    value_auc: Estimate = Field(description="AUC of the prefix value")
    td_pearson: Estimate = Field(description="correlation of TD with single rollouts' outcomes")


class BranchGroup(Record):
    """Figures of a group of branches."""

    n_states: int
    n_branches: int
    pass_rate: Estimate = Field(description="share of right rollouts")
    reliability: Estimate = Field(description="part of the variance of branches' shares that is not rollout noise")
    within_reliability: Estimate = Field(description="the same of deviations from the state's mean")
    signals: dict[str, SignalResult] = Field(
        description="td: V(s') - V(s) (Eqs. 6, 10); value: V(s') (Eq. 5); abs_value: |V(s')|; mean_value: v_bar; probability: "
        "change of the objective's corrected probability, where it has one; policy: log-prob of the token, without a reward model"
    )
    notes: list[str] = Field(default_factory=list, description="what was refused, and why")


class TDProbeMetrics(Record):
    """Figures of a TD probe."""

    rollouts_per_branch: int
    mass: float = Field(description="mean probability under the policy of a state's branches together")
    truncated: float = Field(description="share of rollouts cut at the token limit, which count as wrong")
    branches: BranchGroup = Field(description="all branches")
    candidates: BranchGroup | None = Field(
        description=f"branches with pi >= {P_MIN} in states that have several, the choices DistRL acts on; null: there are none"
    )
    positions: list[PositionResult] = Field(description="fifths of the response, those that have branches")


@dataclass(frozen=True)
class Columns:
    """Items as arrays, sorted by state; the outcomes, and signals by name, each float64, shape [n]."""

    branches: Branches
    signals: dict[str, Floats]
    position: Floats
    probability: Floats


def columns_of(items: Sequence[BranchItem], subject: Subject) -> Columns:
    """Arrays of items.

    Raises:
        UserError: branches with different numbers of rollouts.
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
    """All figures, from items and the subject's beta and objective; intervals draw problems with replacement."""
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
