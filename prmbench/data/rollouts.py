"""Rollouts: sampled completions of problems, each with its verdict, and the one reader of a rollouts file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prmbench.data.records import (
    Located,
    check_characters,
    check_fields,
    check_ids,
    check_text,
    find_file,
    read_json,
    read_records,
    shown,
)
from prmbench.data.verdicts import Verdict
from prmbench.errors import UserError

FILE_STEM = "rollouts"

RolloutEnd = Literal["stop", "length", "prompt"]

FINISH_REASONS: tuple[str, ...] = get_args(RolloutEnd)


@dataclass(frozen=True)
class Rollout:
    """One completion of one problem.

    Attributes:
        id: The problem's id.
        sample: Number of the completion among those of its problem, from 0.
        problem: The question.
        answer: The gold answer.
        completion: The text, without special tokens.
        ids: The sampled token ids, end of turn included. Shape [t].
        finish_reason: ``length`` for a truncated completion, ``prompt`` for a prompt that leaves no room for one, whose ids are
            empty. The verdict of both is wrong.
        verdict: The verdict on its answer.
    """

    id: str
    sample: int
    problem: str
    answer: str
    completion: str
    ids: NDArray[np.int64]
    finish_reason: RolloutEnd
    verdict: Verdict

    @property
    def key(self) -> tuple[str, str]:
        """What names a rollout within its file."""
        return self.id, str(self.sample)

    @property
    def correct(self) -> bool:
        """Whether the answer was verified as right."""
        return self.verdict == Verdict.CORRECT

    def line(self) -> str:
        """Write the rollout as one JSON line."""
        fields = {**self.__dict__, "ids": self.ids.tolist(), "verdict": str(self.verdict), "correct": self.correct}
        return json.dumps(fields, ensure_ascii=True) + "\n"


def find_rollouts(path: str | Path) -> Path:
    """Find a rollouts file.

    Args:
        path: The file, or the folder of a run of rollouts.

    Returns:
        The file.

    Raises:
        UserError: There is none. Where the folder is that of a policy's run, the folders in it that hold rollouts are named.
    """
    file = Path(path) / f"{FILE_STEM}.jsonl" if os.path.isdir(path) else Path(path)
    near = sets_within(file.parent) if file != Path(path) and not os.path.exists(file) else ""
    return find_file(file, f"rollouts, or other records of completions{near}")


def sets_of_runs(paths: Iterable[str | Path]) -> list[Path]:
    """Put the folders of its problem sets in place of each folder of a policy's run.

    Args:
        paths: Files, folders of runs of rollouts, or folders of policies' runs.

    Returns:
        The paths; those of one policy's run by name.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        here = os.path.isdir(path) and not (path / f"{FILE_STEM}.jsonl").exists()  # such a test refuses no odd name
        inside = sorted(one.parent for one in path.glob(f"*/{FILE_STEM}.jsonl")) if here else []
        found += inside or [path]
    return found


def sets_within(folder: Path) -> str:
    """Name what to use instead of the folder of a policy's run, which has a folder of rollouts for each problem set.

    Args:
        folder: The folder.

    Returns:
        The folders in brackets, for a message; the empty string where there are none.
    """
    found = sorted(str(one.parent) for one in folder.glob(f"*/{FILE_STEM}.jsonl"))
    return f" (a problem set has a folder of its own: {', '.join(found)})" if found else ""


def prompt_of(path: str | Path) -> str | None:
    """Find out which prompt template a run of rollouts used.

    Args:
        path: A rollouts file, or the folder that holds one.

    Returns:
        Name of the template; None where no run says it.
    """
    name = _run_of(path).get("prompt")
    return name if isinstance(name, str) else None


def conversation_of(path: str | Path) -> dict[str, Any]:
    """Find out how a run of rollouts rendered its prompts.

    Args:
        path: A rollouts file, or the folder that holds one.

    Returns:
        What `prmbench.data.tokens.TraceEncoder.conversation` gave; empty where no run says it.
    """
    found = _run_of(path).get("conversation")
    return found if isinstance(found, dict) else {}


def _run_of(path: str | Path) -> dict[str, Any]:
    run = (Path(path) if Path(path).is_dir() else Path(path).parent) / "run.json"
    return read_json(run) if run.exists() else {}


