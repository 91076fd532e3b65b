"""The items and figures of a policy entry."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict
from pydantic.dataclasses import dataclass

from prmbench.data.rollouts import RolloutEnd
from prmbench.data.verdicts import Verdict
from prmbench.results.items import ITEM_CONFIG, AnswerClass, Count, SampleItem
from prmbench.results.schema import Entry, Estimate, Record


@dataclass(frozen=True, config=ITEM_CONFIG)
class CompletionOutcome(SampleItem):
    """What became of one completion.

    Attributes:
        subset: The problem set.
        id: The problem's id.
        sample: The number of the completion among its problem's, from 0.
        digest: sha256 (hex) of the problem.
        verdict: The verdict on its answer.
        finish_reason: How it ended: ``stop``, ``length``, or ``prompt`` where the prompt left no room.
        n_tokens: Sampled tokens, the end of turn included.
        answer: The class of its answer among its problem's; -1: it has none.
    """

    subset: str
    id: str
    sample: Count
    digest: str
    verdict: Annotated[Verdict, Strict(False)]
    finish_reason: RolloutEnd
    n_tokens: Count
    answer: AnswerClass


class ProblemSetResult(Record):
    """The figures of one problem set."""

    average: Estimate = Field(description="avg@n: mean share of right completions")
    pass_at: dict[str, Estimate] = Field(
        description="by k: unbiased chance that k of the n completions hold a right one"
    )
    majority: Estimate = Field(description="maj@n: the most common answer is right; ties count their share")
    truncated: Estimate = Field(description="share of completions cut at the token limit, which count as wrong")
    mean_tokens: Estimate = Field(description="tokens of a completion, end of turn included")
    verdicts: dict[str, int] = Field(description="completions by verdict: correct, wrong, unparsed, timeout")
    overlong_prompts: int = Field(
        0, description="problems whose prompt leaves no room; all their completions count as wrong"
    )


class PolicyMetrics(Record):
    """The figures of a policy entry."""

    n: int = Field(description="completions of each problem")
    subsets: dict[str, ProblemSetResult] = Field(description="by problem set")
    mean: dict[str, Estimate] = Field(
        description="plain mean over the problem sets: average, majority, pass@k, truncated"
    )


PolicyEntry = Entry[PolicyMetrics]
