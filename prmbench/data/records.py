"""Read records from .json, .jsonl, .jsonl.gz and .parquet files, each with the place it came from.

Nothing here knows what a record means; `prmbench.data.traces` checks that. Errors name the file and the line or record.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.errors import UserError, first_line, shortened

SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".parquet")

Located = tuple[str, Any]
"""A place such as ``"gsm8k.jsonl, line 3"`` and the record found there."""


def stem(path: Path) -> str:
    """File name without its data suffix (``gsm8k.jsonl.gz`` gives ``gsm8k``)."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def is_data_file(path: Path) -> bool:
    """Whether the name ends in one of `SUFFIXES`."""
    return path.name.endswith(SUFFIXES)


def check_fields(place: str, fields: Any, kinds: dict[str, type], what: str) -> dict[str, Any]:
    """Check that a record is an object whose fields are of these types (a true or false is no number).

    Returns:
        The fields named.

    Raises:
        UserError: the place, the field, what was found and what was expected.
    """
    if not isinstance(fields, dict):
        raise UserError(f"{place}: is a JSON {type(fields).__name__}; expected {what} (an object)")
    for name, kind in kinds.items():
        value = fields.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"{place}: field '{name}' is {json.dumps(value)[:40]}; expected a {kind.__name__}")
    return {name: fields[name] for name in kinds}


LARGE = 1e15
"""Beyond any token value or count; larger numbers overflow."""


def check_number(place: str, field: str, value: Any, *, low: float = -LARGE, whole: bool = False) -> None:
    """Raise UserError unless a field is a finite number from `low` to below `LARGE`, a whole one where asked."""
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value < LARGE:  # nor NaN
        of = f"a {'whole ' if whole else ''}number{'' if low == -LARGE else f' from {low:g}'}"
        raise UserError(f"{place}: field '{field}' is {shortened(json.dumps(value))}; expected {of} below {LARGE:g}")


def check_ids(place: str, ids: Any) -> NDArray[np.int64]:
    """Token ids as an array. Raises UserError when they are not whole numbers, 0 or more."""
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**31 for i in ids):
        raise UserError(f"{place}: field 'ids' must hold token ids, whole numbers")
    return np.array(ids, dtype=np.int64)


def check_text(place: str, field: str, value: object) -> None:
    """Raise UserError unless a field is a string that holds some text, and whole characters."""
    if not isinstance(value, str):
        raise UserError(f"{place}: field '{field}' is {shown(value)}; expected a string")
    if not value.strip():
        raise UserError(f"{place}: field '{field}' is blank; expected some text")
    check_characters(place, field, value)


def check_characters(place: str, field: str, value: str) -> None:
    """Raise UserError unless a text, which may be empty, holds whole characters."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: field '{field}' has half of a surrogate pair at character {error.start}, which is no text; "
            "write the character whole"
        ) from None


def check_steps(place: str, steps: object) -> None:
    """Raise UserError unless the field steps is a list of at least one text, none of them blank."""
    if not isinstance(steps, list):
        raise UserError(f"{place}: field 'steps' is {shown(steps)}; expected a list of strings")
    if not steps:
        raise UserError(f"{place}: field 'steps' is empty; expected at least one step")
    for i, step in enumerate(steps):
        check_text(place, f"steps[{i}]", step)


def shown(value: object) -> str:
    """A value as an error quotes it: as JSON where that is short, else its type."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"a {type(value).__name__}"


def refuse_duplicates(ids: Sequence[str], places: Sequence[str]) -> None:
    """Raise UserError, naming both places, when an id is used twice."""
    first: dict[str, str] = {}
    for one, place in zip(ids, places, strict=True):
        if one in first:
            raise UserError(f"{place}: id '{one}' was already used at {first[one]}; ids must be unique")
        first[one] = place


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises UserError, naming the file, when it is missing, broken or no object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is {path.parent} whole?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({first_line(error)})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds a JSON {type(data).__name__}; expected an object")
    return data


def read_records(path: Path) -> list[Located]:
    """Read all records of one file.

    Raises:
        UserError: unknown suffix, unreadable file, broken JSON (with line and column), not a list, or no record at all.
    """
    if not is_data_file(path):
        raise UserError(f"{path}: unknown kind of data file; expected a name that ends in {', '.join(SUFFIXES)}")
    records = _read_parquet(path) if path.name.endswith(".parquet") else _read_json(path)
    if not records:
        raise UserError(f"{path}: the file holds no records; expected at least one")
    return records


def _read_json(path: Path) -> list[Located]:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8 (iconv -t utf-8 converts it)"
        ) from None
    except (OSError, EOFError, zlib.error) as error:  # a broken archive raises any of them
        raise UserError(f"{path}: cannot be read ({error}); check that the file is whole and readable") from None
    if path.name.endswith(".json"):
        return list(_parse_array(path, text))
    return list(_parse_lines(path, text))


def _parse_array(path: Path, text: str) -> Iterator[Located]:
    if not text.strip():
        return
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        hint = "; for one object a line name the file .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{path}, line {error.lineno}, column {error.colno}: broken JSON ({error.msg}){hint}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets nested as deep
        raise UserError(f"{path}: not readable as JSON ({first_line(error)})") from None
    if not isinstance(data, list):
        raise UserError(f"{path}: holds a JSON {type(data).__name__}; expected a list of records")
    for i, record in enumerate(data):
        yield f"{path}, record {i}", record


def _parse_lines(path: Path, text: str) -> Iterator[Located]:
    # Not splitlines(): it also breaks at U+2028 and its like, which occur inside strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"{path}, line {number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number}, column {error.colno}: broken JSON ({error.msg}); mend or delete the line"
            ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: not readable as JSON ({first_line(error)}); mend or delete the line"
            ) from None


def _read_parquet(path: Path) -> list[Located]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as parquet ({error})") from None
    return [(f"{path}, row {i}", row) for i, row in enumerate(rows)]
