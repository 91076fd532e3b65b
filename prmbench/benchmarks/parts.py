"""What tables and report pages are made of."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prmbench.errors import printable
from prmbench.results.schema import Entry, Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prmbench.benchmarks.base import Benchmark, Measured

MINIATURE = "Miniature: a synthetic world and a tiny model; it shows how things work, not how good they are."


@dataclass(frozen=True)
class Cell:
    """A figure as it is shown, with its interval where there is one.

    Attributes:
        value: The figure, in the unit of its column; None: not defined.
        low: The lower end of its interval, or None.
        high: The upper end of its interval, or None.
        digits: Digits after the point; 0 for counts.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    digits: int = 1

    @classmethod
    def of(cls, estimate: Estimate | None, unit: str = "%") -> Cell:
        """Make a cell of an estimate.

        Args:
            estimate: The figure; None: there is none.
            unit: ``%`` for a fraction, which is shown in percent; empty for a plain number.
        """
        if estimate is None or estimate.value is None:
            return cls(None)
        scale = 100 if unit == "%" else 1
        low, high = (None if x is None else scale * x for x in (estimate.low, estimate.high))
        return cls(scale * estimate.value, low, high)


@dataclass(frozen=True)
class ShownTable:
    """A table of a page.

    Attributes:
        header: Headings, the first one of the names.
        rows: A name, and a cell for each further heading.
    """

    header: list[str]
    rows: list[tuple[str, list[Cell]]]


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        svg: The picture, made here from numbers and names (matplotlib escapes them).
        caption: What it shows, in a sentence.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class ShownStep:
    """A step of a shown item.

    Attributes:
        number: Its index, from 0.
        score: Its score, a logit; None where steps have no scores.
        shade: From -1 (far below its threshold) to 1 (far above).
        text: Its text; None where the data are not at hand.
        is_error: Whether it is the first wrong step.
        is_flagged: Whether it is the one that was predicted.
    """

    number: int
    score: float | None
    shade: float
    text: str | None
    is_error: bool
    is_flagged: bool


@dataclass(frozen=True)
class ShownItem:
    """An item and what was predicted of it.

    Attributes:
        id: Its id.
        subset: Its subset.
        generator: What wrote the solution.
        label: Index of the first wrong step, -1: none.
        predicted: The index that was predicted, -1: none.
        outcome: How the prediction relates to the label, in words.
        margin: By how much it was predicted wrong, in standard deviations of the scores; of a right one, below 0, by how much it is
            not.
        problem: The problem's text; None where the data are not at hand.
        steps: Its steps.
    """

    id: str
    subset: str
    generator: str
    label: int
    predicted: int
    outcome: str
    margin: float
    problem: str | None
    steps: list[ShownStep]


@dataclass(frozen=True)
class Section:
    """One benchmark's part of a page.

    Attributes:
        title: Its heading.
        about: Sentences on what was measured.
        tables: Titles and tables.
        pictures: Pictures.
        items: The items, those first that were predicted wrong by the widest margin.
        items_note: What these items are, in a sentence.
    """

    title: str
    about: list[str]
    tables: list[tuple[str, ShownTable]]
    pictures: list[Picture] = field(default_factory=list)
    items: list[ShownItem] = field(default_factory=list)
    items_note: str = ""


def about(entry: Entry[Any]) -> list[str]:
    """What an entry was measured on, and how seriously to take it, in sentences.

    Args:
        entry: The entry.
    """
    lines = [f"{name}: {data.n_items:,} items" for name, data in entry.benchmark.subsets.items()]
    if entry.miniature:
        lines.append(MINIATURE)
    if entry.benchmark.limit is not None:
        lines.append(f"Only {entry.benchmark.limit:,} items of each subset: a try, not a result to quote.")
    return [*lines, *at_risk(entry)]


def at_risk(entry: Entry[Any]) -> list[str]:
    """What puts an entry's figures at risk, a sentence each.

    Args:
        entry: The entry.
    """
    return [f"At risk: {warning}." for warning in (entry.provenance.warnings if entry.provenance else [])]


def section_of_columns(benchmark: Benchmark, measured: Measured) -> Section:
    """A section that shows the leaderboard's columns, for benchmarks that have nothing more to show.

    Args:
        benchmark: The benchmark.
        measured: The entry and its items.
    """
    entry = measured.entry
    columns = benchmark.columns([entry])
    row: tuple[str, Sequence[Cell]] = entry.subject.name, [Cell.of(c.estimate(entry), c.unit) for c in columns]
    table = ShownTable(["subject", *(column.title for column in columns)], [(row[0], list(row[1]))])
    return Section(benchmark.title, about(entry), [("Figures", table)])


def to_svg(figure: Figure, title: str) -> str:
    """Write a figure as an SVG element with its text as text; the same bytes for the same figure.

    Args:
        figure: The figure.
        title: Its title, for readers of the page's source.
    """
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "prmbench"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Title": title})
    text = "\n".join(map(printable, out.getvalue().split("\n")))  # names on it may hold anything
    return text[text.index("<svg") :]
