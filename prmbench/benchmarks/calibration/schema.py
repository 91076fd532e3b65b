"""The items and figures of a calibration probe."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from prmbench.results.items import ITEM_CONFIG, Count, Number, Positive, SampleItem
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


class CalibrationMetrics(Record):
    """Figures of a calibration probe."""

    n_rollouts: int = Field(description="rollouts measured")
    pass_rate: Estimate = Field(description="share of right rollouts")
    brier_constant: float = Field(description="Brier score of the pass rate as everyone's prediction")
    parts: list[PartResult] = Field(description="by fifths of the response")
