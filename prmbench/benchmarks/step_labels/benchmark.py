"""Solutions with a label for every step as a `Benchmark` (docs/protocols.md, "Step labels")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import (
    REWARD_MODEL,
    TOKENS,
    Benchmark,
    DataRequest,
    imported,
    option,
)

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


class StepLabels(Benchmark):
    """Does a reward model tell right steps from wrong ones?"""

    name = "step-labels"
    title = "Step labels"
    unit = "traces"
    figure = "PRMScore"
    measures = frozenset({"rm"})
    options = StepLabelsOptions
    uses = REWARD_MODEL | TOKENS | {"data", "subset", "limit", "prompt"}
    prompt_is_models = True
    choices = frozenset({"protocol", "thresholds"})
    resamples = 2_000

    item_type = imported("prmbench.benchmarks.step_labels.schema:LabelledItem")
    metrics_type = imported("prmbench.benchmarks.step_labels.schema:StepLabelsMetrics")
    plan = imported("prmbench.benchmarks.step_labels.run:plan_labelled")
    plan_scores = imported("prmbench.benchmarks.step_labels.foreign:plan_foreign")
    render = imported("prmbench.benchmarks.step_labels.table:render")
    columns = imported("prmbench.benchmarks.step_labels.board:columns")
    baselines = imported("prmbench.benchmarks.step_labels.board:baselines")
    notes = imported("prmbench.benchmarks.step_labels.board:notes")
    section = imported("prmbench.benchmarks.step_labels.section:section")
    outcomes = imported("prmbench.benchmarks.step_labels.board:outcomes")

    def parse(self, place: str, fields: Any) -> LabelledItem:
        """Make an item of a JSON value, and refuse a NaN score.

        Args:
            place: Where the value stands, for errors.
            fields: The JSON value.
        """
        from prmbench.errors import UserError, printable

        item: LabelledItem = super().parse(place, fields)
        if (step := item.first_nan()) is not None:
            raise UserError(
                f"{place}: item '{printable(item.id)}' has a NaN score at step {step}; the model or its items are broken"
            )
        return item

    def check_items(self, path: Path, items: Sequence[LabelledItem]) -> None:
        """Refuse items of several sorts (sums, scores).

        Args:
            path: The file, for errors.
            items: Its items.
        """
        from prmbench.errors import UserError

        if len(sorts := {item.sort for item in items}) > 1:
            raise UserError(f"{path}: some items have {' and some '.join(sorted(sorts))}; items of two runs?")

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
            request: Its ``data``, ``subsets`` and ``limit`` are read; see `prmbench.data.traces.load_traces`.
        """
        from prmbench.data.traces import load_traces, with_labels

        return [with_labels(trace) for trace in load_traces(request.data, request.subsets, request.limit)]

    def sizes(self, data: Sequence[Trace]) -> Mapping[str, int]:
        """Traces by subset.

        Args:
            data: The traces.
        """
        return Counter(trace.subset for trace in data)

    def check_against(self, path: Path, items: Sequence[LabelledItem], traces: Sequence[Trace]) -> list[str]:
        """Say which items have other labels or another trace than the data.

        Args:
            path: The items file, for the sentences.
            items: The items.
            traces: The data.
        """
        from prmbench.data.traces import with_labels
        from prmbench.errors import printable

        real = {(trace.subset, trace.id): with_labels(trace) for trace in traces}
        subsets = {subset for subset, _ in real}
        found = []
        for item in items:
            trace = real.get(item.key)
            name = f"{path}: item '{printable(item.id)}' of {printable(item.subset)}"
            if trace is None:
                found += [f"{name} is not in the data"] if item.subset in subsets else []
            elif item.labels != trace.labels:
                found.append(f"{name} has other labels than the data")
            elif item.digest != trace.labelled_digest():
                found.append(f"{name} is of another trace than the data have (digest)")
        return found


STEP_LABELS = StepLabels()
