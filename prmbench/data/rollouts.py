"""Rollouts: a policy's sampled completions of problems, each with its verdict, and how they are read from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prmbench.data.records import check_fields, check_ids, read_records
from prmbench.data.verdicts import Verdict
from prmbench.errors import UserError

FILE_STEM = "rollouts"


RolloutEnd = Literal["stop", "length", "prompt"]


FINISH_REASONS: tuple[str, ...] = get_args(RolloutEnd)


@dataclass(frozen=True)
class Rollout:
    """One completion of one problem.

    Attributes:
        id, problem, answer: the problem's. sample: 0 to n - 1.
        completion: text, special tokens left out. ids: sampled token ids, end of turn included, int64.
        finish_reason: "length" for a truncated completion, "prompt" for a prompt that leaves no room for one (ids is empty then);
            the verdict of both is wrong.
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
        """One JSON line."""
        fields = {**self.__dict__, "ids": self.ids.tolist(), "verdict": str(self.verdict), "correct": self.correct}
        return json.dumps(fields, ensure_ascii=True) + "\n"


def parse_rollout(place: str, fields: Any) -> Rollout:
    """Check one rollout's fields. Raises UserError that names the place and the field."""
    kinds = {"id": str, "sample": int, "problem": str, "answer": str, "completion": str, "ids": list}
    kept = check_fields(place, fields, kinds, "a rollout")
    if fields.get("finish_reason") not in FINISH_REASONS:
        raise UserError(
            f"{place}: field 'finish_reason' is {json.dumps(fields.get('finish_reason'))}; expected {', '.join(FINISH_REASONS)}"
        )
    if fields.get("verdict") not in list(Verdict):
        raise UserError(
            f"{place}: field 'verdict' is {json.dumps(fields.get('verdict'))}; expected {', '.join(Verdict)}"
        )
    return Rollout(
        **{name: value for name, value in kept.items() if name != "ids"},
        ids=check_ids(place, fields["ids"]),
        finish_reason=fields["finish_reason"],
        verdict=Verdict(fields["verdict"]),
    )


def read_rollouts(path: str | Path) -> list[Rollout]:
    """Read a rollouts file or the folder that holds one. Raises UserError, naming the line, when it is none."""
    path = Path(path)
    file = path / f"{FILE_STEM}.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected the rollouts.jsonl that `prmbench rollout` writes")
    return [parse_rollout(place, fields) for place, fields in read_records(file)]


@dataclass(frozen=True)
class Summary:
    """Counts of a set of rollouts: problems, rollouts, by verdict, truncated; mean tokens of a completion."""

    n_problems: int
    n_rollouts: int
    verdicts: dict[str, int]
    truncated: int
    without_room: int
    pass_rate: float
    mean_tokens: float

    def sentence(self) -> str:
        """The counts in words."""
        counts = ", ".join(f"{count:,} {verdict}" for verdict, count in self.verdicts.items())
        return (
            f"{self.n_rollouts:,} rollouts of {self.n_problems:,} problems: {counts}; pass rate {self.pass_rate:.1%}; "
            f"{self.truncated:,} truncated ({self.truncated / self.n_rollouts:.1%}, counted as wrong); "
            + (f"{self.without_room:,} whose prompt leaves no room (counted as wrong); " if self.without_room else "")
            + f"{self.mean_tokens:,.0f} tokens on average"
        )


def summarise(rollouts: Sequence[Rollout]) -> Summary:
    """Count verdicts, truncations and lengths. pass_rate is the share of correct rollouts."""
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
