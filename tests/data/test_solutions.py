from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmbench.data.solutions import load_solutions, split_solution
from prmbench.errors import UserError


def test_split_hand_worked():
    text = "\n\n Add.\nThen\n \t\n\n  indent\n\nlast \r\n\r\n\n"
    assert split_solution(text) == ["Add.\nThen", "  indent", "last"]
    assert split_solution("one\nline each") == ["one\nline each"]
    assert split_solution("a\r\n\r\nb") == ["a\r", "b"]


@given(st.lists(st.text("ab ", min_size=1, max_size=5).filter(str.strip), min_size=1, max_size=5))
def test_split_gives_back_what_was_joined(steps):
    joined = "\n\n".join(steps)
    found = split_solution(joined)
    assert [s.strip() for s in found] == [s.strip() for s in steps]
    assert "\n\n".join(found) == joined.strip()


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_both_kinds_of_record(tmp_path):
    file = write(
        tmp_path / "mine.jsonl",
        [
            {"problem": "P?", "steps": ["a", "b\n\nc"], "label": 0},
            {"id": 7, "problem": "P?", "solution": "a\n\nb"},
            {"id": None, "problem": "Q?", "solution": "a", "steps": None},  # as a table's missing values come
        ],
    )
    found = load_solutions(file)
    assert [(one.id, one.steps) for one in found] == [("1", ("a", "b\n\nc")), ("7", ("a", "b")), ("3", ("a",))]
    assert [one.id for one in load_solutions(file, 2)] == ["1", "7"]
    assert found[0].digest() != found[1].digest()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"problem": "P"}, "line 2: has neither steps nor solution; expected one of"),
        ({"problem": "P", "steps": ["a"], "solution": "a"}, "has steps and solution; expected one of"),
        ({"problm": "P", "steps": ["a"]}, "field 'problem' is missing .did you mean 'problm'"),
        ({"problem": "P", "steps": []}, "field 'steps' is empty"),
        ({"problem": "P", "solution": " \n"}, "field 'solution' is blank"),
        ({"problem": 3, "solution": "a"}, "field 'problem' is 3; expected a string"),
        ({"id": "first", "problem": "P", "solution": "a"}, "id 'first' was already used at .*line 1"),
        (["P"], "is a JSON list; expected an object"),
    ],
)
def test_mistakes_are_named(tmp_path, record, message):
    file = write(tmp_path / "mine.jsonl", [{"id": "first", "problem": "P", "solution": "a"}, record])
    with pytest.raises(UserError, match=message):
        load_solutions(file)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="is a folder; expected a file"):
        load_solutions(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load_solutions(tmp_path / "no.jsonl")
