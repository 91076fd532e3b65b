"""Solutions with a label for every step as a `Benchmark` (docs/protocols.md, "Step labels")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import (
    REWARD_MODEL,
    TOKENS,
    DataRequest,
    imported,
    option,
)
from prmbench.benchmarks.trace_benchmark import TraceBenchmark

if TYPE_CHECKING:
    from prmbench.benchmarks.step_labels.schema import LabelledItem, StepLabelsMetrics
    from prmbench.data.traces import Trace
    from prmbench.results.schema import Subject


@dataclass(frozen=True)
class StepLabelsOptions:
    """Options of step-labels alone.

    Attributes:
        threshold: A threshold that was chosen elsewhere: a number, PROTOCOL=NUMBER for one or several step scores, separated by
            commas, or a step-labels entry of the same model, whose oracle thresholds are taken. None: none is given.
    """

    threshold: str | None = option(
        None, "a threshold chosen elsewhere: NUMBER, PROTOCOL=NUMBER,..., or a step-labels entry of this model"
    )


class StepLabels(TraceBenchmark):
    """Does a reward model tell right steps from wrong ones?"""

    name = "step-labels"
    title = "Step labels"
    figure = "PRMScore"
    options = StepLabelsOptions
    uses = REWARD_MODEL | TOKENS | {"data", "data_revision", "subset", "limit", "prompt"}
    resamples = 2_000

    item_type = imported("prmbench.benchmarks.step_labels.schema:LabelledItem")
    metrics_type = imported("prmbench.benchmarks.step_labels.schema:StepLabelsMetrics")
    plan = imported("prmbench.benchmarks.step_labels.run:plan_labelled")
    plan_scores = imported("prmbench.benchmarks.step_labels.run:plan_scores")
    render = imported("prmbench.benchmarks.step_labels.table:render")
    columns = imported("prmbench.benchmarks.step_labels.board:columns")
    baselines = imported("prmbench.benchmarks.step_labels.board:baselines")
    notes = imported("prmbench.benchmarks.step_labels.board:notes")
    section = imported("prmbench.benchmarks.step_labels.section:section")
    outcomes = imported("prmbench.benchmarks.step_labels.board:outcomes")

    def compute(
        self, items: Sequence[LabelledItem], subject: Subject, options: Any, *, n_resamples: int, seed: int
    ) -> StepLabelsMetrics:
        """Compute all figures from items alone; see `Benchmark.compute`.

        Args:
            items: The items of one run.
            subject: What was evaluated; gives beta and the fixed thresholds.
            options: Thresholds that were chosen elsewhere.
            n_resamples: Bootstrap resamples.
            seed: Seed of folds, resamples and random scores.
        """
        from prmbench.benchmarks.processbench.metrics import Statistics
        from prmbench.benchmarks.step_labels.metrics import compute_metrics
        from prmbench.benchmarks.step_labels.thresholds import given_thresholds
        from prmbench.errors import UserError

        given = given_thresholds(options.threshold if options else None, subject)
        try:
            return compute_metrics(items, subject.beta, subject.fixed_thresholds, given, Statistics(n_resamples, seed))
        except ValueError as error:
            raise UserError(str(error)) from None

    def options_of(self, entry: Any) -> StepLabelsOptions:
        """The thresholds that were given; see `Benchmark.options_of`.

        Args:
            entry: An entry of this benchmark.
        """
        given = entry.metrics.given if entry.metrics is not None else {}
        return StepLabelsOptions(",".join(f"{name}={value!r}" for name, value in given.items()) or None)

    def counts(self, items: Sequence[LabelledItem]) -> dict[str, int]:
        """Traces with a wrong step, and steps by what is known of them.

        Args:
            items: The items of one subset.
        """
        labels = Counter(label for item in items for label in item.labels)
        return {
            "error": sum(item.label >= 0 for item in items),
            "steps": sum(labels.values()),
            **{name: labels[name] for name in ("right", "wrong", "neutral", "unknown")},
            "tokens": int(sum(item.n_tokens.sum() for item in items)),
            "empty_steps": int(sum((item.n_tokens == 0).sum() for item in items)),
        }

    def load(self, request: DataRequest) -> list[Trace]:
        """Find the traces. Of one whose first wrong step alone is known, the steps after it are unknown.

        Args:
            request: See `TraceBenchmark.load`.
        """
        from prmbench.data.traces import with_labels

        return [with_labels(trace) for trace in super().load(request)]

    def difference(self, item: LabelledItem, trace: Trace) -> str | None:
        """Say whether labels or trace differ; see `TraceBenchmark.difference`.

        Args:
            item: The item.
            trace: Its trace.
        """
        from prmbench.data.traces import with_labels

        labelled = with_labels(trace)
        if item.labels != labelled.labels:
            return "has other labels than the data"
        return None if item.digest == labelled.labelled_digest() else "is of another trace than the data have (digest)"


STEP_LABELS = StepLabels()
