"""Stored completions, several of each problem: what Best-of-N and the calibration probe choose among and measure."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prmbench.data.problems import check_problems
from prmbench.data.records import Located, check_characters, check_limit, read_records, shown, stem
from prmbench.data.rollouts import FILE_STEM, check_completions, find_rollouts, sets_of_runs
from prmbench.errors import UserError


@dataclass(frozen=True)
class StoredCompletion:
    """One completion of one problem, from rollouts or from published samples.

    Attributes:
        subset: The file it is from.
        id: The problem's id.
        sample: Number of the completion among those of its problem, from 0.
        problem: The question.
        answer: The gold answer.
        text: The completion.
        ids: The sampled token ids, end of turn included; None where they are not known. Shape [t].
        truncated: Whether it was cut off, which counts as wrong.
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
        """Hash the problem, its answer and the completion with sha256, in hex."""
        content = [self.subset, self.id, self.sample, self.problem, self.answer, self.text, self.truncated]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_completions(paths: Sequence[str | Path], limit: int | None = None) -> list[StoredCompletion]:
    """Load files of rollouts, or of ``{id, problem, answer, samples: [{text}, ...]}`` records.

    Args:
        paths: Files, folders of runs of rollouts, or folders of policies' runs, which hold one for each problem set. Each set is a
            subset, called by its name.
        limit: Keep the first this many problems of each; None keeps all.

    Returns:
        The completions, problems in the order of the file, the completions of each by number.

    Raises:
        UserError: There is no such file, a record is wrong, a name is used twice, or problems have different numbers of
            completions.
    """
    check_limit(limit)
    found: dict[str, list[StoredCompletion]] = {}
    for path in sets_of_runs(paths):
        file = find_rollouts(path)
        subset = file.parent.resolve().name if stem(file) == FILE_STEM else stem(path)
        if subset in found:
            raise UserError(f"{path}: two files are called '{subset}'; rename one")
        found[subset] = _equal_numbers(file, list(_read(subset, read_records(file))), limit)
    return list(itertools.chain.from_iterable(found.values()))


def _read(subset: str, records: Iterator[Located]) -> Iterator[StoredCompletion]:
    first = next(records)
    records = itertools.chain([first], records)
    if isinstance(first[1], dict) and "samples" in first[1]:
        yield from _samples(subset, list(records))
        return
    for _, of in check_completions(records):
        about = subset, of["id"], of["sample"], of["problem"], of["answer"], of["completion"]
        yield StoredCompletion(*about, of["ids"], of["finish_reason"] == "length")


def _samples(subset: str, records: Sequence[Located]) -> Iterator[StoredCompletion]:
    for (place, fields), problem in zip(records, check_problems(records), strict=True):
        samples = fields.get("samples")
        if not isinstance(samples, list) or not samples:
            raise UserError(f"{place}: field 'samples' must be a list of {{text}} objects, at least one")
        for i, sample in enumerate(samples):
            text = sample.get("text") if isinstance(sample, dict) else None
            if not isinstance(text, str):
                raise UserError(f"{place}: field 'samples[{i}].text' is missing or no text ({shown(sample)})")
            check_characters(place, f"samples[{i}].text", text)
            yield StoredCompletion(subset, problem.id, i, problem.problem, problem.answer, text, None, False)


def _equal_numbers(file: Path, found: list[StoredCompletion], limit: int | None) -> list[StoredCompletion]:
    groups: dict[str, list[StoredCompletion]] = {}
    for one in found:
        groups.setdefault(one.id, []).append(one)
    first, most = found[0].id, len(groups[found[0].id])
    for name, group in groups.items():
        if len(group) != most:
            counts = f"problem '{name}' has {len(group)} completions, '{first}' has {most}"
            raise UserError(f"{file}: {counts}; expected equally many")
    kept = itertools.islice(groups.values(), limit)
    return [one for group in kept for one in sorted(group, key=lambda c: c.sample)]
