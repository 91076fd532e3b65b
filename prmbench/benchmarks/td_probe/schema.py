"""The items and figures of a TD probe."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from prmbench.results.items import ITEM_CONFIG, Count, Number, SampleItem
from prmbench.results.schema import Estimate, Record

P_MIN = 0.1
"""Branches at least this likely are those that DistRL would use (Eq. 25)."""


@dataclass(frozen=True, config=ITEM_CONFIG)
class BranchItem(SampleItem):
    """One branch: a state, a next token, and what became of its rollouts.

    Attributes:
        subset: The problem set.
        id: The problem's id.
        sample: The number of the trajectory among its problem's, from 0.
        digest: sha256 (hex) of the problem.
        rank: 0 for the likeliest next token of the state.
        t: Response tokens before the branch.
        length: Response tokens of the trajectory.
        token: The id of the branch's token.
        logprob: log pi(token given the state).
        sum: The reward model's token values summed over the t tokens, before beta.
        ratio: The reward model's value of the branch's token, before beta.
        right: Rollouts that ended right.
        rolled: Rollouts of the branch.
        cut: Rollouts that were truncated.
    """

    subset: str
    id: str
    sample: Count
    digest: str
    rank: Count
    t: Count
    length: Count
    token: Count
    logprob: Number
    sum: Number
    ratio: Number
    right: Count
    rolled: Count
    cut: Count

    @model_validator(mode="after")
    def _fields_fit(self) -> BranchItem:
        if self.rolled < 1 or max(self.right, self.cut) > self.rolled:
            raise ValueError("expected 'rolled' at least 1, 'right' and 'cut' from 0 to 'rolled'")
        if not 1 <= self.t < self.length:
            raise ValueError("expected 't' at least 1 and below 'length'")
        return self

    @property
    def state(self) -> tuple[str, str, int]:
        """What the branches of a state share."""
        return self.subset, self.id, self.sample

    @property
    def key(self) -> tuple[str, str]:
        """What names the item within a run."""
        return self.subset, f"{self.id}/{self.sample}/{self.rank}"


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
    n_branches: int = Field(description="branches of the group")
    pass_rate: float = Field(description="mean share of right rollouts")
    value_auc: Estimate = Field(description="AUC of the prefix value")
    td_pearson: Estimate = Field(description="correlation of TD with single rollouts' outcomes")


class BranchGroup(Record):
    """Figures of a group of branches."""

    n_states: int = Field(description="states of the group")
    n_branches: int = Field(description="branches of the group")
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

    rollouts_per_branch: int = Field(description="K")
    mass: float = Field(description="mean probability under the policy of a state's branches together")
    truncated: float = Field(description="share of rollouts cut at the token limit, which count as wrong")
    branches: BranchGroup = Field(description="all branches")
    candidates: BranchGroup | None = Field(
        description=f"branches with pi >= {P_MIN} in states that have several, the choices DistRL acts on; null: there are none"
    )
    positions: list[PositionResult] = Field(description="fifths of the response, those that have branches")
