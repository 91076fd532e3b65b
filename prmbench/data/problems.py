"""Problems: a question with a verifiable answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmbench.data.records import Located, check_characters, read_records
from prmbench.errors import UserError, nearest, nearest_path


@dataclass(frozen=True)
class Problem:
    """One problem. id: unique in its file. problem: the question. answer: the gold answer, as text."""

    id: str
    problem: str
    answer: str

    def digest(self) -> str:
        """sha256 (hex) of all three fields."""
        return hashlib.sha256(json.dumps([self.id, self.problem, self.answer]).encode()).hexdigest()


def load_problems(path: str | Path, limit: int | None = None) -> list[Problem]:
    """Load a file of ``{id, problem, answer}`` records (.json, .jsonl, .jsonl.gz, .parquet).

    Args:
        limit: keep the first this many.

    Raises:
        UserError: no such file, or a wrong record; the message names the line and the field.
    """
    path = Path(path)
    if not path.is_file():
        near = nearest_path(path)
        raise UserError(f"{path}: no such file{near}; expected problems, one {{id, problem, answer}} a line")
    return check_problems(read_records(path))[:limit]


def check_problems(records: Iterable[Located]) -> list[Problem]:
    """Check records, each with its place. Raises UserError, naming the place, for a wrong one or an id used twice."""
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for place, record in records:
        problem = _check(place, record)
        if problem.id in seen:
            raise UserError(f"{place}: id '{problem.id}' was already used at {seen[problem.id]}; ids must be unique")
        seen[problem.id] = place
        problems.append(problem)
    return problems


def _check(place: str, record: Any) -> Problem:
    if not isinstance(record, dict):
        raise UserError(f"{place}: is a JSON {type(record).__name__}; expected an object with id, problem and answer")
    values = []
    for field in ("id", "problem", "answer"):
        if field not in record:
            raise UserError(
                f"{place}: field '{field}' is missing{nearest(field, record)}; a problem needs id, problem, answer"
            )
        value = record[field]
        if isinstance(value, int | float) and not isinstance(value, bool) and field != "problem":
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{place}: field '{field}' is {json.dumps(record[field])[:40]}; expected some text")
        check_characters(place, field, value)
        values.append(value)
    return Problem(*values)
