"""Files of step-labelled data sets, turned into one file of traces."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmbench.data.importers.step_formats import errors_past_end, named_format
from prmbench.data.importers.writing import write_lines
from prmbench.data.records import Located, find_file, read_records, stem
from prmbench.data.traces import Trace, read_traces
from prmbench.errors import ArgumentError


@dataclass(frozen=True)
class ImportedSteps:
    """What became of the files.

    Attributes:
        file: The file that was written.
        read: Records that were read.
        traces: Traces that were written.
        labels: Steps of the traces by their label; ``none`` where only the first wrong step is known.
        past_end: Numbers of wrong steps that are past the last step, and have no effect.
    """

    file: Path
    read: int
    traces: int
    labels: dict[str, int]
    past_end: int = 0

    def sentence(self) -> str:
        """Say the counts in words."""
        counts = ", ".join(f"{count:,} {label}" for label, count in sorted(self.labels.items()))
        repeated = self.read - self.traces
        passed = f"; {repeated:,} records with an id that was already used are left out" if repeated else ""
        passed += f"; {self.past_end:,} error_steps are past the last step and have no effect" if self.past_end else ""
        return f"{self.traces:,} traces, {sum(self.labels.values()):,} steps ({counts}){passed}"

    def as_json(self) -> dict[str, Any]:
        """The counts for programs."""
        return {**vars(self), "file": str(self.file)}


def import_steps(sources: Sequence[str | Path], output: str | Path, *, form: str | None = None) -> ImportedSteps:
    """Convert files of one data set.

    Args:
        sources: The files (.json, .jsonl, .jsonl.gz, .parquet).
        output: The file of traces to write.
        form: The format of the records (`prmbench.data.importers.step_formats.FORMATS`); None finds it by their fields.

    Returns:
        The file and the counts.

    Raises:
        UserError: A file cannot be read, a record is wrong, or an id is used twice. The message names the file and the record.
        ArgumentError: There is no such format, or the output cannot be written.
    """
    named = None if form is None else named_format(form)
    files = [find_file(source, "a file of step-labelled solutions") for source in sources]
    read: Counter[str] = Counter()
    labels: Counter[str] = Counter()

    def records() -> Iterator[Located]:
        for file in files:
            for one in read_records(file):
                read.update({"records": 1, "past_end": errors_past_end(one[1])})
                yield one

    def lines() -> Iterator[str]:
        for _, trace in read_traces(records(), stem(Path(output)), named):
            read["traces"] += 1
            labels.update(trace.labels or ["none"] * len(trace.steps))
            yield json.dumps(_record(trace), ensure_ascii=False) + "\n"

    if Path(output).suffix != ".jsonl":
        raise ArgumentError("output", output, "expected a name that ends in .jsonl: one trace a line")
    try:
        write_lines(Path(output), lines())
    except OSError as error:
        raise ArgumentError("output", output, f"cannot be written ({error.strerror})") from None
    return ImportedSteps(Path(output), read["records"], read["traces"], dict(labels), read["past_end"])


def _counts(counts: Sequence[tuple[int, int] | None]) -> dict[str, list[int]]:
    """Counts as a record has them."""
    right, all_of_them = zip(*((0, 0) if one is None else one for one in counts), strict=True)
    return {"successes": list(right), "trials": list(all_of_them)}


def _record(trace: Trace) -> dict[str, Any]:
    """A trace as the record that `prmbench.data.traces` reads."""
    about = {"generator": None if trace.generator == "unknown" else trace.generator, "error_class": trace.error_class}
    return {
        "id": trace.id,
        "problem": trace.problem,
        "steps": trace.steps,
        "label": trace.label,
        **({} if trace.labels is None else {"labels": trace.labels}),
        **({} if trace.values is None else {"values": trace.values}),
        **({} if trace.counts is None else _counts(trace.counts)),
        **{name: value for name, value in about.items() if value is not None},
    }
