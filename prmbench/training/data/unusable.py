"""Rows of training data that nothing can be learned from: they are left out, counted and named, as long as they are few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from prmbench.data.records import Located
from prmbench.errors import UserError

Row = TypeVar("Row")

LARGEST_SHARE = 0.1


class UnusableRow(UserError):
    """A row that is well-formed, and of no use.

    Attributes:
        place: Where the row stands.
        reason: What is wrong with it, in few words.
    """

    def __init__(self, place: str, reason: str, detail: str = "") -> None:
        """Word what is wrong.

        Args:
            place: Where the row stands.
            reason: What is wrong with it, in few words.
            detail: The rest of the sentence.
        """
        super().__init__(f"{place}: {reason}{detail}")
        self.place, self.reason = place, reason


class UsableRows:
    """Reads rows and leaves out those that are of no use.

    Attributes:
        counts: Number of rows left out, by reason.
    """

    def __init__(self, file: Path, *, strict: bool) -> None:
        """Make a reader.

        Args:
            file: The data file, for messages.
            strict: Whether the first row of no use is an error.
        """
        self.file, self.strict = file, strict
        self.counts: Counter[str] = Counter()
        self._first: dict[str, UnusableRow] = {}

    def read(self, records: Iterable[Located], parse: Callable[[str, object], Row]) -> Iterator[tuple[str, Row]]:
        """Parse records.

        Args:
            records: The records, each with its place.
            parse: Makes a row of a place and a record; raises `UnusableRow` for one of no use.

        Yields:
            The place of each usable row, and the row.

        Raises:
            UserError: A row is wrong; or, with `strict`, of no use; or more than a tenth are.
        """
        n = 0
        for place, record in records:
            n += 1
            try:
                yield place, parse(place, record)
            except UnusableRow as row:
                if self.strict:
                    raise
                self.counts[row.reason] += 1
                self._first.setdefault(row.reason, row)
        left_out = self.counts.total()
        if left_out > LARGEST_SHARE * n:
            first = next(iter(self._first.values()))
            raise UserError(
                f"{self.file}: {left_out:,} of {n:,} rows are of no use, more than a tenth; mend the file (the first is {first})"
            )

    def remarks(self) -> list[str]:
        """Say what was left out, and where the first row of each sort stands; nothing where nothing was."""
        parts = [f"{count:,} x {reason}, first {self._first[reason].place}" for reason, count in self.counts.items()]
        return [f"{self.file}: left out as of no use: {'; '.join(parts)}"] if parts else []
