"""What a report's page is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from prmbench.benchmarks.tables import MINIATURE
from prmbench.reports.compare import AnyEntry
from prmbench.reports.leaderboard import Cell


@dataclass(frozen=True)
class Table:
    """header, and rows of a name and cells."""

    header: list[str]
    rows: list[tuple[str, list[Cell]]]


@dataclass(frozen=True)
class Picture:
    """svg: made here, from numbers and subsets' names (escaped by matplotlib). caption: a sentence."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Step:
    """A step of a shown item. text: None where the data are not at hand. shade: -1 (far below its threshold) to 1 (far above)."""

    number: int
    score: float
    shade: float
    text: str | None
    is_error: bool
    is_flagged: bool


@dataclass(frozen=True)
class Worst:
    """An item that was predicted wrong. margin: by how much, in scores' standard deviations."""

    id: str
    subset: str
    generator: str
    label: int
    predicted: int
    margin: float
    problem: str | None
    steps: list[Step]


@dataclass(frozen=True)
class Section:
    """One benchmark."""

    title: str
    about: list[str]
    tables: list[tuple[str, Table]]
    pictures: list[Picture]
    worst: list[Worst] = field(default_factory=list)
    worst_note: str = ""


def about(entry: AnyEntry) -> list[str]:
    """What it was measured on, and how seriously to take it."""
    lines = [f"{name}: {data.n_items:,} items" for name, data in entry.benchmark.subsets.items()]
    if entry.miniature:
        lines.append(MINIATURE)
    if entry.benchmark.limit is not None:
        lines.append(f"Only {entry.benchmark.limit:,} items of each subset: a try, not a result to quote.")
    return lines
