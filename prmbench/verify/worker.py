"""The processes behind `Pool`: a nursery that has math-verify loaded, and the workers that it forks.

The nursery is started as a fresh interpreter (never a fork of the caller, which may hold torch's threads), imports
math-verify once, and forks a ready worker in milliseconds whenever the pool asks; it is single-threaded, so that forking
it is safe. Messages are JSON; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import resource
import signal
import socket
from multiprocessing.connection import Connection
from pathlib import Path

from prmbench.workers import end_with_parent

READY = b"ready"
STARTED = b"started"
RETIRES = b", retires"
"""After an outcome: the worker has grown, and ends, so that the next item finds a small process."""


def nursery(control_fd: int) -> None:
    """Serve fork requests on a Unix socket until its other end closes.

    Each request is one JSON line ``{"seconds": float, "memory_mb": int}`` with the worker's end of its connection
    attached; the reply is the worker's process id as text. When the socket closes, workers that are left are killed.

    Args:
        control_fd: The file descriptor of the socket.
    """
    from prmbench.verify import equality

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it closes the socket
    equality.quieten()
    equality.warm_up()
    gc.collect()
    gc.freeze()
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    control = socket.socket(fileno=control_fd)
    control.sendall(READY)
    alive: set[int] = set()
    while True:
        message, fds, _, _ = socket.recv_fds(control, 4096, 1)
        if not message:
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os._exit(0)
        alive -= {pid for pid in alive if os.waitpid(pid, os.WNOHANG)[0]}
        request = json.loads(message)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                end_with_parent(parent)
                control.close()
                work(Connection(fds[0]), request["seconds"], request["memory_mb"])
                status = 0
            finally:
                os._exit(status)
        alive.add(pid)
        os.close(fds[0])
        control.sendall(str(pid).encode())


def work(link: Connection, seconds: float, memory_mb: int) -> None:
    """Do jobs until the other end of `link` closes.

    A job is the name of a function in `equality.JOBS` and its arguments. For each: `STARTED`, then what the function returned,
    as JSON; null where the memory limit was hit. The parent enforces the time limit; the alarm here only ends a worker
    whose parent is gone.

    Args:
        link: Connection to the pool.
        seconds: Time limit of a job.
        memory_mb: How much the process may grow.
    """
    from prmbench.verify import equality

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    limit = memory_mb * 2**20
    limit_memory(limit)
    at_start = peak_memory()
    while True:
        try:
            job, *arguments = json.loads(link.recv_bytes())
        except EOFError:
            return
        link.send_bytes(STARTED)
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 10)
        before = peak_memory()
        outcome: object = None
        try:
            outcome = equality.JOBS[job](*arguments)
        except MemoryError:
            pass
        except Exception:  # whatever SymPy raises on such input: it could not be shown equal
            outcome = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        after = peak_memory()
        # math-verify swallows MemoryError and says "not equal"; an item that came near the limit is not judged by that.
        if outcome is False and after - before > limit / 4:
            outcome = None
        retires = after - at_start > limit / 8
        link.send_bytes(json.dumps(outcome).encode() + (RETIRES if retires else b""))
        if retires:
            return


def limit_memory(more: int) -> None:
    """Let this process's address space grow so far and no further. This works on Linux; elsewhere there is no such limit.

    Args:
        more: By how many bytes it may grow.
    """
    size = _status("VmSize")
    if size is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = size + more if hard == resource.RLIM_INFINITY else min(size + more, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def peak_memory() -> int:
    """The largest size this process has had, in bytes: of its address space on Linux, else of its resident memory."""
    peak = _status("VmPeak")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if peak is None else peak


def _status(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
