"""The output folder of a run: settings, items as they come, the finished entry. Killed runs go on where they were.

A folder holds ``run.json`` (the settings that determine every score), ``items.jsonl`` and, when finished, ``entry.json``.
While several processes work, each appends to a file of its own (``items.rank1.jsonl``); they are merged at the end.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel

from prmbench.data.records import parse_json, read_lines, read_whole
from prmbench.errors import ArgumentError, UserError, argument, printable, shortened
from prmbench.results.schema import ENTRY_NAME, Items, digest

RUN_NAME = "run.json"
_HOLDER_NAME = ".lock.holder"


class Line(Protocol):
    """What a run writes: something with a key, as one JSON line."""

    @property
    def key(self) -> tuple[str, str]:
        """What names it within the run."""

    def line(self) -> str:
        """It as one JSON line, newline included."""


ELSEWHERE = f"pass another {argument('output')}"
"""What to do where a folder cannot take a run."""
LineType = TypeVar("LineType", bound=Line)


class FolderLock:
    """An output folder belongs to one process at a time."""

    def __init__(self, path: Path, remedy: str = ELSEWHERE) -> None:
        """Name the folder.

        Args:
            path: The folder.
            remedy: What to do instead, for the error where another process has it.
        """
        self.path, self.remedy = path, remedy
        self._lock = FileLock(path / ".lock")

    def acquire(self) -> None:
        """Raise UserError, naming the holder, when another process has it."""
        holder = self.path / _HOLDER_NAME
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            who = "another process"
            with contextlib.suppress(UserError, UnicodeDecodeError):
                who = printable(read_whole(holder, 1 << 10).decode().strip())
            raise UserError(f"{self.path}: {who} is writing here; wait for it, or {self.remedy}") from None
        write_atomically(holder, f"process {os.getpid()} on {socket.gethostname()}\n")

    def release(self) -> None:
        """Let others have it."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                (self.path / _HOLDER_NAME).unlink(missing_ok=True)
            self._lock.release()


