"""Progress of long work: a rich bar on a terminal, plain lines elsewhere; always on stderr, so that stdout stays data."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

_LINE_SECONDS = 10.0


class Advance(Protocol):
    """Says that a loop got further."""

    def __call__(self, n: int, /, note: str | None = None) -> None:
        """Show it.

        Args:
            n: Units just finished.
            note: The newest figures, which stand on a line below; None leaves those that stand there.
        """


def announce_loading(*sources: str | Path | None) -> None:
    """Say what is about to be loaded, before the libraries that load it are imported: that alone takes seconds.

    Nothing is said where they are imported already, nor in processes other than the first, nor of folders that do not exist,
    because that mistake is about to be named.

    Args:
        *sources: Checkpoint folders or Hub ids; None stands for nothing.
    """
    named = [str(source) for source in sources if source is not None]
    if "torch" in sys.modules or os.environ.get("RANK", "0") != "0":
        return
    if any(
        not Path(one).expanduser().exists() and (one.startswith((".", "/", "~")) or one.count("/") > 1) for one in named
    ):
        return
    for one in named:
        print(f"loading {one} ...", file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, total: int, unit: str, *, done: int = 0, quiet: bool = False) -> Iterator[Advance]:
    """Show how far a loop is, at what rate, and the time left.

    Args:
        title: What the work is.
        total: Units of the whole work.
        unit: What a unit is, in the plural.
        done: Units that an earlier run finished. They do not count for the rate.
        quiet: Whether to show nothing, as processes other than the first do.

    Yields:
        A function to call with the number of units just finished, and with figures to show beside them.
    """
    if quiet:
        yield lambda n, /, note=None: None
    elif sys.stderr.isatty():
        with _bar(title, total, unit, done) as advance:
            yield advance
    else:
        yield _Lines(title, total, unit, done).advance


@contextmanager
def _bar(title: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class NotedBar(Progress):
        """A bar with the newest figures on a line of their own: beside it they would push the time left off a terminal."""

        newest = ""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            if self.newest:
                yield Text(f"  {self.newest}", style="dim")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    finished = 0
    with NotedBar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done, rate="")

        def advance(n: int, /, note: str | None = None) -> None:
            nonlocal finished
            finished += n
            rate = finished / max(time.monotonic() - start, 1e-9)
            bar.newest = bar.newest if note is None else note
            bar.update(task, advance=n, rate=f"{_figure(rate)} {unit}/s")

        yield advance


class _Lines:
    """Prints a line when the first units are done, then one every `_LINE_SECONDS`, and one at the end."""

    def __init__(self, title: str, total: int, unit: str, done: int) -> None:
        self.title, self.total, self.unit, self.before = title, total, unit, done
        self.finished, self.note = 0, ""
        self.start, self.last = time.monotonic(), -math.inf
        if done:
            print(f"{title}: {done:,} of {total:,} {unit} were done before", file=sys.stderr, flush=True)

    def advance(self, n: int, /, note: str | None = None) -> None:
        self.finished += n
        self.note = self.note if note is None else note
        now = time.monotonic()
        reached = self.before + self.finished
        if reached < self.total and now - self.last < _LINE_SECONDS:
            return
        self.last = now
        rate = self.finished / max(now - self.start, 1e-9)
        left = (self.total - reached) / rate
        line = (
            f"{self.title}: {reached:,} of {self.total:,} {self.unit} ({reached / max(self.total, 1):.0%}), "
            f"{_figure(rate)} {self.unit}/s, {duration(left)} left"
        )
        print(f"{line}; {self.note}" if self.note else line, file=sys.stderr, flush=True)


def _figure(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def duration(seconds: float) -> str:
    """Write a duration as a clock does: ``75`` as ``1:15``, ``3700`` as ``1:01:40``.

    Args:
        seconds: The duration, in seconds.

    Returns:
        The text.
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
