"""Entries' figures for other programs and for pages: CSV, Parquet, LaTeX, Markdown, the table of a model card."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from prmbench.benchmarks.base import Column, Measured
from prmbench.benchmarks.groups import grouped
from prmbench.benchmarks.parts import MINIATURE, Cell, at_risk
from prmbench.benchmarks.tables import shown
from prmbench.benchmarks.views import estimates
from prmbench.errors import UserError
from prmbench.reports.escaping import for_csv, for_latex, for_markdown, one_line
from prmbench.reports.pages import markdown_table

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
    for *texts, value, low, high in _rows(measured):
        writer.writerow([*map(for_csv, texts), *("" if one is None else one for one in (value, low, high))])
    return out.getvalue()


def to_parquet(measured: Sequence[Measured]) -> bytes:
    """Write every estimate of entries as a Parquet file with the columns `CSV_FIELDS`.

    Args:
        measured: The entries.
    """
    import pyarrow
    from pyarrow import parquet

    columns = zip(*_rows(measured), strict=True)
    kinds = [pyarrow.string()] * 4 + [pyarrow.float64()] * 3
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    out = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays, names=list(CSV_FIELDS)), out)
    return out.getvalue()


def _rows(measured: Sequence[Measured]) -> Iterator[tuple[Any, ...]]:
    """The values of `CSV_FIELDS` of every estimate."""
    for entry in (one.entry for one in measured):
        fixed = entry.subject.name, entry.benchmark.name, entry.benchmark.fingerprint
        for path, estimate in estimates(entry):
            yield *fixed, path, *(estimate[name] for name in ("value", "low", "high"))


def _tables(measured: Sequence[Measured]) -> Iterator[tuple[list[Measured], list[Column]]]:
    """Entries that share a table, and its columns.

    Raises:
        UserError: An entry of a benchmark that has no table.
    """
    for group in grouped(measured, lambda one: one.entry.benchmark.fingerprint).values():
        columns = group[0].benchmark.columns([one.entry for one in group])
        if not columns:
            first = group[0]
            raise UserError(f"{first.path}: entries of {first.benchmark.name} have no table, and so no row of it")
        yield group, columns


def _cells(one: Measured, columns: Sequence[Column]) -> list[Cell]:
    return [Cell.of(column.estimate(one.entry), column.unit) for column in columns]


def _unverified(one: Measured) -> bool:
    return bool(one.entry.subject.unverified)


def to_markdown(measured: Sequence[Measured]) -> str:
    """Write entries as Markdown tables, in %, one for each fingerprint, each after a line that says of what it is.

    Args:
        measured: The entries.

    Raises:
        UserError: An entry of a benchmark that has no table.
    """
    parts = []
    for group, columns in _tables(measured):
        data = group[0].entry.benchmark
        about = f"{group[0].benchmark.title}, {', '.join(data.subsets)}; fingerprint {data.fingerprint[:12]}"
        rows = [
            [for_markdown(one.name) + (" (unverified)" if _unverified(one) else ""), *map(shown, _cells(one, columns))]
            for one in group
        ]
        parts += [f"{for_markdown(about)}:", markdown_table(["subject", *(column.title for column in columns)], rows)]
        risks = [f"- {for_markdown(f'{one.name}: {risk}')}" for one in group for risk in at_risk(one.entry)]
        parts += ["\n".join(risks)] if risks else []
    return "\n\n".join(parts) + "\n"


def to_model_card(measured: Sequence[Measured]) -> str:
    """Write a section of a model card: the tables, and how to compute them again.

    Args:
        measured: The entries of one model.

    Raises:
        UserError: An entry of a benchmark that has no table.
    """
    notes = "Figures in %, with 95% intervals."
    if any(one.entry.miniature for one in measured):
        notes += f" {MINIATURE}"
    if any(one.entry.benchmark.limit is not None for one in measured):
        notes += " Some are of a part of the data: a try, not a result to quote."
    again = "`prmbench eval --from-items` computes them again from the items of the run."
    return f"## Evaluation\n\nMeasured with prmbench. {notes}\n\n{to_markdown(measured)}\n{again}\n"


def to_latex(measured: Sequence[Measured]) -> str:
    """Write entries as LaTeX tabulars, in %, one for each fingerprint, each after a comment that says of what it is.

    Args:
        measured: The entries.

    Raises:
        UserError: An entry of a benchmark that has no table.
    """
    lines = []
    for group, columns in _tables(measured):
        about = f"{group[0].benchmark.name} {group[0].entry.benchmark.fingerprint[:12]}, in %, 95% intervals"
        lines += [f"% {one_line(about)}", rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\hline"]
        lines += [" & ".join(["", *(for_latex(column.title) for column in columns)]) + r" \\", r"\hline"]
        for one in group:
            mark = r" \textit{(unverified)}" if _unverified(one) else ""
            lines.append(" & ".join([for_latex(one.name) + mark, *map(_latex_cell, _cells(one, columns))]) + r" \\")
        lines += [r"\hline", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_cell(cell: Cell) -> str:
    if cell.value is None:
        return "--"
    interval = "" if cell.low is None or cell.high is None else rf" {{\scriptsize[{cell.low:.1f}, {cell.high:.1f}]}}"
    return f"{cell.value:.1f}{interval}"
