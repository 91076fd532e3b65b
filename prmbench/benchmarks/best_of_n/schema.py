"""The items and figures of a Best-of-N entry."""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from prmbench.results.items import ITEM_CONFIG, AnswerClass, Count, Counts, Numbers, Real, SampleItem
from prmbench.results.schema import Estimate, Record


@dataclass(frozen=True, config=ITEM_CONFIG)
class CompletionScores(SampleItem):
    """The scores of one completion: either sums and their total, or scores.

    Attributes:
        subset: The set of completions.
        id: The problem's id.
        sample: The number of the completion among its problem's, from 0.
        digest: sha256 (hex) of the completion.
        correct: Whether its answer was verified as right.
        answer: The class of its answer among its problem's; -1: it has none.
        length: Response tokens, the end of turn included.
        n_tokens: Tokens of each step. Shape [n_steps].
        sums: Token values summed over each step, before beta. Shape [n_steps].
        total: Token values summed over the whole response, the end of turn included, before beta.
        scores: Scores of models that score steps, logits. Shape [n_steps].
        weighted: The total with weights that decay with the position, where the model scores a response so (EndoRM).
    """

    subset: str
    id: str
    sample: Count
    digest: str
    correct: bool
    answer: AnswerClass
    length: Count
    n_tokens: Counts
    sums: Numbers | None = None
    total: Real | None = None
    scores: Numbers | None = None
    weighted: Real | None = None

    @model_validator(mode="after")
    def _fields_fit(self) -> CompletionScores:
        if (self.sums is None) == (self.scores is None) or (self.sums is None) != (self.total is None):
            raise ValueError("expected either 'sums' and 'total', or 'scores'")
        values = self.sums if self.sums is not None else self.scores
        assert values is not None
        if len(values) != len(self.n_tokens):
            raise ValueError("'n_tokens' and the scores must be lists of one length, one number a step")
        if np.isnan(values).any():
            raise ValueError("a score is NaN; the model or its items are broken")
        return self


class BestOfNSubset(Record):
    """The figures of one set of completions."""

    scores: dict[str, dict[str, dict[str, Estimate]]] = Field(
        description="accuracy of the highest score: by score (own first), N, estimator (expected: over all subsets of N "
        "completions; first: of the first N)"
    )
    baselines: dict[str, dict[str, dict[str, Estimate]]] = Field(
        description="the same for pass (any right), majority, weighted_majority (votes weigh the probability that the own score "
        "stands for), mean (what a random choice gets), shortest, longest"
    )


class BestOfNMetrics(Record):
    """The figures of a Best-of-N entry."""

    own: str = Field(description="which score is the model's own convention")
    n: int = Field(description="completions of each problem")
    sizes: list[int] = Field(description="the N of the figures")
    subsets: dict[str, BestOfNSubset] = Field(description="by set of completions")
    mean: BestOfNSubset = Field(description="plain mean over the sets")
