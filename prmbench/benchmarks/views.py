"""Entries for people who work in Python: a few lines, a table, a frame of pandas, a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.parts import Cell
from prmbench.benchmarks.registry import find_benchmark
from prmbench.benchmarks.tables import shown
from prmbench.errors import UserError, printable
from prmbench.results.schema import Entry, what_it_is

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

WIDTH = 120
"""Columns of a table that is a text."""

FIRST = 3
"""Figures of an entry's few lines."""

ESTIMATE = frozenset({"value", "low", "high"})


def as_text(shown: RenderableType, width: int = WIDTH) -> str:
    """Write what the terminal would show as plain text.

    Args:
        shown: What rich prints.
        width: Columns of the text.
    """
    from rich.console import Console

    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(shown, highlight=False)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def table(entry: Entry[Any], width: int = WIDTH) -> str:
    """The table that the command line prints of an entry.

    Args:
        entry: The entry.
        width: Columns of the text.
    """
    return as_text(find_benchmark(entry.benchmark.name).render(entry), width)


def summary(entry: Entry[Any]) -> str:
    """An entry in a few lines: what was measured on what, and its first figures.

    Args:
        entry: The entry.
    """
    try:
        columns = find_benchmark(entry.benchmark.name).columns([entry])[:FIRST]
    except UserError:  # of a package that is not installed
        columns = []
    sizes = ", ".join(f"{name} {data.n_items:,}" for name, data in entry.benchmark.subsets.items())
    lines = [f"<Entry {entry.benchmark.name}: {entry.subject.name} ({what_it_is(entry.subject)})", f"  data: {sizes}"]
    for column in columns:
        cell = Cell.of(column.estimate(entry), column.unit)
        if cell.value is not None:
            lines.append(f"  {column.title}: {shown(cell)}")
    return printable_lines([*lines, "  .table(), .to_frame() and .plot() show all of it>"])


def printable_lines(lines: Sequence[str]) -> str:
    """Join lines whose texts may be anybody's.

    Args:
        lines: The lines.
    """
    return "\n".join(map(printable, lines))


def estimates(entry: Entry[Any]) -> Iterator[tuple[str, Mapping[str, float | None]]]:
    """Every figure of an entry with its path in the entry.

    Args:
        entry: The entry.

    Yields:
        Paths such as ``protocols.process.mean.crossfit``, and value, low and high as fractions.
    """

    def inside(path: str, value: Any) -> Iterator[tuple[str, Mapping[str, float | None]]]:
        if not isinstance(value, dict):
            return
        if value.keys() == ESTIMATE:
            yield path, value
            return
        for key, inner in value.items():
            yield from inside(f"{path}.{key}" if path else str(key), inner)

    yield from inside("", entry.metrics.model_dump(mode="json"))


def frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Make a frame of pandas.

    Args:
        rows: A mapping from column to value for each row.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UserError("to_frame needs pandas: `pip install pandas`") from None
    return pandas.DataFrame(list(rows))


def entry_frame(entry: Entry[Any]) -> Any:
    """A frame with a row for each figure of an entry: figure, value, low, high.

    Args:
        entry: The entry.
    """
    return frame([{"figure": path, **numbers} for path, numbers in estimates(entry)])


def plot(entry: Entry[Any]) -> Figure:
    """Draw the columns that a leaderboard has of an entry, with intervals; what is no subject as grey lines.

    Args:
        entry: The entry.
    """
    from matplotlib.figure import Figure

    benchmark = find_benchmark(entry.benchmark.name)
    columns = [one for one in benchmark.columns([entry]) if one.unit == "%"]
    cells = [(one.title, Cell.of(one.estimate(entry))) for one in columns]
    found = [(title, cell) for title, cell in cells if cell.value is not None]
    figure = Figure(figsize=(6, 1.2 + 0.3 * len(found)), layout="constrained")
    axis = figure.subplots()
    for i, (_, cell) in enumerate(found):
        assert cell.value is not None
        low, high = (cell.value if end is None else end for end in (cell.low, cell.high))
        axis.errorbar([cell.value], [i], xerr=[[cell.value - low], [high - cell.value]], fmt="o", color="C0", capsize=3)
    for name, row in benchmark.baselines(entry, columns):
        if row and row[0] is not None and row[0].value is not None:
            axis.axvline(100 * row[0].value, color="0.6", linestyle="--", linewidth=1)
            axis.annotate(name, (100 * row[0].value, len(found) - 0.4), color="0.4", fontsize=8, rotation=20)
    axis.set_yticks(range(len(found)), [title for title, _ in found])
    axis.invert_yaxis()
    axis.set(xlabel="%", xlim=(0, None))
    axis.set_title(f"{benchmark.title}: {entry.subject.name}", parse_math=False, pad=24)
    return figure
