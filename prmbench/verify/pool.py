"""A pool of killable worker processes: every item gets an outcome within a hard time limit, whatever it does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from prmbench.verify import worker

_START_SECONDS = 120.0
_ATTEMPTS = 2
Job = tuple[str, *tuple[str | float | None, ...]]
"""Name of a function in `equality.JOBS`, and its arguments."""
_NURSERY = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from prmbench.verify.worker import nursery; nursery(int(sys.argv[2]))"
)


class _NurseryLost(Exception):
    """The nursery process died; another one can be started."""


@dataclass
class _Worker:
    pid: int
    link: Connection
    job: int | None = None
    deadline: float = field(default=float("inf"))


class Pool:
    """Worker processes that compare answers, started when the first job needs one. Not for use by several threads."""

    def __init__(self, timeout: float, workers: int, memory_mb: int) -> None:
        """Set the limits.

        Args:
            timeout: Seconds of wall-clock time for a job, counted from when a worker starts on it. A worker that overruns is
                killed (SIGKILL), and another one is forked.
            workers: Number of processes. The outcomes do not depend on it.
            memory_mb: How much a worker may grow beyond its size at the start.
        """
        self.timeout, self.size, self.memory_mb = timeout, workers, memory_mb
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def pids(self) -> list[int]:
        """Process ids of the workers that are alive now."""
        return [w.pid for w in self._workers]

    def run(self, jobs: Sequence[Job], on_done: Callable[[int], None] = lambda _: None) -> list[Any]:
        """Do jobs in the workers.

        A job whose worker dies by other hands (a signal from outside, a crash) is tried once more on a fresh one.

        Args:
            jobs: Each the name of a function in `equality.JOBS`, and its arguments.
            on_done: Called with a job's index when its outcome is known.

        Returns:
            What each function returned; None where a limit was hit or two workers died over it.

        Raises:
            RuntimeError: The worker processes cannot be started.
        """
        outcomes: list[Any] = [None] * len(jobs)
        attempts = [0] * len(jobs)
        queue = deque(range(len(jobs)))
        left = len(jobs)

        def finish(job: int, outcome: Any) -> None:
            nonlocal left
            outcomes[job] = outcome
            left -= 1
            on_done(job)

        def lost(which: _Worker) -> None:
            """A worker died: its item gets its second attempt before all others, or no outcome."""
            self._discard(which)
            if which.job is None:
                return
            if attempts[which.job] < _ATTEMPTS:
                queue.appendleft(which.job)
            else:
                finish(which.job, None)

        try:
            while left:
                # As many workers as there is work for, and each that is free gets an item.
                while queue and len(self._workers) < min(self.size, left):
                    self._workers.append(self._fork())
                for each in list(self._workers):
                    if each.job is None and queue:
                        each.job = queue.popleft()
                        attempts[each.job] += 1
                        each.deadline = time.monotonic() + _START_SECONDS
                        try:
                            each.link.send_bytes(json.dumps(jobs[each.job]).encode())
                        except OSError:
                            attempts[each.job] -= 1  # it was dead before it had the item
                            lost(each)
                # Wait for the first that says something, or whose time is over.
                busy = [w for w in self._workers if w.job is not None]
                if not busy:
                    continue
                pause = max(0.0, min(w.deadline for w in busy) - time.monotonic())
                heard = wait([w.link for w in busy], pause)
                # Take what was said: a start, an outcome, or nothing from a worker that is dead or too slow.
                for each in busy:
                    if each.link not in heard:
                        if time.monotonic() >= each.deadline and not each.link.poll():
                            job = each.job
                            self._discard(each)
                            assert job is not None
                            finish(job, None)
                        continue
                    try:
                        message = each.link.recv_bytes()
                    except (EOFError, OSError):
                        lost(each)
                        continue
                    if message == worker.STARTED:
                        each.deadline = time.monotonic() + self.timeout
                    else:
                        job, each.job = each.job, None
                        assert job is not None
                        outcome = message.removesuffix(worker.RETIRES)
                        if outcome != message:
                            self._discard(each)
                        finish(job, json.loads(outcome))
        except BaseException:
            self.close()  # a worker may hold an item of this call
            raise
        return outcomes

    def close(self) -> None:
        """Kill the workers and the nursery. The pool can be used again afterwards; it then starts new ones."""
        for each in list(self._workers):
            self._discard(each)
        self._end_nursery()

    def _discard(self, which: _Worker) -> None:
        # The id is still this worker's, alive or not: only the nursery reaps, and only when we next ask it to fork.
        if self._nursery is not None and self._nursery.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(which.pid, signal.SIGKILL)
        which.link.close()
        self._workers.remove(which)

    def _fork(self) -> _Worker:
        for _ in range(3):
            try:
                return self._ask_for_worker(self._started_nursery())
            except _NurseryLost:
                self._end_nursery()
        raise RuntimeError("the answer-checking processes could not be started: is math-verify installed?")

    def _ask_for_worker(self, control: socket.socket) -> _Worker:
        ours, theirs = socket.socketpair()
        request = json.dumps({"seconds": self.timeout, "memory_mb": self.memory_mb}).encode()
        try:
            socket.send_fds(control, [request], [theirs.fileno()])
            reply = control.recv(64)
        except OSError as error:
            ours.close()
            raise _NurseryLost from error
        finally:
            theirs.close()
        if not reply:
            ours.close()
            raise _NurseryLost
        return _Worker(int(reply), Connection(ours.detach()))

    def _started_nursery(self) -> socket.socket:
        if self._control is not None:
            return self._control
        ours, theirs = socket.socketpair()
        with theirs:
            self._nursery = subprocess.Popen(
                [sys.executable, "-c", _NURSERY, json.dumps([str(p) for p in sys.path]), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._control = ours
        ours.settimeout(_START_SECONDS)
        try:
            ready = ours.recv(len(worker.READY))
        except OSError as error:
            raise _NurseryLost from error
        if ready != worker.READY:
            raise _NurseryLost
        return ours

    def _end_nursery(self) -> None:
        """Close the nursery's socket, so that it kills and reaps what is left of its workers and exits."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._nursery is not None:
            try:
                self._nursery.wait(5)
            except subprocess.TimeoutExpired:
                self._nursery.kill()
                self._nursery.wait()
            self._nursery = None
