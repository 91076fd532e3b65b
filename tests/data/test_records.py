"""Hostile files: every one ends in records or in one sentence, in bounded time and memory."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import gzip
import json
import os
import random
import resource
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support

from prmbench.data.completions import load_completions
from prmbench.data.problems import load_problems
from prmbench.data.records import MAX_RECORD, read_json, read_lines, read_records, shown
from prmbench.data.rollouts import read_rollouts
from prmbench.data.solutions import load_solutions
from prmbench.data.traces import load_traces
from prmbench.errors import UserError
from prmbench.training.data.chats import load_chats

TRACE = {"id": "a", "problem": "1 + 1?", "steps": ["It is 2.", "So 2."], "label": -1, "generator": "g"}
PROBLEM = {"id": "a", "problem": "1 + 1?", "answer": "2"}
SOLUTION = {"id": "a", "problem": "1 + 1?", "solution": "It is 2.\n\nSo 2."}
ROLLOUT = {**PROBLEM, "sample": 0, "completion": "2", "ids": [1, 2], "finish_reason": "stop", "verdict": "correct"}
SAMPLES = {**PROBLEM, "samples": [{"text": "2"}, {"text": "3"}]}
CHAT = {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]}

LOADERS = [
    (load_traces, TRACE),
    (load_problems, PROBLEM),
    (load_solutions, SOLUTION),
    (read_rollouts, ROLLOUT),
    (lambda path: load_completions([path]), ROLLOUT),
    (lambda path: load_completions([path]), SAMPLES),
    (load_chats, CHAT),
]


@contextlib.contextmanager
def bounded(seconds=20, mebibytes=700):
    """Fail when what is inside takes longer, or as much more memory as the process has now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    start = time.monotonic()
    resource.setrlimit(resource.RLIMIT_AS, (now + (mebibytes << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - start < seconds


def refusal(load, path):
    """The one sentence that a loader refuses a file with."""
    with pytest.raises(UserError) as raised:
        load(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1_000
    return str(raised.value)


def taken_or_refused(load, path):
    """What is hostile may load, or is refused in one sentence."""
    try:
        load(path)
    except UserError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
    assert len(said) < 1_000


@pytest.mark.parametrize(("load", "record"), LOADERS)
def test_the_records_themselves_load(tmp_path, load, record):
    (tmp_path / "x.jsonl").write_text(json.dumps(record) + "\n")
    assert load(tmp_path / "x.jsonl")


@pytest.mark.parametrize("load", [load for load, _ in LOADERS])
def test_what_is_no_regular_file(tmp_path, load):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "device.jsonl").symlink_to("/dev/zero")
    (tmp_path / "circle.jsonl").symlink_to(tmp_path / "circle.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for name, message in {
        "pipe.jsonl": "pipe.jsonl: is a pipe or a device",
        "device.jsonl": "device.jsonl: is a pipe or a device",
        "circle.jsonl": "circle.jsonl",
        "none.jsonl": "none.jsonl: no such file",
        "null\0.jsonl": "no such file",
        "l" * 300 + ".jsonl": "cannot be read (File name too long)",
        "folder.jsonl": "folder",
        "pipe.jsonl/below.jsonl": "no such file",
    }.items():
        with bounded():
            assert message in refusal(load, tmp_path / name)


def test_a_pipe_in_a_folder_of_data_and_in_place_of_settings(tmp_path):
    support.write_traces(tmp_path / "a.jsonl", 2)
    os.mkfifo(tmp_path / "b.jsonl")
    assert "b.jsonl: is a pipe" in refusal(load_traces, tmp_path)
    os.mkfifo(tmp_path / "run.json")
    assert "run.json: is a pipe" in refusal(read_json, tmp_path / "run.json")


def members(content, times):
    """A gzip archive of the content that many times, made without writing it out."""
    return gzip.compress(content) * times


@pytest.mark.parametrize(
    "content", [b"\0", b"\n", b" ", json.dumps(CHAT).encode() + b"\n"], ids=["zeros", "lines", "blank", "chats"]
)
def test_three_gigabytes_in_a_small_archive(tmp_path, content):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(members(content * ((1 << 26) // len(content)), 48))
    assert path.stat().st_size < 20e6
    with bounded():
        assert "x.jsonl.gz" in refusal(load_chats, path)


def test_an_archive_of_real_text_is_no_bomb(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    rng = random.Random(0)
    rows = [{**TRACE, "id": str(i), "problem": "why? " * 200 + str(rng.random())} for i in range(20_000)]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert len(load_traces(path)) == 20_000


def test_lines_and_files_that_are_too_long(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(TRACE) + "\n")
    with path.open("ab") as file:
        file.truncate(3 << 30)  # sparse: three gigabytes of zeros
    with bounded():
        assert f"line 2: is longer than {MAX_RECORD >> 20} MiB" in refusal(load_traces, path)
    path.rename(tmp_path / "x.json")
    with bounded(mebibytes=1_500):
        assert "is larger than 1,024 MiB" in refusal(load_traces, tmp_path / "x.json")
        assert "is larger than 64 MiB" in refusal(read_json, tmp_path / "x.json")


def test_a_record_far_larger_than_most_is_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({**TRACE, "steps": ["x" * 1_000_000] * 8}) + "\n")
    assert len(load_traces(path)[0].steps) == 8


def test_parquet_that_expands_or_never_ends(tmp_path):
    path = tmp_path / "x.parquet"
    with pq.ParquetWriter(path, pa.schema([("id", pa.string()), ("messages", pa.null())])) as writer:
        for _ in range(60):
            writer.write_table(pa.table({"id": pa.array(["a"] * 1_000_000), "messages": pa.nulls(1_000_000)}))
    assert path.stat().st_size < 1e6
    with bounded(mebibytes=1_500):
        assert "expands to more than 100 times its size" in refusal(load_chats, path)
    row = {"messages": [{"role": "user", "content": "x" * 3_000_000}, {"role": "assistant", "content": "2"}]}
    pq.write_table(pa.Table.from_pylist([row] * 50), path, compression="zstd")
    with bounded(mebibytes=1_500):
        assert "expands to more than 100 times its size" in refusal(load_chats, path)


WRONG = [
    float("nan"),
    float("inf"),
    None,
    "",
    " \n",
    b"2",
    datetime.date(2024, 1, 1),
    datetime.datetime(2024, 1, 1),
    datetime.timedelta(days=3),
    decimal.Decimal("2.50"),
    True,
    {"a": 1},
    [[1], [2]],
]


@pytest.mark.parametrize("value", WRONG, ids=str)
@pytest.mark.parametrize("field", ["answer", "id"])
def test_gold_answers_that_are_none(tmp_path, field, value):
    pq.write_table(pa.Table.from_pylist([{**PROBLEM, field: value}]), tmp_path / "x.parquet")
    assert f"x.parquet, row 0: field '{field}' is" in refusal(load_problems, tmp_path / "x.parquet")


@pytest.mark.parametrize("value", WRONG, ids=str)
@pytest.mark.parametrize(("load", "record"), LOADERS)
def test_any_field_of_any_type(tmp_path, load, record, value):
    for field in record:
        changed = {**record, field: value}
        if field in ("generator", "id") and value is None:
            continue  # may be missing
        pq.write_table(pa.Table.from_pylist([changed]), tmp_path / "x.parquet")
        taken_or_refused(load, tmp_path / "x.parquet")


def test_dates_beyond_what_python_has(tmp_path):
    times = pa.array([2**60], type=pa.timestamp("us", tz="No/Where"))
    pq.write_table(pa.table({"id": times}), tmp_path / "x.parquet")
    assert "cannot be read as parquet" in refusal(load_problems, tmp_path / "x.parquet")


HOSTILE = [
    "[" * 900 + "]" * 900,
    "[" * 100_000,
    '{"a":' * 900 + "1" + "}" * 900,
    "1" * 4_000,
    "1" * 5_000,
    "-" + "1" * 4_000,
    "1e400",
    "-1e400",
    "NaN",
    '"\\ud800"',
    '"\\u0000"',
    '"' + "x" * 100_000 + '"',
    "[[]]",
    "{}",
    "0.5",
    "-1",
    "true",
    "null",
]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: value[:12])
@pytest.mark.parametrize(("load", "record"), LOADERS)
def test_any_field_of_any_json(tmp_path, load, record, value):
    """In place of each field, and of each element of a list."""
    whole = json.dumps(record)
    spots = {
        json.dumps(one) for field in record.values() for one in (field, *(field if isinstance(field, list) else ()))
    }
    spots |= {
        json.dumps(one)
        for field in record.values()
        if isinstance(field, list)
        for o in field
        if isinstance(o, dict)
        for one in o.values()
    }
    for name in ("x.jsonl", "x.json"):
        for spot in spots:
            changed = whole.replace(spot, value)
            (tmp_path / name).write_text(f"[{changed}]" if name == "x.json" else changed + "\n")
            with bounded():
                taken_or_refused(load, tmp_path / name)


@pytest.mark.parametrize(("load", "record"), LOADERS)
def test_files_with_bytes_cut_doubled_and_changed(tmp_path, load, record):
    rng = random.Random(0)
    content = (json.dumps(record) + "\n").encode() * 2
    packed = {
        "x.jsonl": content,
        "x.json": b"[" + content[:-1].replace(b"\n", b",") + b"]",
        "x.jsonl.gz": gzip.compress(content),
    }
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "x.parquet")
    packed["x.parquet"] = (tmp_path / "x.parquet").read_bytes()
    for name, whole in packed.items():
        for _ in range(60):
            changed = bytearray(whole)
            at = rng.randrange(len(changed))
            kind = rng.randrange(3)
            if kind == 0:
                del changed[at : at + rng.randrange(1, 40)]
            elif kind == 1:
                changed[at:at] = changed[at : at + rng.randrange(1, 40)]
            else:
                changed[at] = rng.randrange(256)
            (tmp_path / name).write_bytes(changed)
            taken_or_refused(load, tmp_path / name)


def test_lines_cut_short_by_a_kill(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n{"a": 3}')
    assert [value["a"] for _, value in read_lines(path)] == [1, 2, 3]
    assert [value["a"] for _, value in read_lines(path, cut=True)] == [1, 2]
    path.write_text('{"a": 1}\n{"a":')
    assert [place for place, _ in read_lines(path, cut=True)] == [f"{path}, line 1"]


def test_records_come_one_at_a_time(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\nbroken')
    records = read_records(tmp_path / "x.jsonl")
    assert next(records)[1] == {"a": 1}
    with pytest.raises(UserError, match="line 2, column 1: broken JSON"):
        next(records)


@pytest.mark.parametrize("load", [load_traces, load_problems, lambda *of: load_completions([of[0]], of[1])])
def test_limits(tmp_path, load):
    with pytest.raises(UserError, match="`limit=0`: expected 1 or more"):
        load(tmp_path / "x.jsonl", *([None] if load is load_traces else []), 0)


def test_values_are_shown_whatever_they_are():
    deep = []
    for _ in range(5_000):
        deep = [deep]
    assert shown(deep) == "a list"
    assert shown({(1, 2): 3}) == "a dict"
    assert shown(10**5_000) == "a int"
    assert shown(decimal.Decimal("2.5")) == '"2.5"'
    assert shown("x" * 100) == "a str"
