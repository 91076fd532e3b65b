"""Do training data hold the problems of a benchmark? Exact matches, and runs of 13 words that both have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prmbench.data.problem_sets import KNOWN_SETS, find_problems
from prmbench.data.records import SUFFIXES, find_file, read_records
from prmbench.data.revisions import split_revision
from prmbench.data.rollouts import FILE_STEM
from prmbench.data.traces import PROCESSBENCH_SUBSETS, load_traces
from prmbench.errors import UserError, nearest

WORDS = 13
"""Words in a row that count as an overlap, as in the reports of GPT-3 and after."""

PROCESSBENCH = "processbench"
FIELDS = ("problem", "question", "prompt", "instruction", "query", "messages", "conversations")
"""Fields that hold a problem, the first that a record has."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """What training data and one set of problems have in common.

    Attributes:
        n: Problems of the set.
        exact: Ids of problems that the training data hold word by word, whatever the case and the punctuation.
        shared: Ids of problems that share `WORDS` words in a row with a training problem; those of `exact` too, where they are
            that long.
    """

    n: int
    exact: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return how many problems there are, how many are held word by word, and how many share words."""
        return {"problems": self.n, "exact": len(self.exact), "shared": len(self.shared)}

    @property
    def either(self) -> list[str]:
        """Ids that are in one of both."""
        return sorted({*self.exact, *self.shared})


def find_overlap(train: str | Path, evaluation: str | Path) -> dict[str, Overlap]:
    """Find the problems of a benchmark that training data hold.

    Args:
        train: A file, or a folder of files, of training records: problems, rollouts, chats, pairs.
        evaluation: ``processbench`` or the name of a problem set, or a file or folder of records.

    Returns:
        What both have in common, by the name of the subset.

    Raises:
        UserError: There is no such file or set, or a record without a problem.
    """
    return overlap_with(train, _evaluation(str(evaluation)))


def overlap_with(train: str | Path, sets: Mapping[str, Mapping[str, str]]) -> dict[str, Overlap]:
    """Find the problems of some sets that training data hold. The training data are read once, line by line.

    Args:
        train: A file, or a folder of files, of training records: problems, rollouts, chats, pairs.
        sets: Problems by subset and id.

    Returns:
        What both have in common, by the name of the subset.

    Raises:
        UserError: There is no such file, or a record without a problem.
    """
    found = {name: Overlap(len(problems)) for name, problems in sets.items()}
    # Of the evaluation's problems: the whole, and each run of words, with the problems that have it.
    whole: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    runs: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for name, problems in sets.items():
        for key, text in problems.items():
            words = words_of(text)
            whole.setdefault(words, set()).add((name, key))
            for run in _runs(words):
                runs.setdefault(run, set()).add((name, key))
    exact: set[tuple[str, str]] = set()
    shared: set[tuple[str, str]] = set()
    for file in _files(Path(train)):
        for place, record in read_records(file):
            words = words_of(problem_of(place, record))
            exact |= whole.get(words, set())
            for run in _runs(words):
                shared |= runs.get(run, set())
    for name, key in sorted(exact):
        found[name].exact.append(key)
    for name, key in sorted(shared):
        found[name].shared.append(key)
    return found


def words_of(text: str) -> tuple[str, ...]:
    """The words and numbers of a text in lower case, without punctuation.

    Args:
        text: The text.
    """
    return tuple(_WORD.findall(text.lower()))


def problem_of(place: str, record: Any) -> str:
    """Find the problem in a training record: a field of `FIELDS`, of messages the user's turns.

    Args:
        place: Where the record stands, for errors.
        record: The record.

    Returns:
        The text.

    Raises:
        UserError: It has none.
    """
    fields = record if isinstance(record, dict) else {}
    for name in FIELDS:
        value = fields.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            turns = [
                one for one in value if isinstance(one, dict) and one.get("role", one.get("from")) in ("user", "human")
            ]
            said = [one.get("content", one.get("value")) for one in turns]
            texts = [text for text in said if isinstance(text, str)]
            if texts and len(texts) == len(said):
                return "\n".join(texts)
    raise UserError(f"{place}: holds no problem; expected one of the fields {', '.join(FIELDS)}")


def _runs(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[i : i + WORDS] for i in range(len(words) - WORDS + 1))


def _evaluation(source: str) -> Mapping[str, Mapping[str, str]]:
    """The problems of an evaluation, by subset and id."""
    path = Path(source)
    if source == PROCESSBENCH:
        found: dict[str, dict[str, str]] = {name: {} for name in PROCESSBENCH_SUBSETS}
        for trace in load_traces():
            found.setdefault(trace.subset, {})[trace.id] = trace.problem
        return found
    if (name := split_revision(source)[0]) in KNOWN_SETS and not path.exists():
        return {name: {one.id: one.problem for one in find_problems([source])[name]}}
    if not path.exists():
        known = [PROCESSBENCH, *KNOWN_SETS]
        raise UserError(f"{source}: no such file or set{nearest(source, known)}; known sets: {', '.join(known)}")
    return {file.name: _texts(file) for file in _files(path)}


def _texts(file: Path) -> dict[str, str]:
    found = {}
    for i, (place, record) in enumerate(read_records(file)):
        name = record.get("id", i) if isinstance(record, dict) else i
        found[str(name)] = problem_of(place, record)
    return found


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return [find_file(path, "records, one problem a line")]
    rollouts = path / f"{FILE_STEM}.jsonl"
    if rollouts.is_file():  # the folder of a rollout run, which also holds records of the run itself
        return [rollouts]
    found = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
    if not found:
        raise UserError(f"{path}: holds no file of records ({', '.join(SUFFIXES)})")
    return found
