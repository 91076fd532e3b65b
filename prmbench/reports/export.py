"""An entry's figures for other programs: CSV, and a row of a LaTeX table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from prmbench.reports.compare import AnyEntry
from prmbench.reports.escaping import for_csv, for_latex, one_line
from prmbench.reports.leaderboard import Cell, board_cells, board_columns

CSV_FIELDS = ("subject", "benchmark", "fingerprint", "figure", "value", "low", "high")


def to_csv(entries: Sequence[AnyEntry]) -> str:
    """Every estimate of the entries, one a line: its path in the entry, value and 95% interval, from 0 to 1 (tokens as they are).

    Columns are `CSV_FIELDS`. A name that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for entry in entries:
        fixed = [for_csv(text) for text in (entry.subject.name, entry.benchmark.name, entry.benchmark.fingerprint)]
        for path, estimate in _estimates("", entry.metrics.model_dump(mode="json")):
            numbers = ["" if estimate.get(k) is None else estimate[k] for k in ("value", "low", "high")]
            writer.writerow([*fixed, for_csv(path), *numbers])
    return out.getvalue()


def to_latex(entries: Sequence[AnyEntry]) -> str:
    """A tabular row an entry, in %, the columns named in a comment before it: those of its leaderboard table."""
    lines = []
    for entry in entries:
        columns = board_columns([entry])
        cells = [_latex_cell(cell) for cell in board_cells(entry, columns)]
        about = f"{entry.benchmark.name} {entry.benchmark.fingerprint[:12]}: {', '.join(columns)}"
        lines.append(f"% {one_line(about)}")
        lines.append(" & ".join([for_latex(entry.subject.name), *cells]) + r" \\")
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
