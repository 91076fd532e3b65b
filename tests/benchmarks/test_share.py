"""Processes that share the work of a benchmark leave what one process leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import support

DRIVER = Path(__file__).resolve().parent / "share_driver.py"


@pytest.mark.slow
def test_two_processes_leave_the_items_of_one(tiny, tiny_tuned, tmp_path):
    support.write_traces(tmp_path / "made.jsonl", 12)
    support.write_candidates(tmp_path / "completions.jsonl")
    problems = [{"id": f"p{i}", "problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(5)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(one) + "\n" for one in problems))
    alone = [sys.executable, DRIVER, tiny, tiny_tuned, tmp_path / "one"]
    subprocess.run(list(map(str, alone)), check=True, capture_output=True, timeout=400)
    done = support.launch(DRIVER, tiny, tiny_tuned, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    for name in ("processbench", "best-of-n", "calibration", "policy", "candidates", "td-probe"):
        one, two = (
            [json.loads(line) for line in (tmp_path / part / name / "items.jsonl").read_text().splitlines()]
            for part in ("one", "two")
        )
        assert [flat(item) for item in one] == [pytest.approx(flat(item), abs=1e-4) for item in two], name
        run = json.loads((tmp_path / "two" / name / "entry.json").read_text())["provenance"]["run"]
        assert run["processes"] == 2


def flat(value, prefix=""):
    """A JSON object as one dictionary of numbers and texts."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{prefix}.{key}").items()}
    if isinstance(value, list):
        return {k: v for i, inner in enumerate(value) for k, v in flat(inner, f"{prefix}.{i}").items()}
    return {prefix: value}
