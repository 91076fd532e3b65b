"""The items and figures of a step-labels entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, Strict, model_validator
from pydantic.dataclasses import dataclass

from prmbench.benchmarks.processbench.schema import N_RANDOM, Figure, TraceItem
from prmbench.data.importers.step_formats import StepLabel
from prmbench.data.traces import first_error
from prmbench.results.items import ITEM_CONFIG
from prmbench.results.schema import Entry, Estimate, Record

RULES = ("crossfit", "given", "oracle", "fixed")
"""Threshold rules: how the threshold is chosen that a step's score has to stay above."""


def quoted(by_rule: Mapping[str, Figure]) -> Figure | None:
    """The figure to quote: that of ``crossfit``, else of a threshold chosen elsewhere; None where neither is defined.

    Args:
        by_rule: Figures by threshold rule.
    """
    return by_rule.get("crossfit", by_rule.get("given"))


@dataclass(frozen=True, config=ITEM_CONFIG)
class LabelledItem(TraceItem):
    """The scores of one trace whose steps are labelled.

    Attributes:
        subset: The trace's subset.
        id: The trace's id.
        generator: What wrote the solution.
        label: Index of the first wrong step, -1: none is known.
        digest: sha256 (hex) of the trace with its labels (`prmbench.data.traces.Trace.labelled_digest`).
        n_tokens: Tokens of each step; 0 where scores were made elsewhere. Shape [n_steps].
        sums: Token values summed over each step, before beta. Shape [n_steps].
        scores: Scores of models that score steps, logits; or scores made elsewhere, as they came. Shape [n_steps].
        votes: Always None: a critic names one step only.
        labels: ``right``, ``wrong``, ``neutral`` or ``unknown``, of each step.
        error_class: The sort of error that the trace is about; None where the data do not say.
    """

    labels: Annotated[tuple[StepLabel, ...], Strict(False)] = ()
    error_class: str | None = None

    @model_validator(mode="after")
    def _labels_fit(self) -> LabelledItem:
        if self.votes is not None:
            raise ValueError("field 'votes' means nothing here; expected 'sums' or 'scores'")
        if len(self.labels) != len(self.n_tokens):
            raise ValueError(
                f"field 'labels' must have one label a step, {len(self.n_tokens)}; found {len(self.labels)}"
            )
        if self.label != first_error(self.labels):
            raise ValueError(f"field 'label' is {self.label}, by the labels it is {first_error(self.labels)}")
        return self


class StepCounts(Record):
    """Steps by what they are and by whether they are flagged; right steps are the positive class."""

    tp: int = Field(description="right steps (neutral ones are among them) that are not flagged")
    fp: int = Field(description="wrong steps that are not flagged")
    tn: int = Field(description="wrong steps that are flagged")
    fn: int = Field(description="right steps that are flagged")


class StepFigures(Record):
    """Figures of steps under one threshold rule."""

    prm_score: Estimate = Field(
        description="mean of f1_right and f1_wrong, PRMBench's PRMScore; one of them where the other is not defined"
    )
    f1_right: Estimate = Field(description="F1 of right steps; null: there is none")
    f1_wrong: Estimate = Field(description="F1 of wrong steps; null: there is none")
    balanced_f1: Estimate = Field(
        description="harmonic mean of the shares of right and of wrong steps that are judged right (Hard2Verify)"
    )
    accuracy: Estimate = Field(description="share of steps that are judged right")
    counts: StepCounts | None = Field(None, description="null: a mean of several draws")


class StepRuleResult(StepFigures):
    """All figures under one threshold rule."""

    first_error_f1: Estimate = Field(
        description="ProcessBench's F1 at the same threshold, of traces whose first wrong step is known: all steps before it "
        "have a label, and all steps where none is wrong"
    )
    solution_f1: Estimate = Field(
        description="mean of the F1 of right and of wrong solutions (ReasonEval's macro F1): a solution is flagged when a step is"
    )
    thresholds: list[float] = Field(description="one; under crossfit one a fold")
    classes: dict[str, StepFigures] = Field(
        default_factory=dict, description="by class of error, where the data name any"
    )
    categories: dict[str, Estimate] = Field(
        default_factory=dict,
        description="mean PRMScore of the classes of a category of PRMBench or Socratic-PRMBench, and of all",
    )


class StepCalibration(Record):
    """Step scores that stand for probabilities, against right or wrong."""

    ece: Estimate = Field(description="expected calibration error, 15 bins")
    brier: Estimate = Field(description="Brier score")


class StepSubsetResult(Record):
    """One protocol on one subset."""

    rules: dict[str, StepRuleResult] = Field(description="by threshold rule: crossfit, given, oracle, fixed")
    undefined: dict[str, str] = Field(
        default_factory=dict, description="threshold rules that could not be computed, and why"
    )
    optimism: float | None = Field(
        None, description="oracle PRMScore minus crossfit PRMScore: what choosing on the test items adds"
    )
    step_auc: Estimate = Field(description="AUC of right against wrong steps")
    average_precision: Estimate = Field(description="of finding wrong steps by a low score")
    calibration: StepCalibration | None = Field(None, description="null: the scores stand for no probability")


class StepProtocolResult(Record):
    """One protocol on all subsets."""

    subsets: dict[str, StepSubsetResult] = Field(description="by subset name")
    mean: dict[str, Estimate] = Field(description="plain mean of the subsets' PRMScore, by threshold rule")


class StepLabelsMetrics(Record):
    """The figures of a step-labels entry."""

    protocols: dict[str, StepProtocolResult] = Field(description="by scoring protocol")
    baselines: dict[str, StepProtocolResult] = Field(
        description=f"the same for scores that know nothing: random (mean of {N_RANDOM} draws), position, length"
    )
    given: dict[str, float] = Field(
        default_factory=dict, description="thresholds that were chosen elsewhere, by protocol"
    )


StepLabelsEntry = Entry[StepLabelsMetrics]
