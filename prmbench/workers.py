"""Worker processes that end with the process that started them, whatever ends it."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from prmbench.errors import UserError

_PDEATHSIG = 1  # of Linux' prctl
_WATCH_SECONDS = 0.5
_KILL_SECONDS = 5.0


@dataclass(frozen=True)
class Worker:
    """A worker process and the connection to it.

    Attributes:
        process: The process. It leads a process group of its own.
        link: Our end of the connection. The worker holds the other end.
    """

    process: SpawnProcess
    link: Connection

    def reply(self) -> Any:
        """Wait for what the worker sends next.

        Returns:
            What it sent: a reply, or the exception that `serve` caught. A `ChildProcessError` where the worker has ended.
        """
        try:
            return self.link.recv()
        except (EOFError, OSError):
            self.process.join(_KILL_SECONDS)
            return ChildProcessError(f"process ended (exit code {self.process.exitcode})")


def start_worker(work: Callable[..., None], *arguments: Any, environment: Mapping[str, str] | None = None) -> Worker:
    """Start a fresh interpreter that calls a function and ends with this process.

    When this process ends, by SIGKILL too, the worker is killed. What the worker has started itself should end with the worker.
    Ctrl-C on a terminal does not reach the worker: it is for this process to stop it.

    Args:
        work: A function of a module. Its first argument is the worker's end of the connection. It should return when
            receiving from that end raises EOFError.
        arguments: Further arguments of the function. They are pickled.
        environment: Environment variables to set in the worker before the function is called; None sets none.

    Returns:
        The worker. `stop_workers` ends it.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # The kernel kills a worker when the thread that started it ends: only the main thread is sure to live as long as we do.
    by_kernel = threading.current_thread() is threading.main_thread()
    process = context.Process(
        target=_run, args=(work, theirs, arguments, dict(environment or {}), os.getpid(), by_kernel)
    )
    process.start()
    theirs.close()
    return Worker(process, ours)


def stop_workers(workers: Sequence[Worker], patience: float = 0.0) -> None:
    """End workers and wait until they are gone.

    Args:
        workers: Workers that `start_worker` returned. Those that have ended already are left as they are.
        patience: Seconds that they have in all to end by themselves once their connections are closed. A worker that is
            still there after that is killed with its process group.
    """
    for worker in workers:
        worker.link.close()
    deadline = time.monotonic() + patience
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            _kill_group(worker.process)
        worker.process.join(_KILL_SECONDS)


def interrupt_workers(workers: Sequence[Worker], patience: float) -> None:
    """Send Ctrl-C to workers, and wait until they have saved what they are at.

    Args:
        workers: Workers that `start_worker` returned.
        patience: Seconds that they have in all; those that are still there after that are left as they are.
    """
    for worker in workers:
        if worker.process.is_alive() and worker.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGINT)
    deadline = time.monotonic() + patience
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))


def serve(link: Connection, answer: Callable[[Any], Any]) -> None:
    """Answer every request that comes, until the other end of the connection is closed.

    Args:
        link: The worker's end of the connection.
        answer: Gives the reply to a request. An exception is sent in place of the reply: a UserError or ValueError as such, any
            other as a RuntimeError that holds its traceback.
    """
    while True:
        try:
            request = link.recv()
        except (EOFError, OSError):
            return
        try:
            reply = answer(request)
        except Exception as error:
            kind = next((kind for kind in (UserError, ValueError) if isinstance(error, kind)), None)
            reply = kind(str(error)) if kind else RuntimeError(traceback.format_exc())
        link.send(reply)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, and end it at once if the parent is gone already.

    On systems other than Linux only the second is done.

    Args:
        parent: Process id of the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _run(
    work: Callable[..., None],
    link: Connection,
    arguments: Sequence[Any],
    environment: Mapping[str, str],
    parent: int,
    by_kernel: bool,
) -> None:
    os.environ.update(environment)
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    if by_kernel:
        end_with_parent(parent)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    work(link, *arguments)


def _watch(parent: int) -> None:
    """Kill this process, with its group where it leads one, once the parent is gone."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os.kill(0 if os.getpgrp() == os.getpid() else os.getpid(), signal.SIGKILL)


def _kill_group(process: SpawnProcess) -> None:
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has not made its group yet
        process.kill()
