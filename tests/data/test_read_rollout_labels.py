"""Labels by rollouts are read as `prmbench label` writes them; what is wrong is named."""

from __future__ import annotations

import json

import pytest

from prmbench.data.rollout_labels import is_labelled, load_rollout_labels
from prmbench.errors import UserError

RECORD = {
    "id": "a",
    "problem": "1 + 1?",
    "answer": "2",
    "steps": ["It is 2.", "So 2."],
    "finished": True,
    "successes": [1, 4],
    "trials": [4, 4],
}


def write(folder, *records):
    folder.mkdir(exist_ok=True)
    (folder / "labels.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return folder


def test_a_run_folder_or_its_file(tmp_path):
    run = write(tmp_path / "run", RECORD, {**RECORD, "id": "b", "finished": False})
    for path in (run, run / "labels.jsonl"):
        assert is_labelled(path)
        first, second = load_rollout_labels([path])
        assert (first.subset, first.id, first.steps) == ("run", "a", ("It is 2.", "So 2."))
        assert (first.successes, first.trials, first.sampled, second.sampled) == ((1, 4), (4, 4), 1, 2)
    assert first.digest() != second.digest()
    assert not is_labelled(tmp_path)
    assert not is_labelled(tmp_path / "none.jsonl")


def test_a_limit_keeps_whole_problems(tmp_path):
    other = {**RECORD, "problem": "2 + 2?", "id": "c"}
    run = write(tmp_path / "run", RECORD, other, {**RECORD, "id": "b"})
    assert [one.id for one in load_rollout_labels([run], limit=1)] == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finished": 1}, "field 'finished' is 1"),
        ({"successes": [1]}, "field 'successes' has 1 numbers, there are 2 steps"),
        ({"successes": [5, 4]}, "field 'successes' has more than 'trials'"),
        ({"trials": [0, 4]}, "field 'trials' is 0"),
        ({"steps": []}, "steps"),
        ({"id": "a"}, "id 'a' is there twice"),
        (
            {"trials": [2, 2], "successes": [1, 1]},
            "has 2 continuations, another one 4; shares of states that stop early",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    run = write(tmp_path / "run", RECORD, {**RECORD, "id": "b", **change})
    with pytest.raises(UserError, match=f"labels.jsonl.* line 2: .*{message}"):
        load_rollout_labels([run])


def test_runs_with_other_numbers_of_continuations_are_apart(tmp_path):
    runs = [
        write(tmp_path / "a", RECORD),
        write(tmp_path / "b", {**RECORD, "trials": [8, 8]}),
    ]
    with pytest.raises(UserError, match="b: has 8 continuations of a state, 'a' has 4; evaluate them apart"):
        load_rollout_labels(runs)


def test_two_runs_of_one_name(tmp_path):
    (tmp_path / "x").mkdir()
    runs = [write(tmp_path / "run", RECORD), write(tmp_path / "x" / "run", RECORD)]
    with pytest.raises(UserError, match="two files are called 'run'"):
        load_rollout_labels(runs)
