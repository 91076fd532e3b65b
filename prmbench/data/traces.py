"""Traces: a problem, a solution split into steps, and the index of its first wrong step (ProcessBench's record)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmbench.data.records import (
    SUFFIXES,
    Located,
    check_steps,
    check_text,
    is_data_file,
    read_records,
    refuse_duplicates,
    shown,
    stem,
)
from prmbench.errors import UserError, first_line, nearest, nearest_path

PROCESSBENCH_SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
PROCESSBENCH_HUB = "Qwen/ProcessBench"
DATA_DIR_VARIABLE = "PRMBENCH_DATA_DIR"


@dataclass(frozen=True)
class Trace:
    """One labelled trace.

    Attributes:
        id: unique within its subset. subset: the data file or split it is from.
        problem: the question. steps: at least one, none of them blank.
        label: index of the first wrong step, -1 when there is none.
        generator: what wrote the solution; ``"unknown"`` where the record does not say.
    """

    id: str
    subset: str
    problem: str
    steps: tuple[str, ...]
    label: int
    generator: str = "unknown"

    def digest(self) -> str:
        """sha256 (hex) of id, problem, steps and label: what two evaluations must share to be comparable."""
        content = [self.id, self.problem, list(self.steps), self.label]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def data_hash(digests: Iterable[str]) -> str:
    """sha256 (hex) of a set of traces, given their digests, whatever their order."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def load_traces(
    data: str | Path | None = None, subsets: Sequence[str] | None = None, limit: int | None = None
) -> list[Trace]:
    """Load ProcessBench, or any data of the same fields.

    Args:
        data: a file (``.json``, ``.jsonl``, ``.jsonl.gz``, ``.parquet``) or a folder of such files, one a subset. None:
            the folder ``processbench`` in ``$PRMBENCH_DATA_DIR`` where that is set, else ``Qwen/ProcessBench`` on the Hub.
        subsets: names to load, in this order; None: all (ProcessBench's four in its own order, then by name).
        limit: keep a sample of this many of each subset: the same ones whatever the file order, and those of a smaller
            limit among those of a larger one. (ProcessBench's files hold the traces with an error first.)

    Raises:
        UserError: something is missing or a record is wrong; the message names the file, the record and the field.
    """
    traces: list[Trace] = []
    for subset, located in _sources(data, subsets):
        checked = [_check(place, record, subset) for place, record in located]
        refuse_duplicates([trace.id for trace in checked], [place for place, _ in located])
        traces += checked if limit is None else _sample(checked, limit)
    return traces


def _sample(traces: Sequence[Trace], size: int) -> list[Trace]:
    ranked = sorted(traces, key=lambda trace: hashlib.sha256(trace.id.encode()).digest())
    kept = {trace.id for trace in ranked[:size]}
    return [trace for trace in traces if trace.id in kept]


def _sources(data: str | Path | None, subsets: Sequence[str] | None) -> list[tuple[str, list[Located]]]:
    if data is None and os.environ.get(DATA_DIR_VARIABLE):
        data = Path(os.environ[DATA_DIR_VARIABLE]) / "processbench"
    if data is None:
        return [(name, _read_hub(name)) for name in _wanted(subsets, PROCESSBENCH_SUBSETS, PROCESSBENCH_HUB)]
    path = Path(data)
    if path.is_file():
        files = {stem(path): path}
    elif path.is_dir():
        files = {}
        for file in sorted(path.iterdir()):
            if is_data_file(file) and files.setdefault(stem(file), file) != file:
                raise UserError(
                    f"{path}: {files[stem(file)].name} and {file.name} are both the subset '{stem(file)}'; keep one"
                )
        if not files:
            raise UserError(f"{path}: no data file in this folder; expected names that end in {', '.join(SUFFIXES)}")
    else:
        near = nearest_path(path)
        raise UserError(f"{path}: no such file or folder{near}")
    return [(name, read_records(files[name])) for name in _wanted(subsets, files, str(path))]


def _wanted(subsets: Sequence[str] | None, available: Iterable[str], where: str) -> list[str]:
    names = sorted(available, key=lambda n: (*PROCESSBENCH_SUBSETS, n).index(n))
    for name in subsets or ():
        if name not in names:
            raise UserError(f"{where}: has no subset '{name}'{nearest(name, names)}; found: {', '.join(names)}")
    return list(dict.fromkeys(subsets)) if subsets else names


def _read_hub(subset: str) -> list[Located]:
    import datasets

    try:
        rows = datasets.load_dataset(PROCESSBENCH_HUB, split=subset)
    except Exception as error:  # the library raises many kinds: connection, offline mode, missing split
        raise UserError(
            f"{PROCESSBENCH_HUB}, split {subset}: cannot be loaded from the Hub ({first_line(error)}); "
            f"pass --data FOLDER with a downloaded copy, or set {DATA_DIR_VARIABLE} to the folder that holds processbench/"
        ) from None
    return [(f"{PROCESSBENCH_HUB}, split {subset}, row {i}", row) for i, row in enumerate(rows)]


def _check(place: str, record: Any, subset: str) -> Trace:
    if not isinstance(record, dict):
        raise UserError(
            f"{place}: is a JSON {type(record).__name__}; expected an object with id, problem, steps and label"
        )
    for field in ("id", "problem", "steps", "label"):
        if field not in record:
            raise UserError(
                f"{place}: field '{field}' is missing{nearest(field, record)}; a trace needs id, problem, steps and label"
            )
    identity = record["id"]
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    check_text(place, "id", identity)
    check_text(place, "problem", record["problem"])
    steps = record["steps"]
    check_steps(place, steps)
    label = record["label"]
    if not isinstance(label, int) or isinstance(label, bool) or not -1 <= label < len(steps):
        raise UserError(
            f"{place}: field 'label' is {shown(label)}; expected the index of the first wrong step, "
            f"0 to {len(steps) - 1}, or -1 for none"
        )
    generator = record.get("generator")
    if generator is None:
        generator = "unknown"
    check_text(place, "generator", generator)
    return Trace(identity, subset, record["problem"], tuple(steps), label, generator)
