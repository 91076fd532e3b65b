"""Ctrl-C, and a scheduler's SIGTERM, in a training: the step is finished and its state saved, and only then the run stops."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_NOTE = "stopping: this step is finished and saved first; Ctrl-C again stops at once, without saving"


@dataclass
class StopRequest:
    """Whether the run was asked to stop.

    Attributes:
        asked: Whether a signal has come.
    """

    asked: bool = False


@contextmanager
def stop_signals(*, quiet: bool = False) -> Iterator[StopRequest]:
    """Take note of the first Ctrl-C or SIGTERM instead of stopping at it. The second one stops at once.

    Outside the main thread nothing is changed, since only the main thread may say what a signal does.

    Args:
        quiet: Whether nothing is said when a signal comes, as in processes other than the first.

    Yields:
        Whether the run was asked to stop.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: Any) -> None:
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True
        if not quiet:
            print(_NOTE, file=sys.stderr, flush=True)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
