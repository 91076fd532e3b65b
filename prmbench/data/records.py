"""Files of data, read in one place: JSON, JSON lines, gzip and parquet, each record with the place it came from.

Whatever a file holds, reading it ends in records or in one sentence that names the file and the line, in bounded time and memory.
Only regular files are opened, because a pipe or a device may never end. Lines are read one at a time and must not be longer than
any record is. An archive that expands as no real data do is refused while it expands. What a record means is checked elsewhere,
with the helpers below.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.errors import ArgumentError, UserError, first_line, nearest, nearest_path

SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".parquet")

LARGE = 1e15
"""Beyond any token value or count; larger numbers overflow."""

MAX_RECORD, MAX_OBJECT, MAX_ARRAY = 1 << 25, 1 << 26, 1 << 30
"""The most bytes of a line, of a file that holds one object, and of a ``.json`` file of records."""

MAX_EXPANSION, SMALL_EXPANSION = 100, 1 << 24
"""How many times its size an archive may expand to, and the number of bytes up to which any archive may."""

MAX_BLANK = 1_000_000
"""The most blank lines of a file."""

BOM = b"\xef\xbb\xbf"

Located = tuple[str, Any]
"""A place such as ``"gsm8k.jsonl, line 3"`` and the record found there."""


def stem(path: Path) -> str:
    """Cut the data suffix off a file's name: ``gsm8k.jsonl.gz`` gives ``gsm8k``.

    Args:
        path: The file, which need not exist.

    Returns:
        The name without its suffix.
    """
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def find_file(path: str | Path, expected: str) -> Path:
    """Check that a path is a regular file.

    Args:
        path: The file.
        expected: What the file should be, for the message.

    Returns:
        The path.

    Raises:
        UserError: There is no such file, or it is a folder, a pipe or a device.
    """
    path = Path(path)
    if os.path.isfile(path):
        return path
    try:
        path.stat()
        what = "is a folder" if path.is_dir() else "is a pipe or a device"
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a null character
        what = "no such file"
        with contextlib.suppress(OSError):  # a folder that may not be listed
            what += nearest_path(path)
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
    raise UserError(f"{path}: {what}; expected {expected}")


def open_file(path: Path) -> io.BufferedReader:
    """Open a regular file for reading.

    Args:
        path: The file.

    Returns:
        The open file, in binary.

    Raises:
        UserError: It is no regular file, or cannot be read.
    """
    try:
        return find_file(path, "a file").open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check that it is readable") from None


def read_whole(path: Path, most: int = MAX_OBJECT) -> bytes:
    """Read a small file as a whole.

    Args:
        path: The file.
        most: The most bytes that it may have.

    Returns:
        Its bytes.

    Raises:
        UserError: It is no regular file, cannot be read, or is larger.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise UserError(f"{path}: is larger than {most >> 20:,} MiB, the most for such a file")
        return file.read()