class RunFolder(Generic[LineType]):
    """A run's output folder, held by one run at a time (a context manager).

    Args:
        path: The folder; it is created where it does not exist.
        settings: What must be the same for items in the folder to be used again. JSON-serialisable.
        parse: Makes an item of a place and a JSON value; raises UserError.
        stem: The name of the items file, without ``.jsonl``.
        rank: This process among those that share the run; rank 0 holds the lock.

    Raises:
        UserError: On entering: another run holds the folder, the folder holds a run with other settings (the first that differs is
            named), or it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        parse: Callable[[str, Any], LineType],
        *,
        stem: str = "items",
        rank: int = 0,
    ) -> None:
        self.path = path
        self.parse = parse
        self.stem = stem
        self.settings = json.loads(json.dumps(settings))
        self.rank = rank
        self._lock = FolderLock(path)
        self._items: Any = None

    def __enter__(self) -> RunFolder[LineType]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.rank == 0:
                self._acquire()
        except UserError:
            self._lock.release()
            raise
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); {ELSEWHERE}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._items is not None:
            self._items.close()
        self._lock.release()

    def _acquire(self) -> None:
        self._lock.acquire()
        run_file = self.path / RUN_NAME
        if run_file.exists():
            self._check_settings(run_file)
        elif next(self.path.glob(f"{self.stem}*.jsonl"), None) is not None:
            raise UserError(f"{self.path}: holds items but no {RUN_NAME} that says what they are; {ELSEWHERE}")
        else:
            write_atomically(run_file, json.dumps(self.settings, indent=2) + "\n")

    def _check_settings(self, run_file: Path) -> None:
        mend = f"{ELSEWHERE}, or delete the folder"
        found = parse_json(str(run_file), read_whole(run_file), mend=mend)
        if (difference := _difference(found, self.settings)) is not None:
            raise UserError(f"{self.path}: holds a run with other settings ({difference}); {mend}")

    def completed(self) -> dict[tuple[str, str], LineType]:
        """All items already written, by key. A last line cut short by a kill is left out."""
        found: dict[tuple[str, str], LineType] = {}
        for path in sorted(self.path.glob(f"{self.stem}*.jsonl")):
            found |= {item.key: item for item in read_whole_lines(path, self.parse)}
        return found

    def append(self, items: Iterable[LineType]) -> None:
        """Write items, and have them on disk before returning.

        Args:
            items: The items.

        Raises:
            UserError: The disk is full.
        """
        try:
            if self._items is None:
                path = self.path / (f"{self.stem}.jsonl" if self.rank == 0 else f"{self.stem}.rank{self.rank}.jsonl")
                if path.exists():
                    _drop_cut_line(path)
                self._items = path.open("ab", buffering=0)  # unbuffered: nothing is written again on close
            content = "".join(item.line() for item in items).encode()
            while content:
                content = content[self._items.write(content) :]
            os.fsync(self._items.fileno())
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); what was scored before is kept: "
                "make room and run the same command again"
            ) from None

    @contextlib.contextmanager
    def saying_what_is_kept(self, total: int, unit: str, kept: Callable[[], int] | None = None) -> Iterator[None]:
        """Have an interruption of the work say how much of it is kept, and that the run goes on.

        Args:
            total: Number of items of the finished run.
            unit: What an item is, in the plural.
            kept: Counts the items that the run would use again; None: all that are in the folder.

        Raises:
            KeyboardInterrupt: There was one.
        """
        try:
            yield
        except KeyboardInterrupt:
            n = len(self.completed()) if kept is None else kept()
            raise KeyboardInterrupt(
                f"stopped; {n:,} of {total:,} {unit} are kept in {self.path}: the same command goes on from there"
            ) from None

    def finish(self, items: Sequence[LineType]) -> Items:
        """Replace the items files by one, and describe it.

        Args:
            items: All items, in the order of the file.
        """
        if self._items is not None:
            self._items.close()
            self._items = None
        content = "".join(item.line() for item in items)
        name = f"{self.stem}.jsonl"
        write_atomically(self.path / name, content)
        for part in self.path.glob(f"{self.stem}.rank*.jsonl"):
            part.unlink()
        return Items(file=name, sha256=hashlib.sha256(content.encode()).hexdigest(), n=len(items))

    def write_entry(self, entry: BaseModel) -> Path:
        """Write the entry.

        Args:
            entry: The entry.

        Returns:
            Its path.
        """
        return save_entry(self.path, entry, None)


def read_whole_lines(path: Path, parse: Callable[[str, Any], LineType]) -> list[LineType]:
    """Read what a run has written to a file. A last line that was cut short by a kill is left out.

    Args:
        path: The file, which need not exist.
        parse: Makes an item of a place and a JSON value; raises UserError.

    Raises:
        UserError: A line is broken, or `parse` does not take it.
    """
    return [parse(place, record) for place, record in read_lines(path, cut=True)] if path.exists() else []


def slug(name: str) -> str:
    """Turn a name into a part of a folder's name, which is never a path to elsewhere.

    Args:
        name: The name.
    """
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)[:60]
    return kept if kept.strip(".") else kept.replace(".", "-") or "-"  # never a path to elsewhere


def check_name(name: str | None) -> None:
    """Check the name that a subject is given on tables.

    Args:
        name: The name; None: none is given.

    Raises:
        ArgumentError: It holds characters that cannot be printed.
    """
    if name is not None and not name.isprintable():
        raise ArgumentError("name", printable(name), "holds characters that cannot be printed; take them out")


def default_folder(benchmark: str, name: str, settings: dict[str, Any]) -> Path:
    """Choose the folder of a run that names no output: one folder for each name and settings.

    Args:
        benchmark: The benchmark's name.
        name: The subject's name.
        settings: What decides the run's items.
    """
    return Path("prmbench-results") / f"{benchmark}-{slug(name)}-{digest(settings)[:8]}"


def public_name(source: str | None) -> str | None:
    """Name a checkpoint as an entry may publish it: a Hub id as it is, of a local folder only its name.

    Args:
        source: The checkpoint as the user named it; None stays None.
    """
    return Path(source).resolve().name if source is not None and Path(source).exists() else source


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader or a kill sees the old file or the new one, never a part.

    Args:
        path: The file.
        content: The text, which is written as UTF-8, or the bytes.

    Raises:
        UserError: It cannot be written (a full disk, no permission), or its place is taken by a folder, a pipe or a device. What
            was there is as it was.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is a folder, a pipe or a device; name another file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as handle:
            handle.write(content.encode() if isinstance(content, str) else content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room, or write to another place") from None


def save_entry(folder: Path, entry: BaseModel, items: Path | None) -> Path:
    """Write an entry, and a copy of its items, into a folder of its own.

    Args:
        folder: The folder; it is created where it does not exist.
        entry: The entry.
        items: Its items file; None: there is none to copy.

    Returns:
        The entry's path.

    Raises:
        UserError: The folder cannot be written, or holds other items.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if items is not None and items.resolve() != (copy := folder / items.name).resolve():
            if (folder / RUN_NAME).exists() or (copy.exists() and not filecmp.cmp(copy, items, shallow=False)):
                raise UserError(f"{folder}: holds another run; {ELSEWHERE}, or delete the folder")
            shutil.copyfile(items, copy)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); {ELSEWHERE}") from None
    write_atomically(folder / ENTRY_NAME, entry.model_dump_json(indent=2) + "\n")
    return folder / ENTRY_NAME


def _drop_cut_line(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.truncate(sum(len(line) for line in handle if line.endswith(b"\n")))


def _difference(found: Any, wanted: Any, where: str = "") -> str | None:
    """The first key at which two JSON values differ, with both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(k for k in found if k not in wanted)]:
            inner = _difference(found.get(key), wanted.get(key), f"{where}.{key}" if where else key)
            if inner is not None:
                return inner
        return None
    if found == wanted:
        return None
    return f"{where}: {shortened(json.dumps(found))} there, {shortened(json.dumps(wanted))} now"
