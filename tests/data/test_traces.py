from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support

import prmbench.data.traces as module
from prmbench.data.traces import data_hash, load_traces
from prmbench.errors import UserError

GOOD = {"id": "a", "problem": "1 + 1?", "steps": ["It is 2.", "So 2."], "label": -1}


def line(**changes):
    return json.dumps({**GOOD, **changes}) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", "", "x.jsonl: the file holds no records"),
        ("x.jsonl", "\n \n", "x.jsonl: the file holds no records"),
        ("x.json", "[]", "x.json: the file holds no records"),
        ("x.json", "", "x.json: the file holds no records"),
        ("x.jsonl", line() + '{"id": "b", \n', "x.jsonl, line 2, column 13: broken JSON"),
        ("x.json", '[{"id": "a"},\n {oops}]', "x.json, line 2, column 3: broken JSON"),
        ("x.json", line() + line(id="b"), "name the file .jsonl"),
        ("x.json", '{"id": 1}', "x.json: holds a JSON dict; expected a list"),
        ("x.jsonl", "[1]\n", "x.jsonl, line 1: is a JSON list; expected an object"),
        ("x.jsonl", line(steps=[]), "x.jsonl, line 1: field 'steps' is empty"),
        ("x.jsonl", line(steps="a b"), "field 'steps' is \"a b\"; expected a list"),
        ("x.jsonl", line(steps=["fine", 3]), r"field 'steps\[1\]' is 3; expected a string"),
        ("x.jsonl", line(steps=["fine", None]), r"field 'steps\[1\]' is null; expected a string"),
        ("x.jsonl", line() + "\n" + line(id="b", label=2), "line 3: field 'label' is 2; expected .* 0 to 1, or -1"),
        ("x.jsonl", line(label=-2), "field 'label' is -2"),
        ("x.jsonl", line(label=True), "field 'label' is true"),
        ("x.jsonl", line(label="1"), "field 'label' is \"1\""),
        ("x.jsonl", line(label=0.0), "field 'label' is 0.0"),
        ("x.jsonl", line(problem=None), "field 'problem' is null"),
        ("x.jsonl", line(id=True), "field 'id' is true"),
        ("x.jsonl", line(generator=7), "field 'generator' is 7"),
        ("x.jsonl", line() + line(), "line 2: id 'a' was already used at .*line 1"),
        (
            "x.jsonl",
            json.dumps({"id": "a", "problem": "p", "step": ["s"], "label": -1}),
            r"'steps' is missing \(did you mean 'step'",
        ),
        ("x.jsonl", line(steps=["\ud800"]), r"field 'steps\[0\]' has half of a surrogate pair"),
        ("x.txt", line(), "unknown kind of data file"),
        ("x.jsonl.gz", line(), "cannot be read"),
        ("x.parquet", line(), "cannot be read as parquet"),
        ("x.jsonl", f'{{"id": {"1" * 5000}}}\n', "line 1: not readable as JSON .*4300 digits"),
        ("x.jsonl", "[" * 100_000, "line 1: not readable as JSON .*recursion"),
        ("x.json", "[" * 100_000, "not readable as JSON .*recursion"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        load_traces(path)
    assert name in str(raised.value)


def test_archive_whose_data_is_broken(tmp_path):
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"")[:10] + b"a" * 30)
    with pytest.raises(UserError, match="cannot be read .*decompressing"):
        load_traces(tmp_path / "x.jsonl.gz")


