"""A policy entry on the screen and on a report's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.parts import MINIATURE, Cell, Section, ShownTable, about
from prmbench.benchmarks.problem_data import sampling_words
from prmbench.benchmarks.tables import new_table, percent, percent_with_interval, safe
from prmbench.data.traces import Trace
from prmbench.results.schema import Entry

if TYPE_CHECKING:
    from prmbench.benchmarks.policy.schema import PolicyMetrics


def render(entry: Entry[PolicyMetrics]) -> RenderableType:
    """A row a problem set, in percent, with 95% intervals over problems.

    Args:
        entry: The entry.
    """
    metrics, settings = entry.metrics, entry.benchmark.settings
    limit = entry.benchmark.limit
    titles = ["problems", f"avg@{metrics.n}", f"maj@{metrics.n}", f"pass@{metrics.n}", "truncated", "tokens"]
    table = new_table(f"in %, {metrics.n} completions a problem", "", titles)
    for name, result in metrics.subsets.items():
        table.add_row(
            safe(name),
            f"{entry.benchmark.subsets[name].n_items:,}",
            percent_with_interval(result.average),
            percent(result.majority),
            percent(result.pass_at[str(metrics.n)]),
            percent(result.truncated),
            f"{result.mean_tokens.value:,.0f}",
        )
    if len(metrics.subsets) > 1:
        table.add_section()
        others = [percent(metrics.mean[key]) for key in ("majority", f"pass@{metrics.n}", "truncated")]
        table.add_row("mean", "", percent_with_interval(metrics.mean["average"]), *others, "")
    lines = [f"Policy: {entry.subject.name}", *([MINIATURE] if entry.miniature else [])]
    if limit is not None:
        lines.append(f"Only the first {limit:,} problems of each set: a try, not a result to quote.")
    lines.append(f"{sampling_words(settings).capitalize()}; prompt template '{settings['prompt']}'.")
    after = []
    for name, result in metrics.subsets.items():
        counts = ", ".join(f"{count:,} {verdict}" for verdict, count in result.verdicts.items())
        room = f"; {result.overlong_prompts:,} prompts leave no room" if result.overlong_prompts else ""
        after.append(f"{name}: {counts}{room}.")
    return Group(*map(safe, lines), table, *map(safe, after))


def section(measured: Measured, traces: Sequence[Trace] | None) -> Section:
    """Figures and verdicts by problem set, for a report.

    Args:
        measured: The entry and its items.
        traces: Not used.
    """
    entry, metrics = measured.entry, measured.entry.metrics
    columns = measured.benchmark.columns([entry])
    rows = [("all sets", [Cell.of(column.estimate(entry)) for column in columns])]
    for name, result in metrics.subsets.items():
        at = {f"pass@{k}": estimate for k, estimate in result.pass_at.items()}
        at |= {"average": result.average, "majority": result.majority, "truncated": result.truncated}
        rows.append((name, [Cell.of(at.get(column.key)) for column in columns]))
    verdicts = [
        (name, [Cell(float(count), digits=0) for count in result.verdicts.values()])
        for name, result in metrics.subsets.items()
    ]
    kinds = list(next(iter(metrics.subsets.values())).verdicts)
    tables = [
        ("In %", ShownTable(["problems", *(column.title for column in columns)], rows)),
        ("Completions by verdict", ShownTable(["problems", *kinds], verdicts)),
    ]
    return Section("Policy", about(entry), tables)