def file_hash(path: Path) -> str:
    """Hash a file of any size.

    Args:
        path: The file.

    Returns:
        The sha256, in hex.

    Raises:
        UserError: It is no regular file, or cannot be read.
    """
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decoded(place: str, content: bytes) -> str:
    """Decode text that may not be in UTF-8.

    Args:
        place: Where it is from, for the message.
        content: The bytes.

    Returns:
        The text.

    Raises:
        UserError: It is no UTF-8.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}: not UTF-8 at byte {error.start}; save the file as UTF-8 (iconv -t utf-8 converts it)"
        ) from None


def parse_json(place: str, content: bytes, *, line: bool = False, mend: str = "") -> Any:
    """Parse JSON that may be broken, or hostile.

    Args:
        place: Where it is from, for the message.
        content: The JSON, in UTF-8.
        line: Whether it is a line that `place` already names.
        mend: What to do about broken JSON, for the message.

    Returns:
        The value.

    Raises:
        UserError: It is no UTF-8, no JSON, nested too deep, or has a number of thousands of digits.
    """
    mend = f"; {mend}" if mend else ""
    text = decoded(place, content)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{place}{'' if line else f', line {error.lineno}'}, column {error.colno}"
        raise UserError(f"{where}: broken JSON ({error.msg}){mend}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not readable as JSON ({first_line(error)}){mend}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        UserError: The file is missing, cannot be read, is too large, is broken, or holds no object.
    """
    data = parse_json(str(path), read_whole(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds a JSON {type(data).__name__}; expected an object")
    return data


def repeated_key(path: Path) -> str | None:
    """Find a key that an object of a JSON file has twice, of which `read_json` keeps the last.

    Args:
        path: The file, which may also be broken.

    Returns:
        The first such key; None: there is none, or the file is no JSON.
    """
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                found.append(name)
            seen.add(name)

    try:
        json.loads(read_whole(path), object_pairs_hook=look)
    except (ValueError, RecursionError):
        return None
    return found[0] if found else None


def read_records(path: Path) -> Iterator[Located]:
    """Read the records of one file, one after the other, so that a large file does not fill memory.

    Args:
        path: A file whose name ends in one of `SUFFIXES`.

    Yields:
        The place and the value of each record.

    Raises:
        UserError: The name ends otherwise; the file cannot be read, is broken (the line and column are named), expands too much,
            holds a line that is too long, is no list, or holds no record at all.
    """
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: unknown kind of data file; expected a name that ends in {', '.join(SUFFIXES)}")
    readers = {".parquet": _read_parquet, ".json": _read_array}
    records = readers.get(path.suffix, read_lines)(path)
    first = next(records, None)
    if first is None:
        raise UserError(f"{path}: the file holds no records; expected at least one")
    yield first
    yield from records


def read_lines(path: Path, *, cut: bool = False) -> Iterator[Located]:
    """Read a file of JSON lines, or a gzip archive of one. Blank lines are skipped.

    Args:
        path: The file.
        cut: Whether a last line without an end is left out, because a kill may have cut it short.

    Yields:
        The place and the value of each line.

    Raises:
        UserError: The file cannot be read, a line is broken or too long, or an archive expands too much.
    """
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(open_file(path))
        packed = path.name.endswith(".gz")
        file = io.BufferedReader(stack.enter_context(gzip.GzipFile(fileobj=raw)), 1 << 20) if packed else raw
        number = read = blank = 0
        try:
            while line := file.readline(MAX_RECORD + 1):  # ends at \n alone: U+2028 and its like occur inside strings
                number, read = number + 1, read + len(line)
                line = line.removeprefix(BOM) if number == 1 else line
                if packed:
                    _refuse_expansion(path, read, raw.tell())
                if not line.strip() and (blank := blank + 1) <= MAX_BLANK:
                    continue
                place = f"{path}, line {number}"
                if len(line) > MAX_RECORD or blank > MAX_BLANK:
                    most = f"{MAX_RECORD >> 20} MiB, the most for a record, or follows {MAX_BLANK:,} blank lines"
                    raise UserError(f"{place}: is longer than {most}")
                if line.endswith(b"\n") or not cut:
                    yield place, parse_json(place, line.rstrip(b"\n"), line=True, mend="mend or delete the line")
        except (OSError, EOFError, zlib.error) as error:  # a broken archive raises any of them
            raise UserError(f"{path}: cannot be read ({error}); check that the file is whole and readable") from None


def _read_array(path: Path) -> Iterator[Located]:
    content = read_whole(path, MAX_ARRAY).removeprefix(BOM)
    mend = "for one object a line, name the file .jsonl"
    data = parse_json(str(path), content, mend=mend) if content.strip() else []
    if not isinstance(data, list):
        raise UserError(f"{path}: holds a JSON {type(data).__name__}; expected a list of records")
    for i, record in enumerate(data):
        yield f"{path}, record {i}", record


def _read_parquet(path: Path) -> Iterator[Located]:
    import pyarrow.parquet as pq

    with open_file(path) as raw:
        try:
            file, packed = pq.ParquetFile(raw), os.fstat(raw.fileno()).st_size
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            _refuse_expansion(path, sum(group.total_byte_size for group in groups), packed)
            _refuse_expansion(
                path, MAX_EXPANSION * file.metadata.num_rows, packed
            )  # no real record takes less than a byte
            number = read = 0
            for batch in file.iter_batches(batch_size=256):
                _refuse_expansion(path, read := read + batch.nbytes, packed)
                for row in batch.to_pylist():
                    yield f"{path}, row {number}", row
                    number += 1
        except UserError:
            raise
        except Exception as error:  # of many kinds: broken pages, dates out of range, unknown time zones
            raise UserError(f"{path}: cannot be read as parquet ({first_line(error)})") from None


def _refuse_expansion(path: Path, size: int, packed: int) -> None:
    """Refuse an archive whose first `packed` bytes come to `size` bytes, where that is far more than real data come to."""
    if size > SMALL_EXPANSION and size > MAX_EXPANSION * packed:
        raise UserError(f"{path}: expands to more than {MAX_EXPANSION} times its size, which no real data do")


def check_object(place: str, record: Any, fields: Sequence[str], what: str) -> None:
    """Check that a record is an object with certain fields.

    Args:
        place: Where it is from, for the message.
        record: The record.
        fields: Fields that it must have.
        what: What was expected, for the message.

    Raises:
        UserError: It is no object, or a field is missing. A field with nearly that name is named.
    """
    if not isinstance(record, dict):
        raise UserError(f"{place}: is a JSON {type(record).__name__}; expected {what}")
    for field in fields:
        if field not in record:
            raise UserError(f"{place}: field '{field}' is missing{nearest(field, record)}; expected {what}")


def check_fields(place: str, fields: Any, kinds: dict[str, type], what: str) -> dict[str, Any]:
    """Check that a record is an object whose fields are of certain types. True and false are no numbers.

    Args:
        place: Where it is from, for the message.
        fields: The record.
        kinds: The type of each field that it must have.
        what: What was expected, for the message.

    Returns:
        The fields named in `kinds`.

    Raises:
        UserError: The place, the field, what was found and what was expected.
    """
    check_object(place, fields, (), f"{what} (an object)")
    for name, kind in kinds.items():
        value = fields.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"{place}: field '{name}' is {shown(value)}; expected a {kind.__name__}")
    return {name: fields[name] for name in kinds}


def check_whole(place: str, field: str, value: Any, *, low: float = -LARGE) -> None:
    """Check that a field is a whole number below `LARGE`.

    Args:
        place: Where it is from, for the message.
        field: The field's name.
        value: The field's value.
        low: The lowest value allowed.

    Raises:
        UserError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < LARGE:
        raise UserError(f"{place}: field '{field}' is {shown(value)}; expected {number_wanted(low, whole=True)}")


def number_wanted(low: float, *, whole: bool) -> str:
    """Say what number was expected.

    Args:
        low: The lowest value allowed; ``-LARGE``: any.
        whole: Whether it must be a whole number.
    """
    return f"a {'whole ' if whole else ''}number{'' if low == -LARGE else f' from {low:g}'} below {LARGE:g}"


def check_ids(place: str, ids: Iterable[Any]) -> NDArray[np.int64]:
    """Check token ids.

    Args:
        place: Where they are from, for the message.
        ids: The ids.

    Returns:
        The ids as an array. Shape [n].

    Raises:
        UserError: One is no whole number from 0.
    """
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**31 for i in ids):
        raise UserError(f"{place}: field 'ids' must hold token ids, whole numbers")
    return np.array(ids, dtype=np.int64)


def check_text(place: str, field: str, value: object, *, number: bool = False, blank: bool = False) -> str:
    """Check that a field is a text that is not blank.

    Args:
        place: Where it is from, for the message.
        field: The field's name.
        value: The field's value.
        number: Whether a finite number is taken too, and becomes text.
        blank: Whether a blank text is taken too.

    Returns:
        The text.

    Raises:
        UserError: It is no text, is blank, or has half of a surrogate pair.
    """
    finite = isinstance(value, int) and not isinstance(value, bool)
    if number and (finite or (isinstance(value, float) and math.isfinite(value))):
        return str(value)
    if not isinstance(value, str):
        raise UserError(f"{place}: field '{field}' is {shown(value)}; expected a string")
    if not blank and not value.strip():
        raise UserError(f"{place}: field '{field}' is blank; expected some text")
    check_characters(place, field, value)
    return value


def check_characters(place: str, field: str, value: str) -> None:
    """Check that a text, which may be empty, holds whole characters.

    Args:
        place: Where it is from, for the message.
        field: The field's name.
        value: The text.

    Raises:
        UserError: It has half of a surrogate pair.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: field '{field}' has half of a surrogate pair at character {error.start}, which is no text; "
            "write the character whole"
        ) from None


