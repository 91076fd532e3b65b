from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmbench.benchmarks.processbench.benchmark import PROCESSBENCH
from prmbench.benchmarks.processbench.schema import TraceItem
from prmbench.errors import UserError
from prmbench.results.schema import Entry, read_entry
from prmbench.results.store import RunFolder, write_atomically

parse_item, read_items = PROCESSBENCH.parse, PROCESSBENCH.read_items


def item(identity="a", subset="s", value=0.1):
    return TraceItem(subset, identity, "g", -1, "d", np.array([2, 1]), sums=np.array([value, -1e-17]))


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=5))
def test_numbers_survive_the_round_trip_exactly(values):
    before = TraceItem("s", "é\u2028", "g", 0, "d", np.ones(len(values), dtype=np.int64), sums=np.array(values))
    after = parse_item("here", json.loads(before.line()))
    assert after.sums.tobytes() == before.sums.tobytes()
    assert (after.key, after.label, after.generator) == (before.key, before.label, before.generator)
    assert before.line().count("\n") == 1


def test_items_come_back(tmp_path):
    with RunFolder(tmp_path / "run", {"a": 1}, parse_item) as folder:
        folder.append([item("a"), item("b")])
    with RunFolder(tmp_path / "run", {"a": 1}, parse_item) as folder:
        assert set(folder.completed()) == {("s", "a"), ("s", "b")}


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_line_cut_by_a_kill_is_dropped_and_the_next_one_whole(tmp_path, cut):
    path = tmp_path / "run" / "items.jsonl"
    with RunFolder(tmp_path / "run", {}, parse_item) as folder:
        folder.append([item("a"), item("b")])
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    with RunFolder(tmp_path / "run", {}, parse_item) as folder:
        assert set(folder.completed()) == {("s", "a")}
        folder.append([item("c")])
        assert set(folder.completed()) == {("s", "a"), ("s", "c")}


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    with RunFolder(tmp_path / "run", {}, parse_item) as folder:
        folder.append([item("a")])
        (tmp_path / "run" / "items.jsonl").write_text("{oops\n" + item("b").line())
        with pytest.raises(UserError, match=r"items.jsonl, line 1, column 2: broken JSON"):
            folder.completed()


def test_other_settings_are_refused_and_named(tmp_path):
    with RunFolder(tmp_path / "run", {"subject": {"beta": 1.0, "kind": "endo"}}, parse_item):
        pass
    with (
        pytest.raises(UserError, match=r"other settings \(subject.beta: 1.0 there, 2.0 now\)"),
        RunFolder(tmp_path / "run", {"subject": {"beta": 2.0, "kind": "endo"}}, parse_item),
    ):
        pass


def test_a_refused_run_leaves_no_lock(tmp_path):
    with RunFolder(tmp_path / "run", {"a": 1}, parse_item):
        pass
    with pytest.raises(UserError) as kept, RunFolder(tmp_path / "run", {"a": 2}, parse_item):
        pass
    with RunFolder(tmp_path / "run", {"a": 1}, parse_item):
        assert kept.value  # still referenced, as in a notebook
    assert not (tmp_path / "run" / ".lock.holder").exists()


def test_a_full_disk_at_the_end_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_atomically(tmp_path / "no" / "entry.json", "x")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "items.jsonl").write_text("precious\n")
    with pytest.raises(UserError, match="holds items but no run.json"), RunFolder(tmp_path, {}, parse_item):
        pass
    assert (tmp_path / "items.jsonl").read_text() == "precious\n"


