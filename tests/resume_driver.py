"""Runs `prmbench` commands as real processes, cheaply: imports everything once, then forks one child for each.

Reads one JSON object a line from stdin, ``{"arguments": [...], "log": FILE}``, and answers with ``pid``, ``seconds`` and ``code``:
the exit code, negative for a signal, null of a child that is left stopped. An order may also have:

- ``env``: environment variables
- ``kill_after``: seconds, then SIGKILL
- ``stop_at``: lines; SIGSTOP once the file ``items`` has as many
- ``largest_file``: bytes; writes beyond them fail, as they do on a full disk
- ``learn``: true; what the child imported is imported here, so that later children start with it
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from prmbench.cli import app as cli


def child(order: dict[str, Any]) -> None:
    """Run a command in this process, which ends with it."""
    out = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.environ.update(order.get("env", {}))
    if "largest_file" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"], order["largest_file"]))
    sys.argv = ["prmbench", *order["arguments"]]
    code = 1
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if "learn" in order:
            modules(order).write_text("\n".join(sys.modules))
        os._exit(code)


def modules(order: dict[str, Any]) -> Path:
    """Where a child leaves the names of what it imported."""
    return Path(f"{order['log']}.modules")


def wait(pid: int, order: dict[str, Any], start: float) -> int | None:
    """Wait for a child, with what is to be done to it. Its exit code, negative for a signal."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if "kill_after" in order and time.monotonic() - start >= order["kill_after"]:
            os.kill(pid, signal.SIGKILL)
            del order["kill_after"]
        if "stop_at" in order:
            items = Path(order["items"])
            if items.exists() and items.read_bytes().count(b"\n") >= order["stop_at"]:
                os.kill(pid, signal.SIGSTOP)
                return None
        time.sleep(0.001)


def main() -> None:
    """Answer orders until stdin ends."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            child(order)
        code = wait(pid, order, start)
        if "learn" in order:
            for name in modules(order).read_text().split("\n"):
                with contextlib.suppress(Exception):  # names that are made up at run time
                    importlib.import_module(name)
        print(json.dumps({"pid": pid, "code": code, "seconds": time.monotonic() - start}), flush=True)


if __name__ == "__main__":
    main()
