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
PAPER = "arXiv:2604.13197v2"
"""The paper that prmbench implements, as the source of its tables."""

WHY_REPORTED = (
    "Figures as a paper prints them. They cannot be compared with the tables above item by item: there are no items, so no paired "
    "test; the data may differ in version and size, thresholds were chosen another way (a coarse grid, on the test items), answers "
    "were checked by another verifier, and there are no intervals."
)


class ReportedRow(Record):
    """A line of a reported table."""

    backbone: str = Field(
        description="the model that the method was applied to; in a table of released models, what sort of model it is"
    )
    method: str = Field(description="the method, or the model, as the paper calls it")
    values: list[float] = Field(description="one a column")


class ReportedTable(Record):
    """A table of a paper, as printed."""

    status: Literal["reported"] = Field(description="not measured here")
    source: str = Field(description="the paper")
    url: str | None = Field(None, description="where it is; null: arXiv has it under its number")
    table: str = Field(description="its number there; fig6 is Fig. 6")
    title: str = Field(description="its caption, shortened")
    benchmark: str = Field(description="what it measures with: processbench, best-of-n, policy or candidates")
    figure: str = Field(description="what the values are, with the unit")
    columns: list[str] = Field(description="headings of the values")
    rows: list[ReportedRow] = Field(description="its lines; none where the paper prints no figures")
    note: str = Field("", description="what the figures were checked against; what the text says, where there are none")

    @property
    def place(self) -> str:
        """Where it stands in the paper, such as Table 2."""
        return place_of(self.table)

    @property
    def origin(self) -> str:
        """The paper, and where it is; pages that fetch nothing and link nowhere show the paper alone."""
        return self.source if self.url is None else f"{self.source} ({self.url})"

    @property
    def texts(self) -> list[list[str]]:
        """The values as the paper prints them: those of a column have as many decimals, and one at least."""
        columns = list(zip(*(row.values for row in self.rows), strict=True))
        digits = [max(len(repr(value).partition(".")[2]) for value in column) for column in columns]
        return [[f"{v:.{n}f}" for v, n in zip(row.values, digits, strict=True)] for row in self.rows]


def place_of(number: str) -> str:
    """Say where something stands in a paper.

    Args:
        number: Number of a table, of a figure (``fig6``) or of a section (``4.3.3``).
    """
    if number.startswith("fig"):
        return f"Fig. {number.removeprefix('fig')}"
    return f"{'Section' if '.' in number else 'Table'} {number}"


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
    return sorted(
        found, key=lambda t: (t.source, not t.table.isdigit(), int(t.table) if t.table.isdigit() else 0, t.table)
    )
