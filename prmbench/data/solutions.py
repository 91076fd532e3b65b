"""Solutions without labels: a problem and its steps, or a problem and a raw solution that is split at blank lines."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from prmbench.data.records import (
    check_limit,
    check_object,
    check_steps,
    check_text,
    find_file,
    read_records,
    refuse_duplicates,
)
from prmbench.errors import UserError, naming_keywords


@dataclass(frozen=True)
class Solution:
    """One solution.

    Attributes:
        id: Its name, unique in its file.
        problem: The question.
        steps: Its steps, at least one.
        answer: The gold answer; None where the record has none.
    """

    id: str
    problem: str
    steps: tuple[str, ...]
    answer: str | None = None

    def digest(self) -> str:
        """Hash id, problem and steps with sha256, in hex."""
        return hashlib.sha256(json.dumps([self.id, self.problem, list(self.steps)]).encode()).hexdigest()


def split_solution(text: str) -> list[str]:
    """Split a raw solution into steps at blank lines, which are lines of white space alone.

    Args:
        text: The solution.

    Returns:
        The steps. Blank lines, and white space at the two ends of the text, belong to no step.
    """
    return re.split(r"\n(?:[^\S\n]*\n)+", text.strip())


@naming_keywords
def load_solutions(path: str | Path, limit: int | None = None) -> list[Solution]:
    """Load ``{problem, steps}`` or ``{problem, solution}`` records (.json, .jsonl, .jsonl.gz, .parquet).

    A record may have an ``id``; without one it is called by its number in the file, from 1. It may have a gold
    ``answer``. Other fields are left alone.

    Args:
        path: The file.
        limit: Read only the first this many; None reads all.

    Returns:
        The solutions, in the order of the file.

    Raises:
        UserError: There is no such file, or a record is wrong. The message names the file, the record and the field.

    Examples:
        >>> solutions = prmbench.load_solutions("my-solutions.jsonl")
        >>> [solution.id for solution in solutions]
        ['1', '2', '3']
    """
    check_limit(limit)
    file = find_file(path, "a file of {problem, steps} or {problem, solution} records")
    records = enumerate(itertools.islice(read_records(file), limit), start=1)
    found = [(place, parse_solution(place, record, number)) for number, (place, record) in records]
    refuse_duplicates((one.id for _, one in found), (place for place, _ in found))
    return [one for _, one in found]


class SolutionRecord(BaseModel):
    """A solution as files and requests hold it. `parse_solution` checks one; this says what its fields are."""

    id: str | int | float | None = Field(None, description="its name; without one it is called by its number, from 1")
    problem: str = Field(description="the question")
    steps: list[str] | None = Field(None, description="its steps, at least one; or else solution")
    solution: str | None = Field(None, description="one text, which is split into steps at blank lines")
    answer: str | int | float | None = Field(None, description="the gold answer, where it is known")


def parse_solution(place: str, record: Any, number: int) -> Solution:
    """Check a record, and read the solution that it holds.

    Args:
        place: Where the record is, for errors.
        record: The JSON value, with the fields of `SolutionRecord`; other fields are left alone.
        number: Its number, which it is called by where it has no id.

    Returns:
        The solution.

    Raises:
        UserError: It is none; the field is named.
    """
    check_object(place, record, ("problem",), "an object with problem, and steps or solution")
    given = [name for name in ("steps", "solution") if record.get(name) is not None]
    if len(given) != 1:
        raise UserError(
            f"{place}: has {' and '.join(given) or 'neither steps nor solution'}; expected one of 'steps' (a list of texts) and "
            "'solution' (one text, split at blank lines)"
        )
    own = record.get("id")  # null where a table lacks the value
    return Solution(
        check_text(place, "id", number if own is None else own, number=True),
        check_text(place, "problem", record["problem"]),
        tuple(split_solution(check_text(place, "solution", record["solution"])))
        if "solution" in given
        else check_steps(place, record["steps"]),
        None if (gold := record.get("answer")) is None else check_text(place, "answer", gold, number=True),
    )
