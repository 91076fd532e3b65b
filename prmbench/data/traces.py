"""Traces: a problem, a solution split into steps, and the index of its first wrong step (ProcessBench's record)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmbench.data.records import (
    SUFFIXES,
    Located,
    check_limit,
    check_object,
    check_steps,
    check_text,
    find_file,
    read_records,
    refuse_duplicates,
    shown,
    stem,
)
from prmbench.errors import ArgumentError, UserError, argument, first_line, naming_keywords, nearest

PROCESSBENCH_SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
PROCESSBENCH_HUB = "Qwen/ProcessBench"
DATA_DIR_VARIABLE = "PRMBENCH_DATA_DIR"


@dataclass(frozen=True)
class Trace:
    """One labelled trace.

    Attributes:
        id: Its name, unique within its subset.
        subset: The data file or split that it is from.
        problem: The question.
        steps: Its steps, at least one, none of them blank.
        label: Index of the first wrong step, or -1 when there is none.
        generator: What wrote the solution; ``unknown`` where the record does not say.
    """

    id: str
    subset: str
    problem: str
    steps: tuple[str, ...]
    label: int
    generator: str = "unknown"

    def digest(self) -> str:
        """Hash id, problem, steps and label with sha256, in hex: what two evaluations must share to be comparable."""
        content = [self.id, self.problem, list(self.steps), self.label]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def data_hash(digests: Iterable[str]) -> str:
    """Hash a set of traces, whatever their order.

    Args:
        digests: Their digests.

    Returns:
        The sha256, in hex.
    """
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


@naming_keywords
def load_traces(
    data: str | Path | None = None, subsets: Sequence[str] | None = None, limit: int | None = None
) -> list[Trace]:
    """Load ProcessBench, or any data of the same fields.

    Args:
        data: A file (``.json``, ``.jsonl``, ``.jsonl.gz``, ``.parquet``) or a folder of such files, one a subset. None is the
            folder ``processbench`` in ``$PRMBENCH_DATA_DIR`` where that is set, else ``Qwen/ProcessBench`` on the Hub.
        subsets: Names to load, in this order; None is all of them (ProcessBench's four in its own order, then by name).
        limit: Keep a sample of this many of each subset; None keeps all. The sample does not depend on the order of the file,
            and that of a smaller limit is part of that of a larger one. (ProcessBench's files hold traces with an error first.)

    Returns:
        The traces, subset by subset, each in the order of its file.

    Raises:
        UserError: Something is missing or a record is wrong. The message names the file, the record and the field.

    Examples:
        >>> traces = prmbench.load_traces("my-traces.jsonl", limit=2)
        >>> len(traces), traces[0].subset
        (2, 'my-traces')
    """
    check_limit(limit)
    traces: list[Trace] = []
    for subset, records in _sources(data, subsets):
        found = [(place, _check(place, record, subset)) for place, record in records]
        refuse_duplicates((trace.id for _, trace in found), (place for place, _ in found))
        ranked = sorted((trace.id for _, trace in found), key=lambda name: hashlib.sha256(name.encode()).digest())
        kept = set(ranked[:limit])
        traces += [trace for _, trace in found if trace.id in kept]
    return traces


def _sources(data: str | Path | None, subsets: Sequence[str] | None) -> Iterator[tuple[str, Iterable[Located]]]:
    """Find the subsets, each with its records."""
    root = os.environ.get(DATA_DIR_VARIABLE)
    if data is None and not root:
        for name in _wanted(subsets, PROCESSBENCH_SUBSETS, PROCESSBENCH_HUB):
            yield name, _read_hub(name)
        return
    path = Path(data) if data is not None else Path(str(root)) / "processbench"
    files: dict[str, Path] = {}
    for file in _data_files(path):
        if files.setdefault(stem(file), file) != file:
            twice = f"{files[stem(file)].name} and {file.name}"
            raise UserError(f"{path}: {twice} are both the subset '{stem(file)}'; keep one")
    for name in _wanted(subsets, files, str(path)):
        yield name, read_records(files[name])


def _data_files(path: Path) -> list[Path]:
    if not os.path.isdir(path):
        return [find_file(path, "a data file, or a folder of such files")]
    try:
        found = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not found:
        raise UserError(f"{path}: no data file in this folder; expected names that end in {', '.join(SUFFIXES)}")
    return found


def _wanted(subsets: Sequence[str] | None, available: Iterable[str], where: str) -> list[str]:
    names = sorted(available, key=lambda n: (*PROCESSBENCH_SUBSETS, n).index(n))
    for name in subsets or ():
        if name not in names:
            known = f"{where} has no subset '{name}'{nearest(name, names)}; found: {', '.join(names)}"
            raise ArgumentError("subsets", name, known)
    return list(dict.fromkeys(subsets)) if subsets else names


def _read_hub(subset: str) -> Iterator[Located]:
    import datasets

    try:
        rows = datasets.load_dataset(PROCESSBENCH_HUB, split=subset)
    except Exception as error:  # the library raises many kinds: connection, offline mode, missing split
        raise UserError(
            f"{PROCESSBENCH_HUB}, split {subset}: cannot be loaded from the Hub ({first_line(error)}); pass {argument('data')} "
            f"with the folder of a downloaded copy, or set {DATA_DIR_VARIABLE} to the folder that holds processbench/"
        ) from None
    for i, row in enumerate(rows):
        yield f"{PROCESSBENCH_HUB}, split {subset}, row {i}", row


def _check(place: str, record: Any, subset: str) -> Trace:
    check_object(place, record, ("id", "problem", "steps", "label"), "an object with id, problem, steps and label")
    steps, label = check_steps(place, record["steps"]), record["label"]
    if not isinstance(label, int) or isinstance(label, bool) or not -1 <= label < len(steps):
        raise UserError(
            f"{place}: field 'label' is {shown(label)}; expected the index of the first wrong step, "
            f"0 to {len(steps) - 1}, or -1 for none"
        )
    generator = record.get("generator")
    return Trace(
        check_text(place, "id", record["id"], number=True),
        subset,
        check_text(place, "problem", record["problem"]),
        steps,
        label,
        "unknown" if generator is None else check_text(place, "generator", generator),
    )