def check_steps(place: str, steps: object, field: str = "steps") -> tuple[str, ...]:
    """Check that a field is a list of at least one text. A blank text is a step too: sources have such steps, with labels.

    Args:
        place: Where it is from, for the message.
        steps: The field's value.
        field: The field's name.

    Returns:
        The steps.

    Raises:
        UserError: It is no list, is empty, or holds something else.
    """
    if not isinstance(steps, list):
        raise UserError(f"{place}: field '{field}' is {shown(steps)}; expected a list of strings")
    if not steps:
        raise UserError(f"{place}: field '{field}' is empty; expected at least one step")
    return tuple(check_text(place, f"{field}[{i}]", step, blank=True) for i, step in enumerate(steps))


def shown(value: object) -> str:
    """Quote a value in a message.

    Args:
        value: The value.

    Returns:
        The value as JSON where that is short, else its type.
    """
    with contextlib.suppress(
        TypeError, ValueError, RecursionError
    ):  # keys that are no text, too many digits, deep nesting
        if len(text := json.dumps(value, default=str)) <= 40:
            return text
    return f"a {type(value).__name__}"


def refuse_duplicates(ids: Iterable[str], places: Iterable[str]) -> None:
    """Check that no id is used twice.

    Args:
        ids: The ids.
        places: Where each is from, for the message.

    Raises:
        UserError: One is used twice; both places are named.
    """
    first: dict[str, str] = {}
    for one, place in zip(ids, places, strict=True):
        if one in first:
            raise UserError(f"{place}: id '{one}' was already used at {first[one]}; ids must be unique")
        first[one] = place


def check_limit(limit: int | None) -> None:
    """Check the argument ``limit`` of a loader.

    Args:
        limit: How many records to keep, at least 1; None keeps all.

    Raises:
        ArgumentError: It is below 1.
    """
    if limit is not None and limit < 1:
        raise ArgumentError("limit", limit, "expected 1 or more, or nothing for all")
