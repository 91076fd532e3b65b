"""Files of step scores that other tools wrote, turned into the records ``{id, scores}`` that an entry is made of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmbench.data.importers.writing import write_lines
from prmbench.data.records import (
    Located,
    check_object,
    check_text,
    find_file,
    read_json,
    read_records,
    repeated_key,
    shown,
)
from prmbench.errors import ArgumentError, UserError, argument, nearest, printable

IDS = ("id", "idx", "index", "uid", "trace_id", "sample_id", "problem_id", "question_id")
"""Names that tools give to the id."""

SCORES = (
    "scores",
    "step_scores",
    "step_level_scores",
    "step_probs",
    "step_probabilities",
    "probabilities",
    "probs",
    "prm_scores",
    "step_rewards",
    "rewards",
    "y_pred_step_level",
    "response",
)
"""Names that tools give to the scores of the steps."""

SCALES = ("kept", "probability", "logprob")
"""How scores are turned: not at all, or the logit of a probability, or of one whose logarithm is given."""


@dataclass(frozen=True)
class ImportedScores:
    """What became of the files.

    Attributes:
        file: The file that was written.
        traces: Records that were written.
        steps: Scores of all of them.
        lowest: The lowest score.
        highest: The highest score.
    """

    file: Path
    traces: int
    steps: int
    lowest: float
    highest: float

    def sentence(self) -> str:
        """Say the counts in words."""
        return f"{self.traces:,} traces, {self.steps:,} steps, scores from {self.lowest:.4g} to {self.highest:.4g}"


def import_scores(
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    id_field: str | None = None,
    scores_field: str | None = None,
    column: int | None = None,
    scale: str = "kept",
) -> ImportedScores:
    """Convert files of step scores.

    A record is an object with an id and scores. Where a step has several numbers (``[[0.1, 0.9], ...]``), `column` says which is
    that of a right step; one number in a list of its own counts as the number, and a list of steps within a list of one as the
    list. Numbers may be texts. A ``.json`` file may also hold one object, from ids to scores. A field ``subset`` is kept.

    Args:
        sources: The files (.json, .jsonl, .jsonl.gz, .parquet).
        output: The file to write (.jsonl).
        id_field: Name of the field with the id; None: the first of `IDS` that the record has.
        scores_field: Name of the field with the scores; None: the first of `SCORES` that the record has.
        column: Which number of a step with several is that of a right step, from 0; -1 is the last. None: steps have one number.
        scale: One of `SCALES`.

    Returns:
        The file and the counts.

    Raises:
        UserError: A file cannot be read, or a record is wrong or is there twice. The message names the file, the record and the
            field.
        ArgumentError: There is no such scale, or the output cannot be written.
    """
    if scale not in SCALES:
        raise ArgumentError("scale", scale, f"expected {', '.join(SCALES)}{nearest(scale, SCALES)}")
    if Path(output).suffix != ".jsonl":
        raise ArgumentError("output", output, "expected a name that ends in .jsonl: one record a line")
    files = [find_file(source, "a file of step scores") for source in sources]
    found: dict[tuple[str, str | None], list[float]] = {}
    places: dict[tuple[str, str | None], str] = {}
    for file in files:
        for place, record in _records(file):
            key, scores = _read(place, record, id_field, scores_field, column)
            if key in found:
                raise UserError(f"{place}: id '{key[0]}' was already used at {places[key]}; keep one record of it")
            found[key], places[key] = [_scaled(place, i, one, scale) for i, one in enumerate(scores)], place
    if not found:  # files of records are never empty, one object from ids to scores may be
        raise UserError(f"{', '.join(map(str, files))}: no records; expected at least one id with its scores")
    lines = (
        json.dumps({"id": name, **({"subset": subset} if subset else {}), "scores": scores}) + "\n"
        for (name, subset), scores in found.items()
    )
    try:
        write_lines(Path(output), lines)
    except OSError as error:
        raise ArgumentError("output", output, f"cannot be written ({error.strerror})") from None
    every = [one for scores in found.values() for one in scores]
    return ImportedScores(Path(output), len(found), len(every), min(every), max(every))


def _records(file: Path) -> Iterator[Located]:
    """The records of a file; of one object from ids to scores, one for each id."""
    if file.suffix == ".json" and _holds_object(file):
        if twice := repeated_key(file):
            raise UserError(f"{file}: key '{printable(twice)}' is there twice; keep one of it")
        for name, value in read_json(file).items():
            yield f"{file.name}, key '{printable(name)}'", {"id": name, "scores": value}
        return
    yield from read_records(file)


def _holds_object(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _read(
    place: str, record: Any, id_field: str | None, scores_field: str | None, column: int | None
) -> tuple[tuple[str, str | None], list[float]]:
    """The key and the scores of a record."""
    check_object(place, record, (), "an object with an id and scores")
    name = _field(place, record, id_field, IDS, "id", "id_field")
    field = _field(place, record, scores_field, SCORES, "scores", "scores_field")
    value = record[name]
    if isinstance(value, float) and value.is_integer():  # a table with gaps turns whole numbers into these
        value = int(value)
    subset = record.get("subset")
    key = (check_text(place, name, value, number=True), None if subset is None else check_text(place, "subset", subset))
    steps = record[field]
    if isinstance(steps, str):
        try:
            steps = json.loads(steps)
        except (ValueError, RecursionError):
            raise UserError(
                f"{place}: field '{field}' is {shown(steps)}; expected a list of numbers, one a step"
            ) from None
    if not isinstance(steps, list) or not steps:
        raise UserError(f"{place}: field '{field}' is {shown(steps)}; expected a list of numbers, one a step")
    if (
        len(steps) == 1
        and isinstance(steps[0], list)
        and (column is None or (steps[0] and isinstance(steps[0][0], list)))
    ):
        steps = steps[0] or steps  # a batch of one
    return key, [_number(f"{place}: field '{field}[{i}]'", one, column) for i, one in enumerate(steps)]


def _field(place: str, record: dict[str, Any], asked: str | None, known: Sequence[str], what: str, flag: str) -> str:
    """The name of a field: as asked, or the first known one that the record has."""
    names = [asked] if asked is not None else [one for one in known if record.get(one) is not None]
    if not names or names[0] not in record:
        has = ", ".join(list(record)[:8]) or "none"
        hint = (
            f"no field '{asked}'{nearest(asked, record)}" if asked is not None else f"no field known to hold the {what}"
        )
        raise UserError(f"{place}: has {hint}; it has {has}: name one with {argument(flag)}")
    return names[0]


def _number(place: str, value: Any, column: int | None) -> float:
    """One step's score."""
    if isinstance(value, list):
        if column is None and len(value) != 1:
            raise UserError(
                f"{place} holds {len(value)} numbers; say which is that of a right step with {argument('column')}"
            )
        index = 0 if column is None else column
        if not -len(value) <= index < len(value):
            raise UserError(
                f"{place} holds {len(value)} numbers, and {argument('column', column)} names none; columns count from 0"
            )
        value = value[index]
    elif column not in (None, 0, -1):
        raise UserError(f"{place} holds one number; leave {argument('column', column)} out")
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise UserError(f"{place} is {shown(value)}; expected a number")
    return number


def _scaled(place: str, step: int, value: float, scale: str) -> float:
    """A score on the scale that is asked for. A probability of 0 or 1 becomes an infinite logit, which keeps its rank."""
    if scale == "kept":
        return value
    low, high, what = (
        (0.0, 1.0, "a probability, from 0 to 1")
        if scale == "probability"
        else (-math.inf, 0.0, "a log-probability, at most 0")
    )
    if not low <= value <= high:
        raise UserError(f"{place}: the score of step {step} is {value!r}; expected {what}")
    if scale == "probability":
        return math.inf if value == 1 else -math.inf if value == 0 else math.log(value) - math.log1p(-value)
    return math.inf if value == 0 else value - math.log(-math.expm1(value))
