"""A comparison on the screen, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from prmbench.reports.compare import FIGURES, Difference, Measured, Pair
from prmbench.stats.paired import McNemar

SHOWN_FLIPS = 5
SIGNIFICANT = 0.05


def render(measured: list[Measured], pairs: list[Pair], *, groups: bool) -> RenderableType:
    """Every pair as a table of differences in points with 95% intervals, and what they mean in words.

    Args:
        groups: also by position of the error and by generator.
    """
    benchmark = measured[0].entry.benchmark.name
    parts: list[RenderableType] = []
    for pair in pairs:
        parts.append(_pair(pair, FIGURES[benchmark]))
        if groups and any(d.by_position for d in pair.subsets.values()):
            parts.append(_groups(pair))
        parts += [escape(line) for line in _sentences(pair, many=len(pairs) > 1)]
    return Group(*(escape(line) for line in _heading(measured)), *parts)


def as_json(measured: list[Measured], pairs: list[Pair]) -> dict[str, Any]:
    """Everything, figures from 0 to 1."""
    entries = [{"name": m.name, "entry": str(m.path), "protocol": m.protocol or None} for m in measured]
    return {
        "benchmark": measured[0].entry.benchmark.name,
        "entries": entries,
        "pairs": [asdict(pair) for pair in pairs],
    }


def _heading(measured: list[Measured]) -> list[str]:
    entry = measured[0].entry
    n = sum(data.n_items for data in entry.benchmark.subsets.values())
    protocols = {m.protocol for m in measured if m.protocol}
    what = f", step scores: {' and '.join(sorted(protocols))}" if protocols else ""
    lines = [f"{entry.benchmark.name}: {len(measured)} subjects on the same {n:,} items{what}"]
    if any(m.entry.miniature for m in measured):
        lines.append("Miniature: a synthetic world and tiny models; only orderings say anything.")
    if entry.benchmark.limit is not None:
        lines.append(f"Only {entry.benchmark.limit:,} items of each subset: a try, not a result to quote.")
    return lines


def _pair(pair: Pair, figure: str) -> Table:
    table = Table(
        title=escape(f"{pair.first} minus {pair.second}: {figure} in points [95% interval, items paired]"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
    )
    has_tests = any(d.mcnemar for d in pair.subsets.values())
    titles = [
        "",
        pair.first,
        pair.second,
        "difference",
        "p",
        *(["only first", "only second", "McNemar p"] if has_tests else []),
    ]
    for i, title in enumerate(titles):
        table.add_column(escape(title), justify="right" if i else "left")
    for name, difference in pair.subsets.items():
        table.add_row(escape(name), *_cells(difference), *(_test(difference.mcnemar) if has_tests else []))
    if len(pair.subsets) > 1:
        table.add_section()
        table.add_row("mean", *_cells(pair.mean), *([""] * 3 if has_tests else []))
    return table


def _cells(d: Difference) -> list[str]:
    return [
        f"{100 * d.first:.1f}",
        f"{100 * d.second:.1f}",
        f"{100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]",
        shown_p(d.p),
    ]


def _test(found: McNemar | None) -> list[str]:
    return ["", "", ""] if found is None else [f"{found.only_first:,}", f"{found.only_second:,}", shown_p(found.p)]


def shown_p(p: float) -> str:
    """A p as it is printed."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _groups(pair: Pair) -> Table:
    table = Table(
        title="Share predicted right, in %: by position of the first error, and by what wrote the solution",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
    )
    for i, title in enumerate(["", "traces", pair.first, pair.second, "only first", "only second", "McNemar p"]):
        table.add_column(escape(title), justify="right" if i else "left")
    for name, difference in pair.subsets.items():
        for group in (*difference.by_position, *difference.by_generator):
            test = _test(group.mcnemar)
            row = [f"{name}: {group.name}", f"{group.n:,}", f"{100 * group.first:.1f}", f"{100 * group.second:.1f}"]
            table.add_row(*(escape(cell) for cell in row), *test)
        table.add_section()
    return table


def _sentences(pair: Pair, *, many: bool) -> list[str]:
    mean = pair.mean
    corrected = f" ({shown_p(pair.p_holm)} corrected for all pairs, Holm)" if many else ""
    higher, lower = (pair.first, pair.second) if mean.value > 0 else (pair.second, pair.first)
    p = pair.p_holm if many else mean.p
    by = f"{100 * abs(mean.value):.1f} points, p = {shown_p(mean.p)}{corrected}"
    said = f"{higher} is above {lower} by {by}." if p < SIGNIFICANT else f"No significant difference: {by}."
    lines = [said]
    for name, difference in pair.subsets.items():
        for subject, ids in zip((pair.first, pair.second), difference.flips, strict=True):
            if ids:
                more = f" and {len(ids) - SHOWN_FLIPS:,} more" if len(ids) > SHOWN_FLIPS else ""
                lines.append(f"{name}: right only by {subject}: {', '.join(ids[:SHOWN_FLIPS])}{more}")
    return lines
