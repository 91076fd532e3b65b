"""Tables as papers print them, which stand apart from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from prmbench.data.records import read_whole
from prmbench.errors import UserError, first_line
from prmbench.results.plain_files import refuse_links, require_plain_file
from prmbench.results.schema import Record

REPORTED = "reported"
WHY_REPORTED = (
    "Figures as a paper prints them. They cannot be compared with the tables above item by item: there are no items, so no paired "
    "test; the data may differ in version and size, thresholds were chosen another way (a coarse grid, on the test items), answers "
    "were checked by another verifier, and there are no intervals."
)


class ReportedRow(Record):
    """A line of a reported table."""

    backbone: str = Field(description="the model that the method was applied to")
    method: str = Field(description="the method, as the paper calls it")
    values: list[float] = Field(description="one a column")


class ReportedTable(Record):
    """A table of a paper, as printed."""

    status: Literal["reported"] = Field(description="not measured here")
    source: str = Field(description="the paper")
    table: str = Field(description="its number there")
    title: str = Field(description="its caption, shortened")
    benchmark: str = Field(description="processbench, best-of-n or policy")
    figure: str = Field(description="what the values are, with the unit")
    columns: list[str] = Field(description="headings of the values")
    rows: list[ReportedRow] = Field(description="its lines")


def read_reported(folder: Path) -> list[ReportedTable]:
    """Read the reported tables of a leaderboard, in the order of their numbers.

    Args:
        folder: The leaderboard's folder.

    Raises:
        UserError: A broken table; the file and the key are named.
    """
    found = []
    refuse_links(folder / REPORTED)
    for path in (folder / REPORTED).glob("*.json"):
        require_plain_file(path)
        try:
            table = ReportedTable.model_validate_json(read_whole(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise UserError(f"{path}: {where}: {first_line(ValueError(first['msg']))}") from None
        for i, row in enumerate(table.rows):
            if len(row.values) != len(table.columns):
                raise UserError(
                    f"{path}: rows.{i} has {len(row.values)} values, expected {len(table.columns)}, one a column"
                )
        found.append(table)
    return sorted(found, key=lambda t: (t.source, int(t.table) if t.table.isdigit() else 0, t.table))
