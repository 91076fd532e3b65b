"""The items and figures of a calibration probe, whose truth is verdicts of rollouts, or labels by rollouts."""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from prmbench.results.items import ITEM_CONFIG, Count, Counts, Item, Number, Numbers, Positive, SampleItem
from prmbench.results.schema import Estimate, Record

PARTS = 5
N_BINS = 10


@dataclass(frozen=True, config=ITEM_CONFIG)
class RolloutValues(SampleItem):
    """The values of one rollout at five prefixes.

    Attributes:
        subset: The set of rollouts.
        id: The problem's id.
        sample: The number of the rollout among its problem's, from 0.
        digest: sha256 (hex) of the rollout.
        correct: Whether its answer was verified as right.
        t: Response tokens of each prefix. Length `PARTS`.
        sums: Token values summed over each prefix, before beta. Length `PARTS`.
    """

    subset: str
    id: str
    sample: Count
    digest: str
    correct: bool
    t: list[Positive]
    sums: list[Number]

    @model_validator(mode="after")
    def _fields_fit(self) -> RolloutValues:
        if {len(self.t), len(self.sums)} != {PARTS}:
            raise ValueError(f"fields 't' and 'sums' must hold {PARTS} numbers each")
        return self


@dataclass(frozen=True, config=ITEM_CONFIG)
class StateValues(Item):
    """The values of one solution at the ends of its steps, and what came of continuations from there.

    The end of a finished solution is none of them: it has no continuation.

    Attributes:
        subset: The run of labels.
        id: The solution's id.
        problem: Hash of the problem and its answer.
        digest: sha256 (hex) of the solution and its labels.
        t: Response tokens up to each step's end; of a step-valued model those of the steps. int64, shape [n].
        values: Token values summed up to each step's end, before beta; of a step-valued model its scores. float64, shape [n].
        successes: Right continuations. int64, shape [n].
        trials: Continuations. int64, shape [n].
    """

    subset: str
    id: str
    problem: str
    digest: str
    t: Counts
    values: Numbers
    successes: Counts
    trials: Counts

    @model_validator(mode="after")
    def _fields_fit(self) -> StateValues:
        if len({len(one) for one in (self.t, self.values, self.successes, self.trials)}) != 1 or not len(self.t):
            raise ValueError(
                "fields 't', 'values', 'successes' and 'trials' must hold equally many numbers, at least one"
            )
        if (self.successes > self.trials).any() or not self.trials.all():
            raise ValueError("field 'trials' must hold numbers from 1, and none below 'successes'")
        if not np.isfinite(self.values).all():
            raise ValueError("field 'values' must hold finite numbers")
        return self


class LinkResult(Record):
    """Probabilities read off the values of one part of the response by one link."""

    predicted: Estimate = Field(description="mean predicted probability")
    brier: Estimate = Field(description="mean squared difference of prediction and outcome")
    ece: Estimate = Field(description=f"expected calibration error, {N_BINS} bins of equal width")
    diagram: list[tuple[float, float, float]] = Field(
        description="non-empty bins: mean prediction, share right, share of the rollouts"
    )


class PartResult(Record):
    """Prefixes that end at one share of the response."""

    upto: float = Field(description="share of the response's tokens in the prefix; 1: the whole response")
    auc: Estimate = Field(description="AUC of the value against the outcome")
    links: dict[str, LinkResult] = Field(
        description="margin: the objective's own link; naive: the sigmoid of the value (the same where the margin is 0)"
    )


class StateLink(Record):
    """Probabilities read off the values at the ends of steps by one link."""

    predicted: Estimate = Field(description="mean predicted probability")
    brier: Estimate = Field(description="mean squared difference of prediction and outcome of a single continuation")
    error: Estimate = Field(
        description="mean squared difference of prediction and true rate, the noise of rates taken out; null with one continuation"
    )
    ece: Estimate = Field(description=f"expected calibration error against rates, {N_BINS} bins of equal width")
    inside: Estimate = Field(description="share of states whose prediction lies in the 95% interval of their rate")
    diagram: list[tuple[float, Estimate, float]] = Field(
        description="non-empty bins: mean prediction, rate of right continuations, share of the states"
    )


class StateResult(Record):
    """Figures against labels by rollouts."""

    n_states: int = Field(description="ends of steps measured")
    n_continuations: int = Field(description="continuations from each")
    auc: Estimate = Field(description="AUC of the value against outcomes of single continuations")
    error_constant: float | None = Field(
        description="mean squared difference of the mean rate and true rates, the noise taken out; null with one continuation"
    )
    links: dict[str, StateLink] = Field(
        description="margin: the objective's own link; naive: the sigmoid of the value, where it is another"
    )

    @property
    def named_links(self) -> dict[str, StateLink]:
        """The links by the names that tables have: ``sigmoid`` where there is one alone."""
        return self.links if len(self.links) > 1 else {"sigmoid": self.links["margin"]}


class CalibrationMetrics(Record):
    """Figures of a calibration probe."""

    n_rollouts: int = Field(description="rollouts measured; solutions where the truth is labels by rollouts")
    pass_rate: Estimate = Field(description="share of right rollouts; of right continuations where the truth is labels")
    brier_constant: float = Field(description="Brier score of the pass rate as everyone's prediction")
    parts: list[PartResult] = Field(description="by fifths of the response; empty where the truth is labels")
    states: StateResult | None = Field(None, description="against labels by rollouts; null: the truth is verdicts")
