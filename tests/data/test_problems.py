from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from prmbench.data.problems import load_problems
from prmbench.data.prompts import PROMPT_TEMPLATES, find_prompt
from prmbench.errors import UserError


def test_every_shared_file_loads(processbench):
    root = Path(os.environ["PRMBENCH_DATA_DIR"])
    counts = {p.stem: len(load_problems(p)) for p in sorted((root / "policy").glob("*.jsonl"))}
    assert counts == {"aime": 90, "amc": 83, "amc23": 40, "math500": 500, "minerva_math": 272, "olympiadbench": 675}
    assert len(load_problems(root / "problems" / "gsm8k_test.jsonl.gz")) == 1319


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "a", "problem": "p"}, "line 1: field 'answer' is missing"),
        ({"id": "a", "problem": "", "answer": "1"}, "field 'problem' is blank"),
        ({"id": "a", "problem": "p", "answer": None}, "field 'answer' is null"),
        ([1], "is a JSON list"),
        (
            {"id": "a", "problem": "\ud800 x", "answer": "1"},
            "field 'problem' has half of a surrogate pair at character 0",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, record, message):
    (tmp_path / "x.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=message):
        load_problems(tmp_path / "x.jsonl")


def test_numbers_become_text_and_ids_are_unique(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"id": 1, "problem": "p", "answer": 142.0}) + "\n")
    assert [(p.id, p.answer) for p in load_problems(tmp_path / "x.jsonl")] == [("1", "142.0")]
    (tmp_path / "x.jsonl").write_text(2 * (json.dumps({"id": 1, "problem": "p", "answer": 1}) + "\n"))
    with pytest.raises(UserError, match="line 2: id '1' was already used"):
        load_problems(tmp_path / "x.jsonl")
    with pytest.raises(UserError, match=r"no such file \(did you mean 'x.jsonl'"):
        load_problems(tmp_path / "x.json")


def test_prompts():
    assert find_prompt("boxed").render("What is {x}?").startswith("What is {x}?\n\n")
    assert all("{problem}" in t.user for t in PROMPT_TEMPLATES.values())
    with pytest.raises(UserError, match=r"'boxd' is not known \(did you mean 'boxed'"):
        find_prompt("boxd")
