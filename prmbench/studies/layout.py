"""Tables of figures: which figure of which run stands where, and how the cells and the order of the rows are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from prmbench.reports.reported import PAPER, ReportedTable, place_of
from prmbench.stats.seeds import seed_mean
from prmbench.studies.claims import OURS, with_interval
from prmbench.studies.figures import Figure, Results, RunFigure
from prmbench.studies.runs import StudyRun
from prmbench.studies.settings import LABELS

LayoutRow = tuple[str, Sequence[RunFigure | None]]
"""A row's name, and its cells; None leaves a cell empty."""


@dataclass(frozen=True)
class Layout:
    """A table of figures.

    Attributes:
        number: Its number in the paper, ``1`` to ``14``, ``fig6`` or ``4.3.3``; ``ours`` for a table that the paper does not have.
        title: What it shows.
        unit: Unit of the figures.
        columns: Headings of the columns.
        rows: The rows.
        note: How it differs from the paper's table.
        paper: What the paper has, where the order of its methods by the last figure does not say it.
    """

    number: str
    title: str
    unit: str
    columns: Sequence[str]
    rows: Sequence[LayoutRow]
    note: str = ""
    paper: str = ""

    @property
    def heading(self) -> str:
        """Its place in the paper, where it has one, and its title."""
        return self.title if self.number == OURS else f"{place_of(self.number)}: {self.title}"

    @property
    def runs(self) -> list[StudyRun]:
        """What must be run for it, each run once."""
        return list(dict.fromkeys(cell.run for _, cells in self.rows for cell in cells if cell is not None))


def rows_of(names: Sequence[str], figures: Sequence[Figure]) -> list[LayoutRow]:
    """Make a row for each name, with the same figures.

    Args:
        names: Names of reward models or policies.
        figures: The figures, one a column.
    """
    return [(LABELS[name], [figure.of(name) for figure in figures]) for name in names]


def write_rows(rows: Sequence[LayoutRow], results: Results, undefined: str = "n/a") -> list[list[str]]:
    """Write the cells of rows, each row with its name first.

    Args:
        rows: The rows.
        results: Rows by run.
        undefined: What stands where a figure is not defined on some seed.
    """
    return [[name, *(cell_text(cell, results, undefined) for cell in cells)] for name, cells in rows]


def cell_text(cell: RunFigure | None, results: Results, undefined: str = "n/a") -> str:
    """Write a cell: the mean over seeds with its interval.

    Args:
        cell: The figure; None gives an empty text.
        results: Rows by run.
        undefined: What stands where the figure is not defined on some seed.
    """
    if cell is None:
        return ""
    values = cell.values(results)
    return undefined if np.isnan(values).any() else with_interval(seed_mean(values), cell.figure.digits)


def our_ordering(layout: Layout, results: Results) -> str:
    """Order the rows by their last figure, the best first.

    Args:
        layout: The table; rows whose name is in parentheses need no model and are left out.
        results: Rows by run.

    Returns:
        Names with figures, ``>`` between them, or ``=`` where two figures read the same.
    """
    found = []
    for name, cells in layout.rows:
        last = cells[-1]
        if last is not None and not name.startswith("("):
            mean = float(np.mean(last.values(results)))
            found.append((mean, name, f"{mean:.{last.figure.digits}f}"))
    return _ordered([(name, text) for _, name, text in sorted(found, key=lambda one: -one[0])])


def paper_orderings(layout: Layout, reported: Sequence[ReportedTable]) -> list[str]:
    """Order the paper's methods by their last figure, for each backbone of the paper's table.

    Args:
        layout: The table.
        reported: The tables that are reported; those of other papers are passed over.

    Returns:
        What the layout says, where it says something; else a line a backbone, as in `our_ordering`.
    """
    if layout.paper:
        return [layout.paper]
    for table in reported:
        if (table.source, table.table) == (PAPER, layout.number):
            lines = []
            for backbone in dict.fromkeys(row.backbone for row in table.rows):
                rows = sorted((r for r in table.rows if r.backbone == backbone), key=lambda r: -r.values[-1])
                lines.append(f"{backbone}: " + _ordered([(row.method, f"{row.values[-1]:g}") for row in rows]))
            return lines
    return []


def _ordered(rows: Sequence[tuple[str, str]]) -> str:
    """Write names with their figures, which come best first."""
    signs = ["", *(" = " if a[1] == b[1] else " > " for a, b in pairwise(rows))]
    return "".join(f"{sign}{name} {figure}" for sign, (name, figure) in zip(signs, rows, strict=True))
