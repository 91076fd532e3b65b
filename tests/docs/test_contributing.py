"""CONTRIBUTING.md points to files that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_named_files_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:prmbench|tests|scripts|docs|training|\.ci)/[\w./*-]*)`", text)
    assert len(named) > 10
    assert not [name for name in named if not list(ROOT.glob(name))]