def check_completions(records: Iterable[Located]) -> Iterator[Located]:
    """Check what every sampled completion has, whether it was judged or not.

    Args:
        records: The records, each with its place.

    Yields:
        The place and the fields of each record. The field ``ids`` is an array.

    Raises:
        UserError: A field is wrong, a sample is there twice, or an id names two problems. The message names the place.
    """
    problems: dict[str, str] = {}
    seen: set[tuple[str, int]] = set()
    for place, record in records:
        fields = _check(place, record)
        name, sample = fields["id"], fields["sample"]
        if (name, sample) in seen:
            raise UserError(f"{place}: sample {sample} of '{name}' is there twice; delete one of the lines")
        seen.add((name, sample))
        if problems.setdefault(name, fields["problem"]) != fields["problem"]:
            raise UserError(f"{place}: id '{name}' was another problem before; ids must name one problem each")
        yield place, fields


def _check(place: str, record: Any) -> dict[str, Any]:
    kinds = {"id": str, "sample": int, "problem": str, "answer": str, "completion": str, "ids": list}
    fields = check_fields(place, record, kinds, "a rollout, or a record with 'samples'")
    for name in ("id", "problem", "answer"):
        check_text(place, name, fields[name])
    check_characters(place, "completion", fields["completion"])
    _check_known(place, record, "finish_reason", FINISH_REASONS)
    return {**record, "ids": check_ids(place, fields["ids"])}


def _check_known(place: str, record: dict[str, Any], name: str, known: Sequence[str]) -> None:
    if record.get(name) not in known:
        raise UserError(f"{place}: field '{name}' is {shown(record.get(name))}; expected {', '.join(known)}")


def parse_rollout(place: str, record: Any) -> Rollout:
    """Check one rollout.

    Args:
        place: Where it is from, for the message.
        record: The record.

    Returns:
        The rollout.

    Raises:
        UserError: It is none. The message names the place and the field.
    """
    return _judged(place, _check(place, record))


def _judged(place: str, fields: dict[str, Any]) -> Rollout:
    _check_known(place, fields, "verdict", tuple(Verdict))
    kept = {name: fields[name] for name in Rollout.__dataclass_fields__}
    return Rollout(**{**kept, "verdict": Verdict(fields["verdict"])})


def check_rollouts(records: Iterable[Located]) -> Iterator[tuple[str, Rollout]]:
    """Check the records of a rollouts file.

    Args:
        records: The records, each with its place.

    Yields:
        The place of each rollout, and the rollout.

    Raises:
        UserError: A record is no rollout, a sample is there twice, or an id names two problems. The message names the place.
    """
    for place, fields in check_completions(records):
        yield place, _judged(place, fields)


def read_rollouts(path: str | Path) -> list[Rollout]:
    """Read the rollouts of one file.

    Args:
        path: The file, or the folder of a run of rollouts.

    Returns:
        The rollouts, in the order of the file.

    Raises:
        UserError: There is no such file, or it is no rollouts file. The message names the line.
    """
    return [rollout for _, rollout in check_rollouts(read_records(find_rollouts(path)))]


@dataclass(frozen=True)
class Summary:
    """Counts of a set of rollouts.

    Attributes:
        n_problems: Different problems.
        n_rollouts: Rollouts.
        verdicts: Rollouts by verdict.
        truncated: Rollouts that were cut off.
        without_room: Rollouts whose prompt leaves no room for a completion.
        pass_rate: Share of rollouts that are right.
        mean_tokens: Mean number of tokens of a completion.
    """

    n_problems: int
    n_rollouts: int
    verdicts: dict[str, int]
    truncated: int
    without_room: int
    pass_rate: float
    mean_tokens: float

    def sentence(self) -> str:
        """Say the counts in words."""
        counts = ", ".join(f"{count:,} {verdict}" for verdict, count in self.verdicts.items())
        return (
            f"{self.n_rollouts:,} rollouts of {self.n_problems:,} problems: {counts}; pass rate {self.pass_rate:.1%}; "
            f"{self.truncated:,} truncated ({self.truncated / self.n_rollouts:.1%}, counted as wrong); "
            + (f"{self.without_room:,} whose prompt leaves no room (counted as wrong); " if self.without_room else "")
            + f"{self.mean_tokens:,.0f} tokens on average"
        )


def summarise(rollouts: Sequence[Rollout]) -> Summary:
    """Count verdicts, truncations and lengths.

    Args:
        rollouts: The rollouts, at least one.

    Returns:
        The counts.
    """
    verdicts = {str(verdict): sum(r.verdict == verdict for r in rollouts) for verdict in Verdict}
    return Summary(
        n_problems=len({r.id for r in rollouts}),
        n_rollouts=len(rollouts),
        verdicts=verdicts,
        truncated=sum(r.finish_reason == "length" for r in rollouts),
        without_room=sum(r.finish_reason == "prompt" for r in rollouts),
        pass_rate=verdicts["correct"] / len(rollouts),
        mean_tokens=float(np.mean([len(r.ids) for r in rollouts])),
    )
