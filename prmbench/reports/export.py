"""An entry's figures for other programs: CSV, and a row of a LaTeX table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.parts import Cell
from prmbench.errors import UserError
from prmbench.reports.escaping import for_csv, for_latex, one_line
from prmbench.reports.leaderboard import columns_and_cells

CSV_FIELDS = ("subject", "benchmark", "fingerprint", "figure", "value", "low", "high")


def to_csv(measured: Sequence[Measured]) -> str:
    """Write every estimate of entries as CSV, one a line, with its path in the entry, its value and its 95% interval.

    Columns are `CSV_FIELDS`; fractions are from 0 to 1. A text that a spreadsheet would take for a formula gets an apostrophe
    before it.

    Args:
        measured: The entries.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for entry in (one.entry for one in measured):
        fixed = [for_csv(text) for text in (entry.subject.name, entry.benchmark.name, entry.benchmark.fingerprint)]
        for path, estimate in _estimates("", entry.metrics.model_dump(mode="json")):
            numbers = ["" if estimate.get(k) is None else estimate[k] for k in ("value", "low", "high")]
            writer.writerow([*fixed, for_csv(path), *numbers])
    return out.getvalue()


def to_latex(measured: Sequence[Measured]) -> str:
    """Write entries as rows of a LaTeX tabular, in %, each after a comment that names its columns.

    Args:
        measured: The entries.

    Raises:
        UserError: An entry of a benchmark that has no table.
    """
    lines = []
    for one in measured:
        columns, cells = columns_and_cells(one)
        if not columns:
            raise UserError(f"{one.path}: entries of {one.benchmark.name} have no table, and so no row of it")
        about = f"{one.benchmark.name} {one.entry.benchmark.fingerprint[:12]}"
        lines.append(f"% {one_line(f'{about}: ' + ', '.join(column.title for column in columns))}")
        lines.append(" & ".join([for_latex(one.name), *map(_latex_cell, cells)]) + r" \\")
    return "\n".join(lines) + "\n"


def _estimates(path: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict):
        return
    if value.keys() == {"value", "low", "high"}:
        yield path, value
        return
    for key, inner in value.items():
        yield from _estimates(f"{path}.{key}" if path else str(key), inner)


def _latex_cell(cell: Cell) -> str:
    if cell.value is None:
        return "--"
    interval = "" if cell.low is None or cell.high is None else rf" {{\scriptsize[{cell.low:.1f}, {cell.high:.1f}]}}"
    return f"{cell.value:.1f}{interval}"
