"""What others' files ask to be computed may never end. It is tried in a process of its own, with limits on time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SECONDS, MEBIBYTES = 10.0, 1024
"""The most that a trial may take."""

_TOO_LARGE = 77
_FRAME = """
import contextlib, json, resource, sys
with contextlib.suppress(OSError, ValueError):
    resource.setrlimit(resource.RLIMIT_AS, ({mebibytes} << 20,) * 2)
given = json.load(sys.stdin)
try:
{work}
except MemoryError:
    sys.exit({too_large})
except Exception:
    pass
"""


def ends(work: str, given: Any) -> bool:
    """Say whether some Python code ends within the limits. It runs in a fresh interpreter, and what it prints is dropped.

    Args:
        work: The code, which finds its input in ``given``. An exception ends it as well as its last line.
        given: Its input, which JSON can hold.

    Returns:
        False where it takes more than `SECONDS` or more than `MEBIBYTES`.
    """
    indented = "".join(f"    {line}\n" for line in work.strip().splitlines())
    code = _FRAME.format(mebibytes=MEBIBYTES, work=indented, too_large=_TOO_LARGE)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code],
            input=json.dumps(given).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode not in (_TOO_LARGE, -9, -11)
