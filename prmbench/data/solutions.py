"""Solutions without labels: a problem and its steps, or a problem and a raw solution that is split at blank lines."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmbench.data.records import check_steps, check_text, read_records, refuse_duplicates
from prmbench.errors import UserError, nearest, nearest_path


@dataclass(frozen=True)
class Solution:
    """One solution. id: unique in its file. problem: the question. steps: at least one, none of them blank."""

    id: str
    problem: str
    steps: tuple[str, ...]

    def digest(self) -> str:
        """sha256 (hex) of id, problem and steps."""
        return hashlib.sha256(json.dumps([self.id, self.problem, list(self.steps)]).encode()).hexdigest()


def split_solution(text: str) -> list[str]:
    """Steps of a raw solution: it is split at blank lines (lines of white space alone); these, and white space at its two ends,
    belong to no step."""
    return re.split(r"\n(?:[^\S\n]*\n)+", text.strip())


def load_solutions(path: Path, limit: int | None = None) -> list[Solution]:
    """Load ``{problem, steps}`` or ``{problem, solution}`` records (.json, .jsonl, .jsonl.gz, .parquet).

    A record may have an ``id``; without one it is called by its number in the file, from 1. Other fields are left alone.

    Args:
        limit: only the first this many.

    Raises:
        UserError: no such file, or a wrong record; the message names the file, the record and the field.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected a file of {{problem, steps}} or {{problem, solution}} records")
    if not path.is_file():
        raise UserError(
            f"{path}: no such file{nearest_path(path)}; expected {{problem, steps}} or {{problem, solution}} records"
        )
    located = read_records(path)[:limit]
    found = [_check(place, record, number) for number, (place, record) in enumerate(located, start=1)]
    refuse_duplicates([one.id for one in found], [place for place, _ in located])
    return found


def _check(place: str, record: Any, number: int) -> Solution:
    if not isinstance(record, dict):
        raise UserError(
            f"{place}: is a JSON {type(record).__name__}; expected an object with problem, and steps or solution"
        )
    if "problem" not in record:
        raise UserError(f"{place}: field 'problem' is missing{nearest('problem', record)}; expected the question")
    given = [name for name in ("steps", "solution") if record.get(name) is not None]
    if len(given) != 1:
        raise UserError(
            f"{place}: has {' and '.join(given) or 'neither steps nor solution'}; expected one of 'steps' (a list of texts) and "
            "'solution' (one text, split at blank lines)"
        )
    identity = number if record.get("id") is None else record["id"]  # a table's missing value is null
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    check_text(place, "id", identity)
    check_text(place, "problem", record["problem"])
    if "solution" in given:
        check_text(place, "solution", record["solution"])
        steps = split_solution(record["solution"])
    else:
        check_steps(place, record["steps"])
        steps = record["steps"]
    return Solution(identity, record["problem"], tuple(steps))
