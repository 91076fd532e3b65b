"""The items and figures of an entry of guided search."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from prmbench.results.items import ITEM_CONFIG, AnswerClass, Count, Counts, Item, Numbers, Positive, Share
from prmbench.results.schema import Estimate, Record


@dataclass(frozen=True, config=ITEM_CONFIG)
class SearchItem(Item):
    """One search of one problem: its candidates, and what it cost. Plain samples are one too, of the method best-of-n.

    Costs are listed by part: first the prompt, then each round of steps; of plain samples each sample.

    Attributes:
        subset: The problem set.
        id: The problem's id.
        digest: sha256 (hex) of the problem.
        method: The method; ``best-of-n`` holds plain samples, from which Best-of-N and votes follow.
        budget: N; of plain samples their number.
        correct: Whether each candidate's answer is right; the best candidate first, of plain samples in the order of sampling.
        answers: The class of each candidate's answer among all of the problem's; -1: it has none.
        scores: The score of each candidate, by which it is chosen.
        lengths: Tokens of each candidate, end of turn included.
        sampled: Tokens that the policy sampled, by part.
        scored: Tokens that the reward model read, by part.
        policy_flops: Floating-point operations of the policy, by part; NaN: its shape is not known.
        model_flops: The same of the reward model, its reference included.
        seconds: Wall time of the search, its share of the batch that it ran in. It differs from run to run.
        cut: Candidates that were cut at the token limit.
        endless: Candidates that were cut in their first step, whose end never came.
        empty: Candidates without a word.
        repeating: Candidates with a step that repeats the one before it.
        duplicates: Paths that grew into the tokens of another path of the same round.
    """

    subset: str
    id: str
    digest: str
    method: str
    budget: Positive
    correct: list[bool]
    answers: list[AnswerClass]
    scores: Numbers
    lengths: Counts
    sampled: Counts
    scored: Counts
    policy_flops: Numbers
    model_flops: Numbers
    seconds: Share
    cut: Count
    endless: Count
    empty: Count
    repeating: Count
    duplicates: Count

    @property
    def key(self) -> tuple[str, str]:
        """What names the item within a run."""
        return self.subset, f"{self.id}/{self.method}/{self.budget if self.method != 'best-of-n' else 'all'}"

    @property
    def flops(self) -> float:
        """Operations of the policy and of the reward model in all."""
        return float(self.policy_flops.sum() + self.model_flops.sum())

    @model_validator(mode="after")
    def _fields_fit(self) -> SearchItem:
        if len({len(self.correct), len(self.answers), len(self.scores), len(self.lengths)}) != 1:
            raise ValueError(
                "'correct', 'answers', 'scores' and 'lengths' must be lists of one length, one a candidate"
            )
        if len({len(self.sampled), len(self.scored), len(self.policy_flops), len(self.model_flops)}) != 1:
            raise ValueError(
                "'sampled', 'scored', 'policy_flops' and 'model_flops' must be lists of one length, one a part"
            )
        if self.method == "best-of-n" and len(self.sampled) != len(self.correct) + 1:
            raise ValueError("'sampled' must have a number for the prompt and for each sample")
        if np.isnan(self.scores).any():
            raise ValueError("a score is NaN; the model or its items are broken")
        return self


class SearchFigures(Record):
    """The figures of one method with one budget."""

    accuracy: Estimate = Field(
        description="share of problems whose chosen answer is right; of best-of-n and weighted an expectation"
    )
    best_of_n: Estimate = Field(description="accuracy of Best-of-N at equal compute, problem by problem")
    difference: Estimate = Field(description="accuracy minus that of Best-of-N at equal compute, paired by problem")
    p: float = Field(description="bootstrap p value of no difference")
    equal_n: float = Field(description="mean N of Best-of-N at equal compute")
    covered: float = Field(
        description="share of problems with enough samples to spend as much as the method; else all are taken"
    )
    any_right: Estimate = Field(description="share of problems with a right answer among the candidates")
    sampled: float = Field(description="tokens sampled, mean of a problem")
    scored: float = Field(description="tokens that the reward model read, mean of a problem")
    policy_flops: float | None = Field(
        description="floating-point operations of the policy, mean of a problem; null: not known"
    )
    model_flops: float | None = Field(description="the same of the reward model")
    seconds: float = Field(description="wall time, mean of a problem")
    cut: int = Field(description="candidates cut at the token limit")
    endless: int = Field(description="candidates cut in their first step")
    empty: int = Field(description="candidates without a word")
    repeating: int = Field(description="candidates with a step that repeats the one before it")
    duplicates: int = Field(description="paths that grew into the tokens of another path of the same round")


class CurvePoint(Record):
    """Best-of-N at one N, as an exact expectation over all subsets of the samples."""

    accuracy: Estimate = Field(description="share of problems whose chosen sample is right")
    weighted: Estimate = Field(description="the same of the weighted vote")
    any_right: Estimate = Field(description="share of problems with a right sample among N")
    flops: float | None = Field(
        description="floating-point operations of policy and reward model, mean of a problem; null: not known"
    )
    sampled: float = Field(description="tokens sampled, mean of a problem")


class SearchSubset(Record):
    """The figures of one problem set."""

    methods: dict[str, SearchFigures] = Field(description="by method and budget: beam@16")
    curve: dict[str, CurvePoint] = Field(description="Best-of-N by N")
    plain: Estimate = Field(description="accuracy of one plain sample")


class SearchMetrics(Record):
    """The figures of an entry of guided search."""

    score: str = Field(description="which score paths are chosen by")
    compute: Literal["flops", "tokens"] = Field(
        description="what equal compute is counted in: tokens, sampled and scored, where a shape is not known"
    )
    subsets: dict[str, SearchSubset] = Field(description="by problem set")
    mean: SearchSubset = Field(description="plain mean over the problem sets")