HOLD = """
import sys, time
from pathlib import Path
from prmbench.benchmarks.processbench.benchmark import PROCESSBENCH
parse_item = PROCESSBENCH.parse
from prmbench.results.store import RunFolder
with RunFolder(Path(sys.argv[1]), {}, parse_item):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_run_at_a_time_and_a_dead_one_does_not_block(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=rf"process {holder.pid} on .* is writing here"),
            RunFolder(tmp_path / "run", {}, parse_item),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with RunFolder(tmp_path / "run", {}, parse_item) as folder:
        folder.append([item()])


def test_a_full_disk_loses_nothing(tmp_path):
    """/dev/full behaves as a full disk does."""
    with RunFolder(tmp_path / "run", {}, parse_item) as folder:
        folder.append([item("a")])
    kept = (tmp_path / "run" / "items.jsonl").read_bytes()
    with RunFolder(tmp_path / "run", {}, parse_item) as folder:
        folder._items = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        with pytest.raises(UserError, match="No space left on device.*make room and run the same command again"):
            folder.append([item("b")])
    assert (tmp_path / "run" / "items.jsonl").read_bytes() == kept


def test_finish_merges_parts_in_order(tmp_path):
    with (
        RunFolder(tmp_path / "run", {}, parse_item) as first,
        RunFolder(tmp_path / "run", {}, parse_item, rank=1) as second,
    ):
        first.append([item("b")])
        second.append([item("a")])
        found = first.completed()
        described = first.finish([found["s", "a"], found["s", "b"]])
    assert [p.name for p in (tmp_path / "run").glob("items*")] == ["items.jsonl"]
    assert [i.id for i in read_items(tmp_path / "run" / "items.jsonl")] == ["a", "b"]
    assert described.n == 2


def test_write_atomically_leaves_no_temporary_file(tmp_path):
    write_atomically(tmp_path / "x", "1")
    write_atomically(tmp_path / "x", "2")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["2"]


def test_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), RunFolder(tmp_path / "file" / "run", {}, parse_item):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 5}, "field 'label' is 5"),
        ({"n_tokens": [1]}, "must be lists of one length"),
        ({"sums": [1.0, float("nan")]}, "item 'a' has a NaN score at step 1"),
        ({"sums": [1.0, "2"]}, "must hold numbers"),
        ({"n_tokens": [1, -1]}, "whole numbers"),
        ({"scores": [1.0, 2.0]}, "expected one of 'sums', 'scores' and 'votes'"),
        ({"id": 3}, "field 'id' is 3"),
    ],
)
def test_item_mistakes_are_named(tmp_path, change, message):
    path = tmp_path / "items.jsonl"
    path.write_text(item("z").line() + json.dumps({**json.loads(item().line()), **change}) + "\n")
    with pytest.raises(UserError, match=message) as raised:
        read_items(path)
    assert "items.jsonl, line 2" in str(raised.value)


def test_the_same_item_twice_and_items_of_two_sorts(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text(item().line() * 2)
    with pytest.raises(UserError, match="line 2: item 'a' of s is there twice"):
        read_items(path)
    other = json.loads(item("b").line())
    other["scores"] = other.pop("sums")
    path.write_text(item().line() + json.dumps(other) + "\n")
    with pytest.raises(UserError, match="items of two runs"):
        read_items(path)


def look(path):
    with RunFolder(path, {}, parse_item) as folder:
        folder.completed()


@pytest.mark.parametrize("name", ["run.json", "items.jsonl", "items.rank1.jsonl", ".lock.holder", "entry.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_one_sentence(tmp_path, name, kind):
    with RunFolder(tmp_path / "run", {}, parse_item) as folder:
        folder.append([item("a")])
    path = tmp_path / "run" / name
    path.unlink(missing_ok=True)
    {"pipe": os.mkfifo, "device": lambda at: at.symlink_to("/dev/zero"), "folder": lambda at: at.mkdir()}[kind](path)
    with pytest.raises(UserError, match=f"{name}: is a (folder|pipe or a device)"):
        read_entry(path, Entry) if name == "entry.json" else look(tmp_path / "run")
    if path.exists():  # the end of a run deletes what says who holds its folder
        with pytest.raises(UserError, match=f"{name}: is a folder, a pipe or a device; name another file"):
            write_atomically(path, "x")
        assert not path.is_file()


def test_a_holder_that_is_no_text_does_not_stop_the_refusal(tmp_path):
    with RunFolder(tmp_path / "run", {}, parse_item):
        (tmp_path / "run" / ".lock.holder").write_bytes(b"\xff\x1b[31m")
        with (
            pytest.raises(UserError, match="another process is writing here"),
            RunFolder(tmp_path / "run", {}, parse_item),
        ):
            pass


def test_settings_that_are_no_settings(tmp_path):
    for content in ("[" * 100_000, "1" * 5_000, "{", "[]", "null", '"x"'):
        with RunFolder(tmp_path / "run", {"a": 1}, parse_item):
            pass
        (tmp_path / "run" / "run.json").write_text(content)
        with (
            pytest.raises(UserError, match="pass another `output=`, or delete the folder"),
            RunFolder(tmp_path / "run", {"a": 1}, parse_item),
        ):
            pass
        (tmp_path / "run" / "run.json").unlink()
