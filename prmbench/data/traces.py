"""Traces: a problem, a solution split into steps, and what is known of its steps.

A record says at least which step is the first wrong one (ProcessBench's record), or what is known of every step. Records of
step-labelled data sets are read as they come (`prmbench.data.importers.step_formats`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from prmbench.data.importers.step_formats import StepFormat, StepLabel, find_format
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
from prmbench.data.revisions import refuse_revision
from prmbench.errors import ArgumentError, UserError, argument, first_line, naming_keywords, nearest

PROCESSBENCH_SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
PROCESSBENCH_HUB = "Qwen/ProcessBench"
DATA_DIR_VARIABLE = "PRMBENCH_DATA_DIR"
MOST_TRIALS = 1_000_000
"""Continuations of a step, at most; more are no count."""

EXPECTED = (
    "an object with id, problem, steps and label, or with labels or error_steps in the place of label, or a record of a data set "
    "that `prmbench data steps` reads"
)
LABELS: dict[str | bool | None, StepLabel] = {
    **{one: one for one in get_args(StepLabel)},
    True: "right",
    False: "wrong",
    None: "unknown",
}
"""Labels by what a record has for them."""


@dataclass(frozen=True)
class Trace:
    """One labelled trace.

    Attributes:
        id: Its name, unique within its subset.
        subset: The data file or split that it is from.
        problem: The question.
        steps: Its steps, at least one. One may be blank.
        label: Index of the first wrong step, or -1 when there is none.
        generator: What wrote the solution; ``unknown`` where the record does not say.
        labels: What is known of each step; None where only the first wrong step is known.
        error_class: The sort of error that the trace is about, as PRMBench has it; None where the record does not say.
        values: Soft label of each step, the probability that it is right or leads to a right answer, None where it is not known;
            None where the record has none.
        counts: Right continuations from the end of each step and all of them, None where none was sampled; None where the record
            has none. `prmbench label` writes them.
    """

    id: str
    subset: str
    problem: str
    steps: tuple[str, ...]
    label: int
    generator: str = "unknown"
    labels: tuple[StepLabel, ...] | None = None
    error_class: str | None = None
    values: tuple[float | None, ...] | None = None
    counts: tuple[tuple[int, int] | None, ...] | None = None

    def digest(self) -> str:
        """Hash id, problem, steps and label with sha256, in hex: what two evaluations must share to be comparable."""
        return _hash([self.id, self.problem, list(self.steps), self.label])

    def labelled_digest(self) -> str:
        """Hash the same with the label of every step and the class of error, for evaluations that read these."""
        return _hash([self.id, self.problem, list(self.steps), self.labels, self.error_class])


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def first_error(labels: Sequence[StepLabel]) -> int:
    """Find the first wrong step.

    Args:
        labels: What is known of each step.

    Returns:
        Its index; -1 where no step is known to be wrong.
    """
    return labels.index("wrong") if "wrong" in labels else -1


def with_labels(trace: Trace) -> Trace:
    """Say of every step what follows from the first wrong one: steps before it are right, steps after it unknown.

    Args:
        trace: The trace.

    Returns:
        The trace with labels; itself where it has them.
    """
    if trace.labels is not None:
        return trace
    n, first = len(trace.steps), trace.label
    labels: list[StepLabel] = ["right"] * n
    if first >= 0:
        labels[first:] = ["wrong", *["unknown"] * (n - first - 1)]  # type: ignore[list-item]
    return replace(trace, labels=tuple(labels))


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
    data: str | Path | None = None,
    subsets: Sequence[str] | None = None,
    limit: int | None = None,
    data_revision: str | None = None,
) -> list[Trace]:
    """Load ProcessBench, data of the same fields, or a step-labelled data set as it comes.

    Args:
        data: A file (``.json``, ``.jsonl``, ``.jsonl.gz``, ``.parquet``) or a folder of such files, one a subset. The format of a
            record is found by its fields (`prmbench.data.importers.step_formats.FORMATS`). None is the folder ``processbench`` in
            ``$PRMBENCH_DATA_DIR`` where that is set, else ``Qwen/ProcessBench`` on the Hub.
        subsets: Names to load, in this order; None is all of them (ProcessBench's four in its own order, then by name).
        limit: Keep a sample of this many of each subset; None keeps all. The sample does not depend on the order of the file,
            and that of a smaller limit is part of that of a larger one. (ProcessBench's files hold traces with an error first.)
        data_revision: Commit, branch or tag of ``Qwen/ProcessBench``; None: the newest. Data that lie here have none.

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
    for subset, records in _sources(data, subsets, data_revision):
        found = list(read_traces(records, subset))
        ranked = sorted((trace.id for _, trace in found), key=lambda name: hashlib.sha256(name.encode()).digest())
        kept = set(ranked[:limit])
        traces += [trace for _, trace in found if trace.id in kept]
    return traces


def read_traces(records: Iterable[Located], subset: str, form: StepFormat | None = None) -> Iterator[tuple[str, Trace]]:
    """Make traces of records.

    Args:
        records: The records of one subset, each with its place.
        subset: The name of the subset.
        form: The format of all records; None finds it for each by its fields.

    Yields:
        The place and the trace of each record. Where a format has it so, a record whose id was already used is passed over.

    Raises:
        UserError: A record is wrong, or an id is used twice. The message names the record and the field.
    """
    places: dict[str, str] = {}
    for number, (place, record) in enumerate(records):
        of = form or find_format(place, record)
        if form is not None:
            check_object(place, record, form.fields, f"a record of {form.name}")
        own, names = (record, {}) if of is None else (of.convert(place, number, record), of.names)
        trace = _check(place, own, subset, names)
        if trace.id in places:
            if of is not None and of.repeats:
                continue
            refuse_duplicates((trace.id, trace.id), (places[trace.id], place))
        places[trace.id] = place
        yield place, trace


def _sources(
    data: str | Path | None, subsets: Sequence[str] | None, revision: str | None
) -> Iterator[tuple[str, Iterable[Located]]]:
    """Find the subsets, each with its records."""
    root = os.environ.get(DATA_DIR_VARIABLE)
    if data is None and not root:
        for name in _wanted(subsets, PROCESSBENCH_SUBSETS, PROCESSBENCH_HUB):
            yield name, _read_hub(name, revision)
        return
    path = Path(data) if data is not None else Path(str(root)) / "processbench"
    refuse_revision(revision, path)
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


def _read_hub(subset: str, revision: str | None) -> Iterator[Located]:
    import datasets

    try:
        rows = datasets.load_dataset(PROCESSBENCH_HUB, split=subset, revision=revision)
    except Exception as error:  # the library raises many kinds: connection, offline mode, missing split
        raise UserError(
            f"{PROCESSBENCH_HUB}, split {subset}: cannot be loaded from the Hub ({first_line(error)}); pass {argument('data')} "
            f"with the folder of a downloaded copy, or set {DATA_DIR_VARIABLE} to the folder that holds processbench/"
        ) from None
    for i, row in enumerate(rows):
        yield f"{PROCESSBENCH_HUB}, split {subset}, row {i}", row


def _check(place: str, record: Any, subset: str, names: dict[str, str]) -> Trace:
    """Read one of our own records. Of one that was made of another, messages have the names of the fields there."""

    def named(field: str) -> str:
        return names.get(field, field)

    check_object(place, record, ("id", "problem", "steps"), EXPECTED)
    steps = check_steps(place, record["steps"], named("steps"))
    labels = _labels(place, record, len(steps), named("labels"))
    label = record.get("label")
    if label is None and labels is not None:
        label = first_error(labels)
    else:
        check_object(place, record, ("label",), EXPECTED)
    if not isinstance(label, int) or isinstance(label, bool) or not -1 <= label < len(steps):
        raise UserError(
            f"{place}: field 'label' is {shown(label)}; expected the index of the first wrong step, "
            f"0 to {len(steps) - 1}, or -1 for none"
        )
    if labels is not None and label != (first := first_error(labels)):
        raise UserError(
            f"{place}: field 'label' is {label}, but by its step labels the first wrong step is {first}; steps count from 0"
        )
    texts = {name: record.get(name) for name in ("generator", "error_class", "classification")}
    generator, *classes = (None if one is None else check_text(place, named(name), one) for name, one in texts.items())
    return Trace(
        check_text(place, named("id"), record["id"], number=True),
        subset,
        check_text(place, named("problem"), record["problem"]),
        steps,
        label,
        generator or "unknown",
        labels,
        classes[0] or classes[1],
        _values(place, record.get("values"), len(steps)),
        _counts(place, record, len(steps)),
    )


def _values(place: str, values: object, n_steps: int) -> tuple[float | None, ...] | None:
    """The soft labels of a record."""
    if values is None:
        return None
    if (
        not isinstance(values, list)
        or len(values) != n_steps
        or not all(one is None or _is_share(one) for one in values)
    ):
        raise UserError(
            f"{place}: field 'values' is {shown(values)}; expected a list of {n_steps}, one a step: numbers from 0 to 1, or null"
        )
    return tuple(None if one is None else float(one) for one in values)


def _counts(place: str, record: dict[str, Any], n_steps: int) -> tuple[tuple[int, int] | None, ...] | None:
    """The right continuations from each step's end, and all of them. A step of which none was sampled says nothing."""
    found = {name: record.get(name) for name in ("successes", "trials")}
    if found["successes"] is None and found["trials"] is None:
        return None
    for name, numbers in found.items():
        if (
            not isinstance(numbers, list)
            or len(numbers) != n_steps
            or not all(one is None or (type(one) is int and 0 <= one <= MOST_TRIALS) for one in numbers)
        ):
            raise UserError(
                f"{place}: field '{name}' is {shown(numbers)}; expected a list of {n_steps}, one a step: whole "
                f"numbers from 0 to {MOST_TRIALS:,}, or null"
            )
    pairs: list[tuple[int, int] | None] = []
    for i, (right, all_of_them) in enumerate(zip(*found.values(), strict=True)):
        if (right is None) != (all_of_them is None) or (right is not None and right > all_of_them):
            raise UserError(
                f"{place}: field 'successes[{i}]' is {shown(right)}, field 'trials[{i}]' is {shown(all_of_them)}; expected no more "
                "successes than trials, or null for both"
            )
        pairs.append((right, all_of_them) if all_of_them else None)
    return tuple(pairs)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _labels(place: str, record: dict[str, Any], n_steps: int, name: str) -> tuple[StepLabel, ...] | None:
    """What a record says of every step: by words or truth values, or by the indices of the wrong steps.

    An index past the last step has no effect: PRMBench's rows have such, and its own evaluation passes them over.
    """
    labels, wrong = record.get("labels"), record.get("error_steps")
    if labels is not None and wrong is not None:
        raise UserError(f"{place}: has 'labels' and 'error_steps'; expected one of them")
    if wrong is not None:
        if not isinstance(wrong, list) or not all(type(i) is int and i >= 0 for i in wrong):
            raise UserError(
                f"{place}: field 'error_steps' is {shown(wrong)}; expected a list of indices of steps, from 0"
            )
        return tuple("wrong" if i in wrong else "right" for i in range(n_steps))
    if labels is None:
        return None
    if not isinstance(labels, list) or len(labels) != n_steps:
        found = f"has {len(labels)} entries" if isinstance(labels, list) else f"is {shown(labels)}"
        raise UserError(f"{place}: field '{name}' {found}; expected a list of {n_steps}, one a step")
    for i, one in enumerate(labels):
        if not isinstance(one, str | bool | None) or one not in LABELS:
            raise UserError(
                f"{place}: field 'labels[{i}]' is {shown(one)}; expected {', '.join(get_args(StepLabel))}, true, false or null "
                "(numbers mean different things in different data sets)"
            )
    return tuple(LABELS[one] for one in labels)
