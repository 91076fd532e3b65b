from __future__ import annotations

import json

import pytest

from prmbench.errors import UserError
from prmbench.studies import work
from prmbench.studies.lab import Lab
from prmbench.studies.runs import StudyRun
from prmbench.studies.shared_rows import give_rows, read_rows, rows_file, take_rows
from prmbench.studies.world import MiniatureWorld

RUNS = [StudyRun("credit", "ipvrm"), StudyRun("policy", "grpo")]


def made(run, seed, value):
    """Leave a run's figures where it is looked for."""
    place = run.place(Lab(seed).folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"name": run.name, "seed": seed, "value": value}) + "\n")
    return place


def test_another_machine_takes_what_was_given(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "_labs", {})  # those of other tests look elsewhere
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    made(RUNS[0], 0, 1.5)
    made(RUNS[1], 0, 2.5)
    made(RUNS[0], 1, 3.5)
    assert give_rows(tmp_path / "rows", RUNS, range(3)) == 3
    assert give_rows(tmp_path / "rows", RUNS, range(3)) == 0
    before = rows_file(tmp_path / "rows", 0).read_bytes()
    # Another machine has one of them already, with its own figures, which stay.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    own = made(RUNS[0], 0, 9.0)
    assert take_rows(tmp_path / "rows", RUNS, range(3)) == 2
    assert json.loads(own.read_text())["value"] == 9.0
    assert json.loads(RUNS[1].place(Lab(0).folder).read_text())["value"] == 2.5
    # A world with the folder makes nothing again, and adds what is new.
    made(RUNS[1], 1, 4.5)
    found = MiniatureWorld(tmp_path / "rows").perform(RUNS, [0, 1])
    assert [row["value"] for row in found[RUNS[1]]] == [2.5, 4.5]
    assert len(read_rows(tmp_path / "rows", 1)) == 2
    assert rows_file(tmp_path / "rows", 0).read_bytes() == before


@pytest.mark.parametrize("content", [b"not gzipped", b"\x1f\x8b\x08\x00"])
def test_what_is_no_file_of_rows_is_one_sentence(tmp_path, content):
    (tmp_path / "seed-0.jsonl.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"seed-0.jsonl.gz: is no file of rows .* take it out of the folder"):
        read_rows(tmp_path, 0)
