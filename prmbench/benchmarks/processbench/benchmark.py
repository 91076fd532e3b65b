"""ProcessBench as a `Benchmark` (docs/protocols.md, "ProcessBench F1")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import (
    REWARD_MODEL,
    SAMPLING,
    TOKENS,
    imported,
    option,
)
from prmbench.benchmarks.trace_benchmark import TraceBenchmark

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


class ProcessBench(TraceBenchmark):
    """Does a reward model find the first wrong step of a solution?"""

    name = "processbench"
    title = "ProcessBench"
    figure = "F1"
    options = ProcessBenchOptions
    uses = REWARD_MODEL | TOKENS | SAMPLING | {"data", "data_revision", "subset", "limit", "n", "prompt"}

    item_type = imported("prmbench.benchmarks.processbench.schema:TraceItem")
    metrics_type = imported("prmbench.benchmarks.processbench.schema:ProcessBenchMetrics")
    plan = imported("prmbench.benchmarks.processbench.run:plan_traces")
    plan_scores = imported("prmbench.benchmarks.processbench.run:plan_scores")
    render = imported("prmbench.benchmarks.processbench.table:render")
    columns = imported("prmbench.benchmarks.processbench.board:columns")
    baselines = imported("prmbench.benchmarks.processbench.board:baselines")
    notes = imported("prmbench.benchmarks.processbench.board:notes")
    section = imported("prmbench.benchmarks.processbench.section:section")
    outcomes = imported("prmbench.benchmarks.processbench.board:outcomes")

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

    def difference(self, item: TraceItem, trace: Trace) -> str | None:
        """Say whether label or trace differ; see `TraceBenchmark.difference`.

        Args:
            item: The item.
            trace: Its trace.
        """
        if item.label != trace.label:
            return f"has label {item.label}, the data {trace.label}"
        return None if item.digest == trace.digest() else "is of another trace than the data have (digest)"


PROCESSBENCH = ProcessBench()
