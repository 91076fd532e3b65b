"""ProcessBench as a `Benchmark` (docs/protocols.md, "ProcessBench F1")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import (
    REWARD_MODEL,
    SAMPLING,
    TOKENS,
    Benchmark,
    DataRequest,
    imported,
    option,
)

if TYPE_CHECKING:
    from prmbench.benchmarks.processbench.schema import ProcessBenchMetrics, TraceItem
    from prmbench.data.traces import Trace
    from prmbench.results.schema import Subject


@dataclass(frozen=True)
class ProcessBenchOptions:
    """Options of ProcessBench alone.

    Attributes:
        skip_overlong: Whether traces longer than the model's positions are left out instead of refused.
    """

    skip_overlong: bool = option(False, "leave out traces longer than the model's positions")


class ProcessBench(Benchmark):
    """Does a reward model find the first wrong step of a solution?"""

    name = "processbench"
    title = "ProcessBench"
    unit = "traces"
    figure = "F1"
    measures = frozenset({"rm"})
    options = ProcessBenchOptions
    uses = REWARD_MODEL | TOKENS | SAMPLING | {"data", "subset", "limit", "n", "prompt"}
    prompt_is_models = True
    choices = frozenset({"protocol", "thresholds"})

    item_type = imported("prmbench.benchmarks.processbench.schema:TraceItem")
    metrics_type = imported("prmbench.benchmarks.processbench.schema:ProcessBenchMetrics")
    plan = imported("prmbench.benchmarks.processbench.run:plan_traces")
    render = imported("prmbench.benchmarks.processbench.table:render")
    columns = imported("prmbench.benchmarks.processbench.board:columns")
    baselines = imported("prmbench.benchmarks.processbench.board:baselines")
    notes = imported("prmbench.benchmarks.processbench.board:notes")
    section = imported("prmbench.benchmarks.processbench.section:section")
    outcomes = imported("prmbench.benchmarks.processbench.board:outcomes")

    def parse(self, place: str, fields: Any) -> TraceItem:
        """Make an item of a JSON value, and refuse a NaN score.

        Args:
            place: Where the value stands, for errors.
            fields: The JSON value.
        """
        from prmbench.errors import UserError, printable

        item: TraceItem = super().parse(place, fields)
        if (step := item.first_nan()) is not None:
            raise UserError(
                f"{place}: item '{printable(item.id)}' has a NaN score at step {step}; the model or its items are broken"
            )
        return item

    def check_items(self, path: Path, items: Sequence[TraceItem]) -> None:
        """Refuse items of several sorts (sums, scores, votes).

        Args:
            path: The file, for errors.
            items: Its items.
        """
        from prmbench.errors import UserError

        if len(sorts := {item.sort for item in items}) > 1:
            raise UserError(f"{path}: some items have {' and some '.join(sorted(sorts))}; items of two runs?")

    def compute(
        self, items: Sequence[TraceItem], subject: Subject, options: Any, *, n_resamples: int, seed: int
    ) -> ProcessBenchMetrics:
        """Compute all figures from items alone; see `Benchmark.compute`.

        Args:
            items: The items of one run.
            subject: What was evaluated; gives beta and the fixed thresholds.
            options: Not used.
            n_resamples: Bootstrap resamples.
            seed: Seed of folds, resamples and random scores.
        """
        from prmbench.benchmarks.processbench.metrics import Statistics, compute_metrics
        from prmbench.errors import UserError

        try:
            return compute_metrics(items, subject.beta, subject.fixed_thresholds, Statistics(n_resamples, seed))
        except ValueError as error:
            raise UserError(str(error)) from None

    def counts(self, items: Sequence[TraceItem]) -> dict[str, int]:
        """Traces with and without an error, steps, tokens of steps, and steps that got no token.

        Args:
            items: The items of one subset.
        """
        return {
            "error": sum(item.label >= 0 for item in items),
            "correct": sum(item.label < 0 for item in items),
            "steps": sum(len(item.n_tokens) for item in items),
            "tokens": int(sum(item.n_tokens.sum() for item in items)),
            "empty_steps": int(sum((item.n_tokens == 0).sum() for item in items)),
        }

    def load(self, request: DataRequest) -> list[Trace]:
        """Find the traces: ProcessBench itself, or data of the same fields.

        Args:
            request: Its ``data``, ``subsets`` and ``limit`` are read; see `prmbench.data.traces.load_traces`.
        """
        from prmbench.data.traces import load_traces

        return load_traces(request.data, request.subsets, request.limit)

    def sizes(self, data: Sequence[Trace]) -> Mapping[str, int]:
        """Traces by subset.

        Args:
            data: The traces.
        """
        return Counter(trace.subset for trace in data)

    def check_against(self, path: Path, items: Sequence[TraceItem], traces: Sequence[Trace]) -> list[str]:
        """Say which items have another label or another trace than the data.

        Args:
            path: The items file, for the sentences.
            items: The items.
            traces: The data.
        """
        from prmbench.errors import printable

        real = {(trace.subset, trace.id): trace for trace in traces}
        subsets = {subset for subset, _ in real}
        found = []
        for item in items:
            trace = real.get(item.key)
            name = f"{path}: item '{printable(item.id)}' of {printable(item.subset)}"
            if trace is None:
                found += [f"{name} is not in the data"] if item.subset in subsets else []
            elif item.label != trace.label:
                found.append(f"{name} has label {item.label}, the data {trace.label}")
            elif item.digest != trace.digest():
                found.append(f"{name} is of another trace than the data have (digest)")
        return found


PROCESSBENCH = ProcessBench()
