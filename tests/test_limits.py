from __future__ import annotations

import time

import pytest

from prmbench import limits


@pytest.mark.parametrize(
    ("work", "ending"),
    [
        ("sum(given)", True),
        ("raise ValueError(given)", True),
        ("import sys\nsys.exit(3)", True),
        ("while True:\n    pass", False),
        ("9 ** 9 ** 9", False),
        ("list(bytes(1 << 28) for _ in given for _ in range(9))", False),
    ],
)
def test_what_ends_and_what_does_not(work, ending, monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 2.0)
    start = time.monotonic()
    assert limits.ends(work, [1, 2]) is ending
    assert time.monotonic() - start < 10
