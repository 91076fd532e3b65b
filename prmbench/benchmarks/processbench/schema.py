"""The items and figures of a ProcessBench entry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import AliasChoices, Field, Strict, model_validator
from pydantic.dataclasses import dataclass

from prmbench.results.items import ITEM_CONFIG, Counts, Item, Numbers
from prmbench.results.schema import Entry, Estimate, Record
from prmbench.stats.protocols import DIRECT

RULES = ("crossfit", "gsm8k", "oracle", "fixed", DIRECT)
"""Threshold rules: how the threshold is chosen that a step's score has to stay above."""
BASELINES = ("random", "position", "length")
N_RANDOM = 20

Figure = TypeVar("Figure")


def quoted(by_rule: Mapping[str, Figure]) -> Figure | None:
    """The figure to quote: that of ``crossfit``, or of a direct prediction; None where neither is defined.

    Args:
        by_rule: Figures by threshold rule.
    """
    return by_rule.get("crossfit", by_rule.get(DIRECT))


@dataclass(frozen=True, config=ITEM_CONFIG)
class TraceItem(Item):
    """The scores of one trace: exactly one of sums, scores and votes.

    Attributes:
        subset: The trace's subset.
        id: The trace's id.
        generator: What wrote the solution.
        label: Index of the first wrong step, -1: none.
        digest: sha256 (hex) of the trace (`prmbench.data.traces.Trace.digest`).
        n_tokens: Tokens of each step. Shape [n_steps].
        sums: Token values summed over each step, before beta. Shape [n_steps].
        scores: Scores of models that score steps, logits. Shape [n_steps].
        votes: The first wrong step as a critic named it, once a vote; None for a vote that holds no verdict.
    """

    subset: str
    id: str
    generator: str
    label: Annotated[int, Field(ge=-1)]
    digest: str
    n_tokens: Counts
    sums: Numbers | None = None
    scores: Numbers | None = None
    votes: Annotated[tuple[int | None, ...], Strict(False)] | None = None

    @property
    def sort(self) -> str:
        """Which of sums, scores and votes the item has."""
        return next(name for name in ("sums", "scores", "votes") if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _fields_fit(self) -> TraceItem:
        values = [one for one in (self.sums, self.scores, self.votes) if one is not None]
        if len(values) != 1:
            raise ValueError(f"expected one of 'sums', 'scores' and 'votes', found {len(values)} of them")
        n_steps = len(self.n_tokens)
        if self.votes is not None and not (self.votes and n_steps):
            raise ValueError("field 'votes' must be a list of at least one vote, 'n_tokens' one of at least one step")
        if self.votes is None and (not n_steps or len(values[0]) != n_steps):
            raise ValueError(f"fields 'n_tokens' and '{self.sort}' must be lists of one length, one number a step")
        if self.label >= n_steps:
            raise ValueError(f"field 'label' is {self.label}; expected -1 to {n_steps - 1}")
        return self

    def first_nan(self) -> int | None:
        """Index of the first step whose score is NaN; None: there is none."""
        values = self.sums if self.sums is not None else self.scores
        return None if values is None else next((i for i, v in enumerate(values.tolist()) if math.isnan(v)), None)


class RuleResult(Record):
    """F1 under one threshold rule."""

    f1: Estimate = Field(description="harmonic mean of acc_error and acc_correct; 0 when both are 0")
    acc_error: Estimate = Field(description="share of traces with an error whose first wrong step is found exactly")
    acc_correct: Estimate = Field(description="share of traces without an error predicted to have none")
    thresholds: list[float] = Field(description="logits: one; under crossfit one a fold; under direct none")


class GroupResult(Record):
    """F1 on part of a subset, under crossfit thresholds (oracle where there are none), or as directly predicted."""

    name: str = Field(description="position of the first error, or generator")
    n_error: int = Field(description="traces with an error in the group")
    n_correct: int = Field(description="traces without one; for positions: all of the subset")
    f1: float | None = Field(description="null: a class is empty")
    acc_error: float | None = Field(description="as above, within the group")
    acc_correct: float | None = Field(description="as above, within the group")


class VoteCounts(Record):
    """Votes of a critic on one subset."""

    n: int = Field(description="votes of all traces")
    unparsed: int = Field(description="texts that hold no verdict; they are left out of the majority")
    undecided: int = Field(description="traces without a single verdict; they count as wrong")
    outside: int = Field(description="traces whose verdict is no step of theirs and not -1; they count as wrong too")


class SubsetResult(Record):
    """One protocol on one subset."""

    rules: dict[str, RuleResult] = Field(
        validation_alias=AliasChoices("rules", "policies"),  # the name in entries of 0.1.0
        description="by threshold rule: crossfit, gsm8k, oracle, fixed; direct: a prediction without a threshold",
    )
    undefined: dict[str, str] = Field(
        default_factory=dict, description="threshold rules that could not be computed, and why"
    )
    optimism: float | None = Field(
        None, description="oracle F1 minus crossfit F1: what choosing on the test items adds"
    )
    step_auc: Estimate = Field(description="AUC of right steps against first wrong steps")
    by_position: list[GroupResult] = Field(default_factory=list, description="by index of the first wrong step")
    by_generator: list[GroupResult] = Field(
        default_factory=list, description="by what wrote the solution; empty where there are more than 1,000 generators"
    )
    votes: VoteCounts | None = Field(None, description="of a critic; null: no votes")


class ProtocolResult(Record):
    """One protocol on all subsets."""

    subsets: dict[str, SubsetResult] = Field(description="by subset name")
    mean: dict[str, Estimate] = Field(description="plain mean of the subsets' F1, by threshold rule")


class ProcessBenchMetrics(Record):
    """The figures of a ProcessBench entry."""

    protocols: dict[str, ProtocolResult] = Field(description="by scoring protocol; process and prefix come first")
    baselines: dict[str, ProtocolResult] = Field(
        description=f"the same for scores that know nothing: random (mean of {N_RANDOM} draws), position, "
        "and length where tokens are known"
    )


ProcessBenchEntry = Entry[ProcessBenchMetrics]
