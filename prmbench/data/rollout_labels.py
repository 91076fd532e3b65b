"""Labels by rollouts, as `prmbench label` writes them: right continuations of the state at each step's end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmbench.data.records import (
    check_fields,
    check_limit,
    check_steps,
    check_text,
    check_whole,
    find_file,
    read_records,
    stem,
)
from prmbench.errors import UserError

LABELS_NAME = "labels.jsonl"


@dataclass(frozen=True)
class RolloutLabels:
    """A solution whose steps were labelled by rollouts.

    Attributes:
        subset: The run or the file that it is from.
        id: Its name.
        problem: The question.
        answer: The gold answer.
        steps: Its steps.
        successes: Right continuations from the end of each step. Length n_steps.
        trials: Continuations from the end of each step, at least 1. Length n_steps.
        finished: Whether the solution ended after its last step, whose verdict is then its only continuation.
    """

    subset: str
    id: str
    problem: str
    answer: str
    steps: tuple[str, ...]
    successes: tuple[int, ...]
    trials: tuple[int, ...]
    finished: bool

    @property
    def key(self) -> tuple[str, str]:
        """What names it within a run."""
        return self.subset, self.id

    @property
    def sampled(self) -> int:
        """Steps whose end was continued: all but the last of a finished solution."""
        return len(self.steps) - self.finished

    def digest(self) -> str:
        """Hash all of it with sha256, in hex."""
        return hashlib.sha256(json.dumps(list(vars(self).values())).encode()).hexdigest()


def is_labelled(path: str | Path) -> bool:
    """Say whether a path names labels by rollouts, and not rollouts.

    Args:
        path: A run folder of `prmbench label`, or a file.
    """
    if Path(path).is_dir():
        return (Path(path) / LABELS_NAME).is_file()
    if not Path(path).is_file():
        return False
    first = next(read_records(Path(path)), ("", None))[1]
    return isinstance(first, dict) and {"successes", "trials"} <= first.keys()


def load_rollout_labels(paths: Sequence[str | Path], limit: int | None = None) -> list[RolloutLabels]:
    """Load labels by rollouts.

    Args:
        paths: Run folders of `prmbench label`, or their files. Each is a subset, called by its name.
        limit: Keep the first this many problems of each; None keeps all.

    Raises:
        UserError: There is no such file, a record is wrong, a name is used twice, or states have different numbers of
            continuations.
    """
    check_limit(limit)
    found: dict[str, list[RolloutLabels]] = {}
    for path in paths:
        file = find_file(Path(path) / LABELS_NAME if Path(path).is_dir() else path, "labels by rollouts")
        subset = file.parent.resolve().name if file.name == LABELS_NAME else stem(file)
        if subset in found:
            raise UserError(f"{path}: two files are called '{subset}'; rename one")
        found[subset] = _first(_read(file, subset), limit)
        first = next(iter(found.values()))[0]
        if (n := found[subset][0].trials[0]) != first.trials[0]:
            raise UserError(
                f"{path}: has {n} continuations of a state, '{first.subset}' has {first.trials[0]}; evaluate them apart"
            )
    return [one for labels in found.values() for one in labels]


def _first(labels: list[RolloutLabels], limit: int | None) -> list[RolloutLabels]:
    problems = list(dict.fromkeys((one.problem, one.answer) for one in labels))[:limit]
    return [one for one in labels if (one.problem, one.answer) in set(problems)]


def _read(file: Path, subset: str) -> list[RolloutLabels]:
    labels: list[RolloutLabels] = []
    seen: set[str] = set()
    trials = None
    for place, record in read_records(file):
        one = _check(place, record, subset)
        if one.id in seen:
            raise UserError(f"{place}: id '{one.id}' is there twice; delete one of the lines")
        seen.add(one.id)
        for n in one.trials:
            trials = trials or n
            if n != trials:
                raise UserError(
                    f"{place}: a state has {n} continuations, another one {trials}; shares of states that stop early (adaptive) "
                    "are no unbiased values, so label without adaptive, in another folder"
                )
        labels.append(one)
    if not labels:
        raise UserError(f"{file}: holds no labels")
    return labels


def _check(place: str, record: Any, subset: str) -> RolloutLabels:
    kinds: dict[str, type] = {
        "id": str,
        "problem": str,
        "answer": str,
        "steps": list,
        "successes": list,
        "trials": list,
        "finished": bool,
    }
    fields = check_fields(place, record, kinds, "labels by rollouts")
    check_text(place, "id", fields["id"])
    steps = check_steps(place, fields["steps"])
    for name, low in (("successes", 0), ("trials", 1)):
        if len(fields[name]) != len(steps):
            raise UserError(f"{place}: field '{name}' has {len(fields[name])} numbers, there are {len(steps)} steps")
        for value in fields[name]:
            check_whole(place, name, value, low=low)
    if any(k > n for k, n in zip(fields["successes"], fields["trials"], strict=True)):
        raise UserError(f"{place}: field 'successes' has more than 'trials'")
    return RolloutLabels(
        subset,
        fields["id"],
        fields["problem"],
        fields["answer"],
        steps,
        tuple(fields["successes"]),
        tuple(fields["trials"]),
        fields["finished"],
    )
