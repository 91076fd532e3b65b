"""An entry of guided search on the screen and on a report's page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.parts import Cell, Picture, Section, ShownTable, about, to_svg
from prmbench.benchmarks.search.plot import draw_search
from prmbench.benchmarks.search.schema import SearchFigures, SearchMetrics, SearchSubset
from prmbench.benchmarks.tables import heading, new_table, percent, percent_with_interval, safe
from prmbench.data.traces import Trace
from prmbench.results.schema import Entry, Estimate

TITLES = ["right", "best-of-n, equal", "difference", "any right", "tokens", "read", "GFLOPs", "s"]
TROUBLES = {
    "cut": "were cut at the token limit",
    "endless": "of these in their first step",
    "empty": "have no word",
    "repeating": "repeat a step",
    "duplicates": "grew into the tokens of another path",
}


def render(entry: Entry[SearchMetrics]) -> RenderableType:
    """A row a method and budget, what it cost, and what it is against Best-of-N at equal compute.

    Args:
        entry: The entry.
    """
    metrics = entry.metrics
    n_problems = sum(d.n_items for d in entry.benchmark.subsets.values())
    lines = heading(
        entry, "Guided search", f"{n_problems:,} problems", f"the first {entry.benchmark.limit} problems of each set"
    )
    parts: list[RenderableType] = [safe(line) for line in lines]
    shown = [*metrics.subsets.items()]
    if len(shown) > 1:
        shown.append(("mean over the sets", metrics.mean))
    for title, result in shown:
        table = new_table(title, "", TITLES)
        for name, found in result.methods.items():
            table.add_row(safe(name), *_cells(name, found))
        table.add_section()
        table.add_row("one sample", percent_with_interval(result.plain), *[""] * (len(TITLES) - 1))
        parts.append(table)
    parts += [safe(line) for line in [*verdicts(metrics), *troubles(metrics.mean), *explained(metrics)]]
    return Group(*parts)


def _cells(name: str, found: SearchFigures) -> list[str]:
    pooled = name.startswith("best-of-n@")
    flops = None if found.policy_flops is None else (found.policy_flops + (found.model_flops or 0.0)) / 1e9
    return [
        percent_with_interval(found.accuracy),
        "" if pooled else f"{percent(found.best_of_n)} @{found.equal_n:.1f}",
        "" if pooled else percent_with_interval(found.difference),
        percent(found.any_right),
        f"{found.sampled:,.0f}",
        f"{found.scored:,.0f}",
        "n/a" if flops is None else f"{flops:,.3g}",
        f"{found.seconds:.2g}",
    ]


def standing(difference: Estimate) -> str:
    """Say where a method stands against Best-of-N at equal compute, by the interval of the difference.

    Args:
        difference: The difference, paired by problem.
    """
    assert difference.value is not None
    if difference.low is not None and difference.low > 0:
        return "better than"
    if difference.high is not None and difference.high < 0:
        return "worse than"
    return "not clearly different from"


def verdicts(metrics: SearchMetrics) -> list[str]:
    """Say of every search where it stands against Best-of-N at equal compute.

    Args:
        metrics: The figures of an entry.
    """
    by_standing: dict[str, list[str]] = {}
    for name, found in metrics.mean.methods.items():
        if not name.startswith("best-of-n@"):
            by_standing.setdefault(standing(found.difference), []).append(name)
    lines = [f"At equal compute {words} Best-of-N: {', '.join(names)}." for words, names in by_standing.items()]
    short = [name for name, found in metrics.mean.methods.items() if found.covered < 1]
    if short:
        lines.append(f"Best-of-N has too few samples for equal compute on some problems: {', '.join(short)}.")
    return lines


def troubles(result: SearchSubset) -> list[str]:
    """Say how many candidates went wrong in form, by method, at the largest budget.

    Args:
        result: The figures of all sets.
    """
    lines = []
    largest = max((name.rpartition("@")[2] for name in result.methods), key=int)
    for name, found in result.methods.items():
        if not name.endswith(f"@{largest}") or name.startswith("weighted"):
            continue
        counts = [(getattr(found, key), words) for key, words in TROUBLES.items()]
        if any(n for n, _ in counts):
            lines.append(f"{name}: {', '.join(f'{n:,} {words}' for n, words in counts if n)}.")
    return lines


def explained(metrics: SearchMetrics) -> list[str]:
    """Say what the columns are.

    Args:
        metrics: The figures of an entry.
    """
    unit = "operations" if metrics.compute == "flops" else "tokens, sampled and read (a model's shape is not known)"
    return [
        f"Accuracy in % [95% interval over problems]. Equal: Best-of-N with as many samples (@) as cost the same in {unit}, "
        f"problem by problem. Tokens sampled and read by the reward model, operations and seconds are means of a problem. "
        f"Paths are chosen by {metrics.score}."
    ]


def section(measured: Measured, traces: Sequence[Trace] | None) -> Section:
    """Methods, costs and the curves, for a report.

    Args:
        measured: The entry and its items.
        traces: Not used.
    """
    entry, metrics = measured.entry, measured.entry.metrics
    rows = [
        (
            name,
            [
                Cell.of(found.accuracy),
                Cell.of(found.best_of_n),
                Cell(found.equal_n),
                Cell.of(found.difference),
                Cell.of(found.any_right),
                Cell(found.sampled, digits=0),
                Cell(found.scored, digits=0),
                Cell(None if found.policy_flops is None else (found.policy_flops + (found.model_flops or 0)) / 1e9),
                Cell(found.seconds),
            ],
        )
        for name, found in metrics.mean.methods.items()
    ]
    titles = ["method", "right", "best-of-n, equal", "its N", "difference", "any right", *TITLES[4:]]
    picture = Picture(
        to_svg(draw_search(measured), "Guided search"),
        "Accuracy against compute: the line is Best-of-N, a point is a method at a budget.",
    )
    table = ("Accuracy in %, and what a problem costs", ShownTable(titles, rows))
    return Section("Guided search", [*about(entry), *verdicts(metrics), *troubles(metrics.mean)], [table], [picture])
