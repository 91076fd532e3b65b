"""The figures of a ProcessBench entry, and the settings of their statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import Field

from prmbench.results.schema import Estimate, Record
from prmbench.stats.protocols import DIRECT

POLICIES = ("crossfit", "gsm8k", "oracle", "fixed", DIRECT)
N_RANDOM = 20

Figure = TypeVar("Figure")


def quoted(policies: Mapping[str, Figure]) -> Figure | None:
    """The figure to quote of those by threshold policy: crossfit's, or a direct prediction's own; None: neither is defined."""
    return policies.get("crossfit", policies.get(DIRECT))


class PolicyResult(Record):
    """F1 under one way of choosing the threshold."""

    f1: Estimate = Field(description="harmonic mean of acc_error and acc_correct; 0 when both are 0")
    acc_error: Estimate = Field(description="share of traces with an error whose first wrong step is found exactly")
    acc_correct: Estimate = Field(description="share of traces without an error predicted to have none")
    thresholds: list[float] = Field(description="logit; one, for crossfit one a fold, for direct none")


class Group(Record):
    """F1 on part of a subset, predicted under crossfit thresholds (oracle where there are none), or as directly predicted."""

    name: str = Field(description="position of the first error, or generator")
    n_error: int = Field(description="traces with an error in the group")
    n_correct: int = Field(description="traces without one; for positions: all of the subset")
    f1: float | None = Field(description="null: a class is empty")
    acc_error: float | None = Field(description="as above, within the group")
    acc_correct: float | None = Field(description="as above, within the group")


class VoteCounts(Record):
    """Votes of a critic on one subset."""

    n: int = Field(description="votes of all traces")
    unparsed: int = Field(description="texts that hold no verdict; left out of the majority")
    undecided: int = Field(description="traces without a single verdict; they count as wrong")
    outside: int = Field(description="traces whose verdict is no step of theirs and not -1; wrong too")


class SubsetResult(Record):
    """One protocol on one subset."""

    policies: dict[str, PolicyResult] = Field(
        description="by threshold policy: crossfit, gsm8k, oracle, fixed; direct: a prediction without a threshold"
    )
    undefined: dict[str, str] = Field(default_factory=dict, description="policies that could not be computed, and why")
    optimism: float | None = Field(
        None, description="oracle F1 minus crossfit F1: what choosing on the test items adds"
    )
    step_auc: Estimate = Field(description="AUC of right steps against first wrong steps")
    by_position: list[Group] = Field(default_factory=list, description="by index of the first wrong step")
    by_generator: list[Group] = Field(default_factory=list, description="by what wrote the solution")
    votes: VoteCounts | None = Field(None, description="of a critic; null: no votes")


class ProtocolResult(Record):
    """One protocol on all subsets."""

    subsets: dict[str, SubsetResult] = Field(description="by subset name")
    mean: dict[str, Estimate] = Field(description="plain mean of the subsets' F1, by threshold policy")


class ProcessBenchMetrics(Record):
    """Figures of a ProcessBench entry."""

    protocols: dict[str, ProtocolResult] = Field(description="by scoring protocol; process and prefix come first")
    baselines: dict[str, ProtocolResult] = Field(
        description=f"the same for scores that know nothing: random (mean of {N_RANDOM} draws), position, length"
    )


@dataclass(frozen=True)
class Plan:
    """Settings of the statistics. n_resamples: bootstrap resamples; seed: of folds, resamples and random scores."""

    n_resamples: int = 10_000
    seed: int = 0

    def changed(self, n_resamples: int | None, seed: int | None) -> Plan:
        """This plan with what is given put over it."""
        return Plan(self.n_resamples if n_resamples is None else n_resamples, self.seed if seed is None else seed)
