"""What the benchmarks' tables on the screen share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from prmbench.benchmarks.names import differing
from prmbench.benchmarks.parts import MINIATURE, Cell
from prmbench.errors import printable
from prmbench.results.schema import Entry, Estimate, what_it_is

if TYPE_CHECKING:
    from prmbench.benchmarks.base import Benchmark

SUBJECT_WIDTH = 6
"""Characters that a subject's column keeps on a narrow terminal: those of its figures."""


def safe(text: str) -> str:
    """Text of unknown origin for a terminal: no markup, no control characters, one line.

    Args:
        text: The text.
    """
    return escape(printable(text))


def new_table(title: str, first: str = "", titles: tuple[str, ...] | list[str] = ()) -> Table:
    """A table in the style of all tables; texts are escaped.

    Args:
        title: What it shows.
        first: The heading of its first column.
        titles: The headings of the others, whose cells are numbers.
    """
    table = Table(title=safe(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column(safe(first), no_wrap=True)
    for one in titles:
        table.add_column(safe(one), justify="right", no_wrap=True)
    return table


def paired_table(title: str, first: str, one: str, other: str, titles: Sequence[str]) -> Table:
    """A table of two subjects, whose headings show what differs in their names and wrap where the terminal is narrow.

    Args:
        title: What it shows.
        first: The heading of its first column.
        one: The first subject's name.
        other: The second subject's name.
        titles: The headings of the columns after the two subjects'; a line break in one is kept.
    """
    table = Table(title=safe(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column(safe(first), overflow="fold")
    for name in differing([one, other]):
        table.add_column(safe(name), justify="right", overflow="fold", min_width=SUBJECT_WIDTH)
    for text in titles:
        table.add_column("\n".join(map(safe, text.split("\n"))), justify="right", no_wrap=True)
    return table


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: ``a, b and c``.

    Args:
        names: The names, at least one.
    """
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def standing(found: Estimate, rival: float) -> str:
    """Say where a figure stands against that of a rival that it has to beat, as words after "is" or "are".

    Args:
        found: The figure; it has a value.
        rival: The rival's figure.

    Returns:
        ``NOT above``; ``above``; or ``not clearly above`` where the figure is above and its 95% interval is not.
    """
    assert found.value is not None
    if found.value <= rival:
        return "NOT above"
    return "above" if found.low is None or found.low > rival else "not clearly above"


def percent(estimate: Estimate | None) -> str:
    """A fraction in percent, or ``n/a``.

    Args:
        estimate: The figure, from 0 to 1; None: there is none.
    """
    return "n/a" if estimate is None or estimate.value is None else f"{100 * estimate.value:.1f}"


def percent_with_interval(estimate: Estimate | None) -> str:
    """A fraction in percent with its interval, in rich's markup.

    Args:
        estimate: The figure, from 0 to 1; None: there is none.
    """
    if estimate is None or estimate.low is None or estimate.high is None:
        return percent(estimate)
    return f"{percent(estimate)} [dim]\\[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}][/dim]"


def number(estimate: Estimate, digits: int = 3) -> str:
    """A plain number with its interval, in rich's markup.

    Args:
        estimate: The figure.
        digits: Digits after the point.
    """
    if estimate.value is None:
        return "n/a"
    text = f"{estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [dim]\\[{estimate.low:.{digits}f}, {estimate.high:.{digits}f}][/dim]"


def heading(entry: Entry[Any], title: str, size: str, only: str) -> list[str]:
    """The sentences above a table: what was measured, and how seriously to take it.

    Args:
        entry: The entry.
        title: The benchmark's title.
        size: What it was measured on, in words.
        only: What a limit kept, in words: ``the first 10 problems of each set``.
    """
    lines = [f"{title}: {entry.subject.name} ({what_it_is(entry.subject)}), {size}"]
    if entry.miniature:
        lines.append(MINIATURE)
    if entry.benchmark.limit is not None:
        lines.append(f"Only {only}: a try, not a result to quote.")
    return lines


def render_columns(benchmark: Benchmark, entry: Entry[Any]) -> RenderableType:
    """The leaderboard's columns as a table, for benchmarks that have nothing more to show.

    Args:
        benchmark: The benchmark.
        entry: An entry of it.
    """
    columns = benchmark.columns([entry])
    n_items = sum(data.n_items for data in entry.benchmark.subsets.values())
    limit = entry.benchmark.limit
    lines = heading(entry, benchmark.title, f"{n_items:,} {benchmark.unit}", f"{limit} {benchmark.unit} of each subset")
    table = new_table("[95% interval]", "", [f"{c.title}, {c.unit}" if c.unit else c.title for c in columns])
    cells = [Cell.of(c.estimate(entry), c.unit) for c in columns]
    table.add_row(safe(entry.subject.name), *(escape(shown(cell)) for cell in cells))
    return Group(*map(safe, lines), table)


def shown(cell: Cell) -> str:
    """A cell as plain text: the figure and its interval.

    Args:
        cell: The cell.
    """
    if cell.value is None:
        return ""
    interval = "" if cell.low is None or cell.high is None else f" [{cell.low:.1f}, {cell.high:.1f}]"
    return f"{cell.value:.1f}{interval}"


def probe_heading(entry: Entry[Any], title: str) -> list[str]:
    """The sentences above a probe's table.

    Args:
        entry: The entry.
        title: What the probe is called.
    """
    sets = ", ".join(f"{name} ({data.n_items:,} problems)" for name, data in entry.benchmark.subsets.items())
    return heading(entry, title, sets, f"the first {entry.benchmark.limit} problems of each set")
