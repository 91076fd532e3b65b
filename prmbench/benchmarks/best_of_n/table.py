"""A Best-of-N entry on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.best_of_n.plot import draw_best_of_n
from prmbench.benchmarks.best_of_n.schema import BestOfNMetrics, BestOfNSubset
from prmbench.benchmarks.parts import Cell, Picture, Section, ShownTable, about, to_svg
from prmbench.benchmarks.tables import heading, new_table, percent_with_interval, safe, standing
from prmbench.data.traces import Trace
from prmbench.results.schema import Entry

TABLE_SIZES = (4, 16, 64)
"""N of the paper's tables; the largest N is shown too."""

BASELINE_TITLES = {"weighted_majority": "weighted majority", "mean": "random choice"}
"""Names of baselines on tables, where they are not the entry's own. One of the scores is called mean, too."""


def sizes_shown(sizes: Sequence[int]) -> list[int]:
    """The N that the table has a column for.

    Args:
        sizes: All N of the entry, in ascending order.
    """
    return sorted({*TABLE_SIZES} & {*sizes} | {sizes[-1]})


def render(entry: Entry[BestOfNMetrics]) -> RenderableType:
    """A row a score, a column an N; what needs no reward model stands below.

    Args:
        entry: The entry.
    """
    metrics = entry.metrics
    n_problems = sum(d.n_items for d in entry.benchmark.subsets.values())
    size = f"{n_problems:,} problems, {metrics.n} completions each"
    lines = heading(entry, "Best-of-N", size, f"the first {entry.benchmark.limit} problems of each set")
    parts: list[RenderableType] = [safe(line) for line in lines]
    several = len(metrics.subsets) > 1
    for title, result in [*metrics.subsets.items(), *([("mean over the sets", metrics.mean)] if several else [])]:
        parts.append(_table(title, result, sizes_shown(metrics.sizes)))
    parts += [safe(line) for line in against_no_model(metrics)]
    parts.append(
        safe(
            "Accuracy in %, expected over all subsets of N completions [95% interval over problems]; the model's own score is "
            f"{metrics.own}. The other estimator (the first N) and every N are in the entry."
        )
    )
    return Group(*parts)


def against_no_model(metrics: BestOfNMetrics) -> list[str]:
    """Say whether the model's choice among the most completions is better than what needs no reward model.

    Args:
        metrics: The figures of an entry.

    Returns:
        One sentence; nothing where there is one completion to choose from.
    """
    size = metrics.sizes[-1]
    if size == 1:
        return []
    own = metrics.mean.scores[metrics.own][str(size)]["expected"]
    assert own.value is not None
    parts = []
    for name, title in (("mean", "a random choice"), ("majority", "the majority vote")):
        rival = metrics.mean.baselines[name][str(size)]["expected"].value
        assert rival is not None
        parts.append(f"{standing(own, rival)} {title} ({100 * rival:.1f})")
    return [f"{metrics.own} @{size} ({100 * own.value:.1f}) is {' and '.join(parts)}."]


def _table(title: str, result: BestOfNSubset, sizes: list[int]) -> Table:
    table = new_table(title, "", [f"@{size}" for size in sizes])
    for i, (name, by_size) in enumerate(result.scores.items()):
        cells = [percent_with_interval(by_size[str(size)]["expected"]) for size in sizes]
        table.add_row(name + (" (own)" if i == 0 else ""), *cells, end_section=i == len(result.scores) - 1)
    for name, by_size in result.baselines.items():
        table.add_row(
            BASELINE_TITLES.get(name, name), *(percent_with_interval(by_size[str(size)]["expected"]) for size in sizes)
        )
    return table


def section(measured: Measured, traces: Sequence[Trace] | None) -> Section:
    """Accuracy at every N, and a picture of it, for a report.

    Args:
        measured: The entry and its items.
        traces: Not used.
    """
    entry, metrics = measured.entry, measured.entry.metrics
    sizes = [str(n) for n in metrics.sizes]
    scores = [
        *metrics.mean.scores.items(),
        *((f"baseline: {BASELINE_TITLES.get(n, n)}", at) for n, at in metrics.mean.baselines.items()),
    ]
    rows = [(name, [Cell.of(at.get(n, {}).get("expected")) for n in sizes]) for name, at in scores]
    picture = Picture(
        to_svg(draw_best_of_n([entry]), "Best-of-N"),
        f"Accuracy of the completion with the highest {metrics.own} among N, over all subsets of a problem's {metrics.n}.",
    )
    title = "Accuracy in % of the highest-scored completion, over all subsets of N; the model's own score first"
    table = ShownTable(["score", *(f"@{n}" for n in sizes)], rows)
    return Section("Best-of-N", [*about(entry), *against_no_model(metrics)], [(title, table)], [picture])