def test_not_utf8(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(UserError, match="not UTF-8 at byte 8"):
        load_traces(tmp_path / "x.jsonl")


def test_missing_path_names_the_nearest(tmp_path):
    support.write_traces(tmp_path / "gsm8k.jsonl", 2)
    with pytest.raises(UserError, match=r"no such file \(did you mean 'gsm8k.jsonl'"):
        load_traces(tmp_path / "gsm8k.json")
    with pytest.raises(UserError, match=r"no subset 'gsmk'.*did you mean 'gsm8k'"):
        load_traces(tmp_path, ["gsmk"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data file"):
        load_traces(tmp_path / "empty")


def test_two_files_of_one_subset(tmp_path):
    support.write_traces(tmp_path / "a.jsonl", 2)
    (tmp_path / "a.json").write_text(json.dumps(support.make_traces(2)))
    with pytest.raises(UserError, match="a.json and a.jsonl are both the subset 'a'"):
        load_traces(tmp_path)


def test_every_format_gives_the_same_traces(tmp_path):
    rows = support.make_traces(6)
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / "a.jsonl").write_text("\ufeff" + text.replace("\n", "\r\n"), encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    loaded = load_traces(tmp_path)
    assert [t.subset for t in loaded] == [s for s in "abcd" for _ in range(6)]
    hashes = {data_hash(t.digest() for t in loaded if t.subset == s) for s in "abcd"}
    assert len(hashes) == 1


def test_a_blank_step_is_a_step(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(line(steps=["a", "", " \n"], label=2), encoding="utf-8")
    assert load_traces(path)[0].steps == ("a", "", " \n")


def test_line_separators_inside_strings_do_not_break_a_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        json.dumps({**GOOD, "steps": ["a\u2028b\u0085c\x0cd"]}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    assert load_traces(path)[0].steps == ("a\u2028b\u0085c\x0cd",)


def test_integer_ids_become_strings_and_missing_generators_are_unknown(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(line(id=7), encoding="utf-8")
    assert (load_traces(path)[0].id, load_traces(path)[0].generator) == ("7", "unknown")


def test_hash_sees_text_and_label_but_not_order_or_generator(tmp_path):
    rows = support.make_traces(5)

    def hashed(changed):
        (tmp_path / "x.json").write_text(json.dumps(changed), encoding="utf-8")
        return data_hash(t.digest() for t in load_traces(tmp_path / "x.json"))

    base = hashed(rows)
    assert hashed(rows[::-1]) == base
    assert hashed([{**r, "generator": "other"} for r in rows]) == base
    assert hashed([{**rows[0], "label": 0 if rows[0]["label"] < 0 else -1}, *rows[1:]]) != base
    assert hashed([{**rows[0], "problem": "other?"}, *rows[1:]]) != base
    assert hashed([{**rows[0], "steps": [*rows[0]["steps"][:-1], "changed"]}, *rows[1:]]) != base


def test_limit_is_a_nested_sample_in_file_order(tmp_path):
    path = support.write_traces(tmp_path / "x.jsonl", 40)
    everything = [t.id for t in load_traces(path)]
    ten, twenty = ([t.id for t in load_traces(path, limit=n)] for n in (10, 20))
    assert len(ten) == 10
    assert set(ten) < set(twenty)
    assert ten == [i for i in everything if i in ten]
    assert ten != everything[:10]


def test_real_processbench(processbench):
    loaded = load_traces(processbench)
    counts = {}
    for trace in loaded:
        counts.setdefault(trace.subset, []).append(trace.label)
    assert {s: (len(v), sum(k < 0 for k in v)) for s, v in counts.items()} == {
        "gsm8k": (400, 193),
        "math": (1000, 406),
        "olympiadbench": (1000, 339),
        "omnimath": (1000, 241),
    }
    assert list(counts) == ["gsm8k", "math", "olympiadbench", "omnimath"]


def test_environment_names_the_default_folder(tmp_path, monkeypatch):
    (tmp_path / "processbench").mkdir()
    support.write_traces(tmp_path / "processbench" / "math.jsonl", 3)
    monkeypatch.setenv(module.DATA_DIR_VARIABLE, str(tmp_path))
    assert {t.subset for t in load_traces()} == {"math"}


def test_hub_layout_through_the_real_library(tmp_path, monkeypatch):
    """A local folder in the Hub repository's layout stands for the Hub, which tests cannot reach."""
    repository = tmp_path / "ProcessBench"
    repository.mkdir()
    for subset in module.PROCESSBENCH_SUBSETS:
        (repository / f"{subset}.json").write_text(json.dumps(support.make_traces(3)), encoding="utf-8")
    splits = "\n".join(f"  - split: {s}\n    path: {s}.json" for s in module.PROCESSBENCH_SUBSETS)
    (repository / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}\n---\n")
    monkeypatch.delenv(module.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "PROCESSBENCH_HUB", str(repository))
    assert [t.subset for t in load_traces()] == [s for s in module.PROCESSBENCH_SUBSETS for _ in range(3)]


def test_unreachable_hub_is_one_sentence(monkeypatch):
    monkeypatch.delenv(module.DATA_DIR_VARIABLE, raising=False)
    with pytest.raises(UserError, match=r"Qwen/ProcessBench, split gsm8k: cannot be loaded.*`data=`") as raised:
        load_traces()
    assert "\n" not in str(raised.value)
