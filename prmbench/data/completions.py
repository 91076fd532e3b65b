"""Candidate solutions for Best-of-N: several completions a problem, from rollouts or from published samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.problems import check_problems
from prmbench.data.records import Located, check_characters, check_fields, check_ids, read_json, read_records, stem
from prmbench.errors import UserError, nearest_path


@dataclass(frozen=True)
class Candidate:
    """One completion of one problem.

    Attributes:
        subset: the file it is from. id, problem, answer: the problem's. sample: 0 to n - 1. text: the completion.
        ids: sampled token ids, end of turn included, where known. truncated: cut off, which counts as wrong.
    """

    subset: str
    id: str
    sample: int
    problem: str
    answer: str
    text: str
    ids: NDArray[np.int64] | None
    truncated: bool

    @property
    def key(self) -> tuple[str, str]:
        """What names it within a run."""
        return self.subset, f"{self.id}/{self.sample}"

    def digest(self) -> str:
        """sha256 (hex) of the problem, its answer and the completion."""
        content = [self.subset, self.id, self.sample, self.problem, self.answer, self.text, self.truncated]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_candidates(paths: Sequence[str | Path], limit: int | None = None) -> list[Candidate]:
    """Load files of rollouts (`prmbench rollout`), or of ``{id, problem, answer, samples: [{text}, ...]}`` records.

    Args:
        paths: files, or folders of rollout runs; each is a subset called by its name.
        limit: keep the first this many problems of each.

    Raises:
        UserError: no such file, a wrong record, a name used twice, or problems with different numbers of candidates.
    """
    found: list[Candidate] = []
    for path in map(Path, paths):
        file = path / "rollouts.jsonl" if path.is_dir() else path
        if not file.is_file():
            near = sets_within(path) if path.is_dir() else nearest_path(path)
            raise UserError(
                f"{file}: no such file{near}; expected rollouts, or {{id, problem, answer, samples}} records"
            )
        subset = (
            path.resolve().name
            if path.is_dir()
            else path.resolve().parent.name
            if stem(path) == "rollouts"
            else stem(path)
        )
        if any(one.subset == subset for one in found):
            raise UserError(f"{path}: two files are called '{subset}'; rename one")
        records = read_records(file)
        fields = records[0][1] if isinstance(records[0][1], dict) else {}
        mine = _samples(subset, records) if "samples" in fields else _rollouts(subset, records)
        found += _equal_numbers(file, mine, limit)
    return found


def sets_within(folder: Path) -> str:
    """What to name instead of the folder of a policy's run, which has a folder of rollouts for each problem set."""
    found = sorted(str(one.parent) for one in folder.glob("*/rollouts.jsonl"))
    return f" (a problem set has a folder of its own: {', '.join(found)})" if found else ""


def prompt_of(path: str | Path) -> str | None:
    """The prompt template that a rollout run says it used; None where nothing says it."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    run = folder / "run.json"
    if not run.exists():
        return None
    name = read_json(run).get("prompt")
    return name if isinstance(name, str) else None


def _rollouts(subset: str, records: Sequence[Located]) -> list[Candidate]:
    kinds: dict[str, type] = {"id": str, "sample": int, "problem": str, "answer": str, "completion": str}
    kinds |= {"ids": list, "finish_reason": str}
    out = []
    for place, fields in records:
        check_fields(place, fields, kinds, "a rollout, or a record with 'samples'")
        for name in ("id", "problem", "answer", "completion"):
            check_characters(place, name, fields[name])
        out.append(
            Candidate(
                subset,
                fields["id"],
                fields["sample"],
                fields["problem"],
                fields["answer"],
                fields["completion"],
                check_ids(place, fields["ids"]),
                fields["finish_reason"] == "length",
            )
        )
    return out


def _samples(subset: str, records: Sequence[Located]) -> list[Candidate]:
    problems = check_problems(records)
    out = []
    for (place, fields), problem in zip(records, problems, strict=True):
        samples: Any = fields.get("samples")
        if not isinstance(samples, list) or not samples:
            raise UserError(f"{place}: field 'samples' must be a list of {{text}} objects, at least one")
        for i, sample in enumerate(samples):
            text = sample.get("text") if isinstance(sample, dict) else None
            if not isinstance(text, str):
                raise UserError(f"{place}: field 'samples[{i}].text' is missing or no text")
            check_characters(place, f"samples[{i}].text", text)
            out.append(Candidate(subset, problem.id, i, problem.problem, problem.answer, text, None, False))
    return out


def _equal_numbers(file: Path, candidates: list[Candidate], limit: int | None) -> list[Candidate]:
    groups: dict[str, list[Candidate]] = {}
    for one in candidates:
        groups.setdefault(one.id, []).append(one)
    first = next(iter(groups))
    for name, group in groups.items():
        if len(group) != len(groups[first]):
            raise UserError(
                f"{file}: problem '{name}' has {len(group)} candidates, '{first}' has {len(groups[first])}; expected equally many"
            )
        if len({one.sample for one in group}) != len(group):
            raise UserError(f"{file}: problem '{name}' has a sample number twice")
    kept = list(groups.values())[:limit]
    return [one for group in kept for one in sorted(group, key=lambda c: c.sample)]
