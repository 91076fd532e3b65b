"""Worker processes: they end with the process that started them, whatever ends it, and when they are asked to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prmbench.errors import ArgumentError, UserError
from prmbench.workers import serve, start_worker, stop_workers

# What workers run: functions of this module, which they import by name.


def answer(link):
    def reply(request):
        if request == "pid":
            return os.getpid()
        if request == "environment":
            return os.environ.get("WORKER_COLOUR")
        if request == "argument":
            raise ArgumentError("limit", 0, "too small")
        if request == "value":
            raise ValueError("no such thing")
        return request["missing"]

    serve(link, reply)


def busy(link):
    """Python code that never listens, and a child of its own."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    link.send((os.getpid(), child.pid))
    while True:
        pass


PARENT = """
import sys, threading, time
sys.path.insert(0, {tests!r})
from prmbench.workers import start_worker
from test_workers import {work}
if __name__ == "__main__":
    found = []
    def start():
        found.append(start_worker({work}))
    if {thread}:
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    else:
        start()
    if "{work}" == "answer":
        found[0].link.send("pid")
    print(found[0].reply(), flush=True)
    time.sleep(600)
"""


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pids, seconds=10):
    deadline = time.monotonic() + seconds
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if not gone(pid)]
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("work", ["answer", "busy"])
@pytest.mark.parametrize("thread", [False, True])
def test_a_worker_ends_with_its_parent(how, work, thread, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(tests=str(Path(__file__).parent), work=work, thread=thread))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        found = eval(parent.stdout.readline())
        pids = [found] if work == "answer" else list(found)
        time.sleep(1)  # a thread that started it and has ended takes nothing with it
        assert not any(map(gone, pids))
        parent.send_signal(how)
    wait_until_gone(pids[:1])
    for pid in pids[1:]:  # its own child is its own affair when the kernel has killed it
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_worker_whose_parent_is_gone_before_it_begins(tmp_path):
    code = (
        "import os, sys; from prmbench.workers import end_with_parent\n"
        f"end_with_parent({os.getpid()}); print('child'); sys.stdout.flush()\n"
        "end_with_parent(1); print('orphan')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("child\n", 1)


def test_requests_and_errors():
    worker = start_worker(answer, environment={"WORKER_COLOUR": "blue"})
    try:
        replies = []
        for request in ("pid", "environment", "argument", "value", {}):
            worker.link.send(request)
            replies.append(worker.reply())
    finally:
        stop_workers([worker], patience=20)
    assert replies[:2] == [worker.process.pid, "blue"]
    assert [type(reply) for reply in replies[2:]] == [UserError, ValueError, RuntimeError]
    assert [str(reply) for reply in replies[2:4]] == ["`limit=0`: too small", "no such thing"]
    assert "KeyError: 'missing'" in str(replies[4])
    assert worker.process.exitcode == 0  # it ended by itself once its link was closed


def test_workers_are_killed_with_what_they_started_and_waited_for():
    workers = [start_worker(busy) for _ in range(2)]
    pids = [pid for worker in workers for pid in worker.reply()]
    assert not any(map(gone, pids))
    stop_workers(workers)
    assert [worker.process.exitcode for worker in workers] == [-signal.SIGKILL] * 2
    wait_until_gone(pids, seconds=2)
    stop_workers(workers)  # nothing is left to be stopped


def test_a_worker_that_was_killed_says_so():
    worker = start_worker(answer)
    os.kill(worker.process.pid, signal.SIGKILL)
    assert str(worker.reply()) == "process ended (exit code -9)"
    stop_workers([worker])
