"""The items and figures of a candidate-sets probe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict, model_validator
from pydantic.dataclasses import dataclass

from prmbench.results.items import ITEM_CONFIG, Count, SampleItem, Share
from prmbench.results.schema import Estimate, Record

PARTS = ("size", "mass", "several")


@dataclass(frozen=True, config=ITEM_CONFIG)
class RolloutCandidates(SampleItem):
    """Sums over the states of one rollout.

    Attributes:
        subset: The problem set.
        id: The problem's id.
        sample: The number of the rollout among its problem's, from 0.
        digest: sha256 (hex) of the problem.
        n_tokens: States: response tokens, the end of turn included.
        sets: By P_min: sizes of the candidate sets summed, their probability mass summed, and states with several candidates.
    """

    subset: str
    id: str
    sample: Count
    digest: str
    n_tokens: Count
    sets: dict[str, Annotated[tuple[Share, Share, Share], Strict(False)]]

    @model_validator(mode="after")
    def _fields_fit(self) -> RolloutCandidates:
        if not self.sets:
            raise ValueError("field 'sets' is empty; expected three numbers for each P_min")
        return self


class CandidateSetResult(Record):
    """Candidate sets at one P_min."""

    size: Estimate = Field(description="mean number of tokens with pi >= P_min, over states")
    mass: Estimate = Field(description="mean probability of those tokens together")
    several: Estimate = Field(description="share of states with two or more, the only ones where Dist-PPO chooses")


class CandidateSetsMetrics(Record):
    """The figures of a candidate-sets probe."""

    n_rollouts: int = Field(description="rollouts measured")
    n_states: int = Field(description="states of all rollouts: response tokens, the end of turn included")
    p_min: dict[str, CandidateSetResult] = Field(description="by P_min")
