"""Problems: a question with a verifiable answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmbench.data.records import (
    Located,
    check_limit,
    check_object,
    check_text,
    find_file,
    read_records,
    refuse_duplicates,
)


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        id: Its name, unique in its file.
        problem: The question.
        answer: The gold answer, as text.
    """

    id: str
    problem: str
    answer: str

    def digest(self) -> str:
        """Hash all three fields with sha256, in hex."""
        return hashlib.sha256(json.dumps([self.id, self.problem, self.answer]).encode()).hexdigest()


def load_problems(path: str | Path, limit: int | None = None) -> list[Problem]:
    """Load a file of ``{id, problem, answer}`` records (.json, .jsonl, .jsonl.gz, .parquet).

    Args:
        path: The file.
        limit: Keep the first this many; None keeps all.

    Returns:
        The problems, in the order of the file.

    Raises:
        UserError: There is no such file, or a record is wrong. The message names the line and the field.
    """
    check_limit(limit)
    return check_problems(read_records(find_file(path, "problems, one {id, problem, answer} a line")))[:limit]


def check_problems(records: Iterable[Located]) -> list[Problem]:
    """Check records of problems.

    Args:
        records: The records, each with its place.

    Returns:
        The problems.

    Raises:
        UserError: A record is wrong, or an id is used twice. The message names the place.
    """
    found = [(place, _check(place, record)) for place, record in records]
    refuse_duplicates((problem.id for _, problem in found), (place for place, _ in found))
    return [problem for _, problem in found]


def _check(place: str, record: Any) -> Problem:
    fields = ("id", "problem", "answer")
    check_object(place, record, fields, "an object with id, problem and answer")
    return Problem(*(check_text(place, name, record[name], number=name != "problem") for name in fields))
