"""Step-labelled data sets as they come. The rows here are made up; real ones are read where the data folder is there."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmbench.data.importers.step_formats import FORMATS, MARK
from prmbench.data.importers.steps import import_steps
from prmbench.data.traces import first_error, load_traces, read_traces
from prmbench.errors import UserError

R, W, N, U = "right", "wrong", "neutral", "unknown"
PRMBENCH = {
    "idx": "p_0",
    "classification": "circular",
    "modified_question": "1 + 1?",
    "modified_process": ["1. a", "", "3. c"],
    "error_steps": [2, 3],
    "original_question": "?",
    "original_process": ["1. a"],
}


def completion(text: str, rating: int | None) -> dict[str, Any]:
    return {"text": text, "rating": rating, "flagged": False}


def prm800k_step(*ratings: int | None, chosen: int | None = 0, human: str | None = None) -> dict[str, Any]:
    return {
        "completions": [completion(f"c{i}", r) for i, r in enumerate(ratings)] or None,
        "chosen_completion": chosen,
        "human_completion": None if human is None else completion(human, None),
    }


def prm800k(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"labeler": "x", "question": {"problem": "1 + 1?"}, "label": {"steps": list(steps)}}


SHEPHERD = {
    "input": f"Q? Step 1: a {MARK}\nStep 2: b - c {MARK}\nStep 3: d {MARK}",
    "label": "Q? Step 1: a +\nStep 2: b - c -\nStep 3: d -",
    "task": "GSM8K",
}
DELTA = {
    "id": 5,
    "question": "Q",
    "answer": "4",
    "task_l1": "Math",
    "sections_content": "section1:\nSo, section 7: see below.\n\nsection2:\nsection 9 of the law\n\nsection3: \n\nsection4:\nend",
    "reason_error_section_numbers": [1],
    "reason_unuseful_section_numbers": [3],
}
GOOD: list[tuple[dict[str, Any], str, list[str], list[str]]] = [
    (PRMBENCH, "circular_p_0", ["1. a", "", "3. c"], [R, W, W]),
    ({**PRMBENCH, "error_steps": []}, "circular_p_0", ["1. a", "", "3. c"], [R, R, R]),
    ({**PRMBENCH, "error_steps": [3, 7]}, "circular_p_0", ["1. a", "", "3. c"], [R, R, W]),
    (
        prm800k(prm800k_step(-1, 1, chosen=1), prm800k_step(0), prm800k_step(-1, -1, chosen=None)),
        "0",
        ["c1", "c0", "c0"],
        [R, N, W],
    ),
    (prm800k(prm800k_step(-1, chosen=None, human="mine"), prm800k_step(None)), "0", ["mine", "c0"], [R, U]),
    (prm800k(prm800k_step(1), prm800k_step(chosen=None), prm800k_step(1)), "0", ["c0"], [R]),
    (
        {"id": 7, "problem": "P", "steps": ["a", "b", "c"], "ratings": [1, 0, -1], "label": 2},
        "7",
        ["a", "b", "c"],
        [R, N, W],
    ),
    ({"problem": "P", "steps": ["a", "b"], "ratings": [1, None]}, "0", ["a", "b"], [R, U]),
    (SHEPHERD, "0", ["Step 1: a", "Step 2: b - c", "Step 3: d"], [R, W, W]),
    (
        {"input": f"Q? Step 1: a {MARK}\nand more", "label": "Q? Step 1: a +\nand more"},
        "0",
        ["Step 1: a", "and more"],
        [R, U],
    ),
    (
        {"question": "Q", "model_response_by_step": ["a", "b"], "human_labels": [1, 0], "unique_id": "u"},
        "u",
        ["a", "b"],
        [R, W],
    ),
    ({"question": "Q", "model_response_by_step": '["a", "b"]', "human_labels": "[0, 0]"}, "0", ["a", "b"], [W, W]),
    (DELTA, "5", ["So, section 7: see below.", "section 9 of the law", "", "end"], [W, R, W, U]),
    (
        {
            "question": "Q",
            "section_content": "Section 1 : a\nsection3 of 2\nSECTION 2: b",
            "reason_error_section_numbers": "[2, 2]",
        },
        "0",
        ["a\nsection3 of 2", "b"],
        [R, W],
    ),
    (
        {**DELTA, "reason_error_section_numbers": [], "reason_unuseful_section_numbers": [], "task_l1": None},
        "5",
        ["So, section 7: see below.", "section 9 of the law", "", "end"],
        [R, R, R, R],
    ),
    ({"prompt": "Q", "completions": ["a", "b"], "labels": [True, False]}, "0", ["a", "b"], [R, W]),
    ({"prompt": "Q", "completions": ["a", " "], "labels": [1, 0]}, "0", ["a", " "], [R, W]),
    ({"id": "x", "problem": "P", "steps": ["a", "b"], "labels": ["neutral", None]}, "x", ["a", "b"], [N, U]),
    ({"id": "x", "problem": "P", "steps": ["a", "b"], "labels": [True, False], "label": 1}, "x", ["a", "b"], [R, W]),
    ({"id": "x", "problem": "P", "steps": ["a", "b"], "error_steps": [0, 2]}, "x", ["a", "b"], [W, R]),
]


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(("record", "name", "steps", "labels"), GOOD)
def test_a_record_as_it_comes(tmp_path, record, name, steps, labels):
    (trace,) = load_traces(write(tmp_path / "x.jsonl", record))
    assert (trace.id, list(trace.steps), list(trace.labels)) == (name, steps, labels)
    assert trace.label == next((i for i, one in enumerate(labels) if one == W), -1)
    assert trace.problem in ("1 + 1?", "P", "Q", "Q?")
    assert trace.error_class == record.get("classification", record.get("task_l1"))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {**PRMBENCH, "error_steps": [0]},
            r"field 'error_steps' is \[0\]; expected a list of step numbers, counted from 1",
        ),
        ({**PRMBENCH, "error_steps": [True]}, "counted from 1"),
        ({**PRMBENCH, "error_steps": "2"}, "counted from 1"),
        ({**PRMBENCH, "modified_process": ["a", 3]}, r"field 'modified_process\[1\]' is 3"),
        ({**PRMBENCH, "modified_process": []}, "'modified_process' is empty"),
        ({**PRMBENCH, "classification": None}, "'classification' is null"),
        ({"question": "Q", "label": 3}, "field 'question': is a JSON str; expected an object with problem"),
        (prm800k(prm800k_step(1, chosen=1)), r"'label.steps\[0\].chosen_completion' is 1; expected null, or the index"),
        (prm800k(prm800k_step(2)), "the ratings are .*expected a list of 1, 0, -1 or null"),
        (prm800k(prm800k_step(chosen=None)), "'label.steps' is empty"),
        (
            {"question": {"problem": 3}, "label": prm800k(prm800k_step(1))["label"]},
            "'question.problem' is 3; expected a string",
        ),
        (
            prm800k({**prm800k_step(1), "completions": [completion(3, 1)]}),
            r"'label.steps\[0\]: the text of what was taken' is 3; expected a string",
        ),
        ({"problem": "P", "steps": ["a"], "ratings": [True]}, "the ratings are"),
        (
            {"problem": "P", "steps": ["a"], "ratings": [1, 1]},
            "'ratings' has 2 entries; expected a list of 1, one a step",
        ),
        ({"steps": ["a"], "ratings": [1]}, "field 'problem' is missing; expected a record of rated-steps"),
        ({**SHEPHERD, "label": "Q? Step 1: a +\nStep 2: b"}, "'label' differs from 'input' at step 1"),
        ({**SHEPHERD, "label": SHEPHERD["label"].replace("+", "x")}, "'label' differs from 'input' at step 0"),
        ({"input": "Q? a", "label": "Q? a"}, "no 'Step 1:' before"),
        ({"input": f"Step 1: a {MARK}", "label": "Step 1: a +"}, "no problem before 'Step 1:'"),
        (
            {"question": "Q", "model_response_by_step": "gAAAA", "human_labels": "x"},
            "'model_response_by_step' is .*decrypt the records first",
        ),
        (
            {"question": "Q", "model_response_by_step": ["a"], "human_labels": [-1]},
            "'human_labels' is .*1 .right. and 0",
        ),
        ({**DELTA, "reason_error_section_numbers": [5]}, r"'reason_error_section_numbers' is \[5\]; .* 1 to 4"),
        ({**DELTA, "reason_error_section_numbers": [0]}, "section numbers, 1 to 4"),
        ({**DELTA, "reason_error_section_numbers": ["1"]}, "section numbers, 1 to 4"),
        ({**DELTA, "reason_unuseful_section_numbers": [True]}, "'reason_unuseful_section_numbers' is .*1 to 4"),
        (
            {**DELTA, "reason_error_section_numbers": None},
            "is null; expected a list of section numbers, counted from 1",
        ),
        ({**DELTA, "reason_error_section_numbers": "1, 2"}, "expected a list of section numbers, counted from 1"),
        ({**DELTA, "sections_content": "section1: a\nsection3: b"}, "has section 3 after section 1; expected"),
        ({**DELTA, "sections_content": "Hm.\nsection1: a"}, "does not begin with 'section1:'"),
        ({**DELTA, "sections_content": "a"}, "does not begin with 'section1:'"),
        ({**DELTA, "sections_content": ["a"]}, r"'sections_content' is \[\"a\"\]; expected a string"),
        ({"question": "Q", "reason_error_section_numbers": []}, "field 'sections_content' is missing"),
        ({"prompt": "Q", "completions": ["a"], "labels": [-1]}, "'labels' is .*true .right. and false"),
        ({"prompt": "Q", "completions": [3], "labels": [True]}, r"'completions\[0\]' is 3; expected a string"),
        ({"prompt": "Q", "completions": ["a"], "labels": None}, "'labels' is null; expected a list of true"),
        ({"prompt": "Q", "completions": ["a"]}, "field 'labels' is missing; expected a record of trl-stepwise"),
        (
            {"question": "Q", "model_response_by_step": [" ", None], "human_labels": [1, 1]},
            r"'model_response_by_step\[1\]' is null",
        ),
        (
            {"question": "Q", "model_response_by_step": ["a"]},
            "'human_labels' is missing; expected a record of hard2verify",
        ),
        (
            {"question": "Q", "model_response_by_step": ["a"], "human_labels": [1], "unique_id": " "},
            "'unique_id' is blank",
        ),
        (
            {**{k: v for k, v in PRMBENCH.items() if k != "error_steps"}},
            "'error_steps' is missing; expected a record of prmb",
        ),
        ({**PRMBENCH, "error_steps": None}, "'error_steps' is null; expected a list of step numbers, counted from 1"),
        ({**PRMBENCH, "modified_question": 3}, "'modified_question' is 3; expected a string"),
        (
            {"question": "Q"},
            "'id' is missing; expected an object with id, .*or a record of a data set that `prmbench data",
        ),
        (
            {"prompt": [{"role": "user"}], "completions": ["a"], "labels": [True]},
            r"'prompt' is \[.*; expected a string",
        ),
        (
            {"id": "x", "problem": "P", "steps": ["a"], "labels": [1]},
            r"'labels\[0\]' is 1; expected right.*numbers mean different",
        ),
        ({"id": "x", "problem": "P", "steps": ["a"], "labels": ["good"]}, r"'labels\[0\]' is \"good\""),
        (
            {"id": "x", "problem": "P", "steps": ["a"], "labels": [True, True]},
            "has 2 entries; expected a list of 1, one a step",
        ),
        ({"id": "x", "problem": "P", "steps": ["a"], "labels": {}}, "'labels' is {}"),
        (
            {"id": "x", "problem": "P", "steps": ["a"], "error_steps": [-1]},
            r"'error_steps' is \[-1\]; expected a list of indices of steps, from 0",
        ),
        (
            {"id": "x", "problem": "P", "steps": ["a"], "error_steps": [], "labels": [True]},
            "has 'labels' and 'error_steps'",
        ),
        (
            {"id": "x", "problem": "P", "steps": ["a", "b"], "error_steps": [1], "label": 0},
            "'label' is 0, but by its step labels the first wrong step is 1; steps count from 0",
        ),
        ({"id": "x", "problem": "P", "steps": ["a"], "labels": [True], "error_class": 3}, "'error_class' is 3"),
    ],
)
def test_what_cannot_be_read_is_named_by_record(tmp_path, record, message):
    good = GOOD[0][0] if "idx" in record else {"id": "a", "problem": "1 + 1?", "steps": ["a"], "label": -1}
    path = write(tmp_path / "x.jsonl", {**good, "idx": "other"} if "idx" in good else good, record)
    with pytest.raises(UserError, match=message) as raised:
        load_traces(path)
    assert str(raised.value).startswith(f"{path}, line 2")


def test_repeated_ids_of_prmbench_are_passed_over_and_of_others_refused(tmp_path):
    other = {**PRMBENCH, "modified_question": "another"}
    assert [t.problem for t in load_traces(write(tmp_path / "x.jsonl", PRMBENCH, other))] == ["1 + 1?"]
    mine = {"id": "x", "problem": "P", "steps": ["a"], "labels": [True]}
    with pytest.raises(UserError, match="id 'x' was already used at .*line 1"):
        load_traces(write(tmp_path / "y.jsonl", mine, mine))


def test_a_trace_without_step_labels_keeps_its_digest():
    from prmbench.data.traces import Trace

    plain = Trace("a", "s", "P", ("x", "y"), 1)
    labelled = Trace("a", "s", "P", ("x", "y"), 1, labels=(R, W), error_class="circular")
    assert plain.digest() == labelled.digest()
    assert (
        len({t.labelled_digest() for t in (plain, labelled, Trace("a", "s", "P", ("x", "y"), 1, labels=(N, W)))}) == 3
    )


@given(st.lists(st.sampled_from([R, W, N, U]), min_size=1, max_size=12))
def test_the_label_is_the_first_wrong_step(labels):
    slow = [i for i, one in enumerate(labels) if one == W]
    assert first_error(labels) == (slow[0] if slow else -1)


steps_text = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=4)


@given(steps_text, st.data())
def test_formats_agree_on_one_solution(tmp_path_factory, steps, data):
    right = data.draw(st.lists(st.booleans(), min_size=len(steps), max_size=len(steps)))
    wrong = [i for i, one in enumerate(right) if not one]
    folder = tmp_path_factory.mktemp("formats")
    counts = {"successes": [int(one) for one in right], "trials": [3] * len(steps)}
    records = {
        "own": {"id": "a", "problem": "Q", "steps": steps, "error_steps": wrong},
        "prmbench": {
            **PRMBENCH,
            "modified_question": "Q",
            "modified_process": steps,
            "error_steps": [i + 1 for i in wrong],
        },
        "rated": {"id": "a", "problem": "Q", "steps": steps, "ratings": [1 if one else -1 for one in right]},
        "hard": {"question": "Q", "model_response_by_step": steps, "human_labels": [int(one) for one in right]},
        "trl": {"prompt": "Q", "completions": steps, "labels": right},
        "counted": {"id": "a", "problem": "Q", "steps": steps, "labels": right, **counts},
    }
    found = {name: load_traces(write(folder / f"{name}.jsonl", record))[0] for name, record in records.items()}
    assert len({(t.problem, t.steps, t.label, t.labels) for t in found.values()}) == 1


BASES: dict[str, dict[str, Any]] = {
    "prmbench": PRMBENCH,
    "prm800k": prm800k(prm800k_step(1), prm800k_step(-1, chosen=None)),
    "rated-steps": {"id": "a", "problem": "Q", "steps": ["a", "b"], "ratings": [1, -1]},
    "math-shepherd": SHEPHERD,
    "hard2verify": {"question": "Q", "model_response_by_step": ["a", "b"], "human_labels": [1, 0], "unique_id": "u"},
    "trl-stepwise": {"prompt": "Q", "completions": ["a", "b"], "labels": [True, False]},
    "deltabench": DELTA,
    "own": {"id": "a", "problem": "Q", "steps": ["a", "b"], "labels": ["right", "wrong"], "generator": "g"},
    "own-errors": {"id": "a", "problem": "Q", "steps": ["a", "b"], "error_steps": [1]},
    "processbench": {"id": "a", "problem": "Q", "steps": ["a", "b"], "label": 1},
    "counts": {
        "id": "a",
        "problem": "Q",
        "steps": ["a"],
        "labels": [True],
        "values": [0.5],
        "successes": [2],
        "trials": [4],
    },
}
"""A record of every format."""


@pytest.mark.parametrize("name", BASES)
def test_every_kind_of_file_gives_the_same_traces(tmp_path, name):
    records = [BASES[name]]
    lines = "".join(json.dumps(one) + "\n" for one in records)
    (tmp_path / "t.jsonl").write_text("\ufeff\n" + lines if name == "own" else lines, encoding="utf-8")
    (tmp_path / "t.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "t.parquet")
    found = {one.suffix: load_traces(one) for one in sorted(tmp_path.iterdir())}
    assert len(found) == 4
    assert all(traces == found[".jsonl"] for traces in found.values())
    assert len(found[".jsonl"]) == 1


def test_a_column_that_is_null_counts_as_absent(tmp_path):
    """In a parquet file of several formats every record has the columns of all."""
    some = [
        name
        for name in BASES
        if name not in ("math-shepherd", "processbench", "own", "prm800k", "own-errors", "counts")
    ]
    records = [BASES[name] for name in some]
    columns = sorted({column for one in records for column in one})
    wide = [{column: one.get(column) for column in columns} for one in records]
    found = load_traces(write(tmp_path / "wide.jsonl", *wide))
    plain = [load_traces(write(tmp_path / f"{name}.jsonl", BASES[name]))[0] for name in some]
    assert [(t.problem, t.steps, t.labels, t.error_class) for t in found] == [
        (t.problem, t.steps, t.labels, t.error_class) for t in plain
    ]


def paths(value, at=()):
    """Every place in a record."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from paths(one, (*at, key))


def put(value, at, new):
    """A record with another value at a place."""
    if not at:
        return new
    out = dict(value) if isinstance(value, dict) else list(value)
    out[at[0]] = put(value[at[0]], at[1:], new)
    return out


anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 99),
        st.floats(),
        st.sampled_from(["", " ", "a", "1", "[1]", "\ud800"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=4,
)


@pytest.mark.parametrize("name", BASES)
@given(data=st.data())
def test_whatever_stands_in_a_record_it_is_read_or_named(name, data):
    base = BASES[name]
    record = put(base, data.draw(st.sampled_from(list(paths(base)))), data.draw(anything))
    place = "x.jsonl, line 7"
    try:
        (found,) = read_traces([(place, record)], "x")
    except UserError as error:
        message = str(error)
        assert message.startswith(place)
        assert "expected" in message or "which is no text" in message or "agree" in message
        assert "\n" not in message
        assert len(message) < 400
    else:
        _, trace = found
        assert trace.steps
        assert trace.labels is None or len(trace.labels) == len(trace.steps)
        assert trace.labels is None or trace.label == first_error(trace.labels)


def test_numbers_of_errors_past_the_end_are_counted(tmp_path):
    one = {"id": "x", "problem": "P", "steps": ["a", "b"], "error_steps": [1, 2, 2]}
    found = import_steps(
        [write(tmp_path / "a.jsonl", one, {**one, "id": "y", "error_steps": [0]})], tmp_path / "b.jsonl"
    )
    assert found.past_end == 2
    assert (
        found.sentence()
        == "2 traces, 4 steps (2 right, 2 wrong); 2 error_steps are past the last step and have no effect"
    )
    theirs = import_steps([write(tmp_path / "c.jsonl", {**PRMBENCH, "error_steps": [3, 4]})], tmp_path / "d.jsonl")
    assert theirs.past_end == 1
    assert theirs.as_json()["past_end"] == 1


def test_several_files_become_one_file_of_traces(tmp_path):
    write(tmp_path / "a.jsonl", PRMBENCH, {**PRMBENCH, "idx": "p_1", "error_steps": []})
    write(tmp_path / "b.jsonl", PRMBENCH, {**PRMBENCH, "idx": "p_0", "classification": "deception"})
    found = import_steps(
        [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "out" / "traces.jsonl", form="prmbench"
    )
    assert (found.read, found.traces, found.labels) == (4, 3, {"right": 5, "wrong": 4})
    assert found.sentence() == (
        "3 traces, 9 steps (5 right, 4 wrong); 1 records with an id that was already used are left out"
    )
    traces = load_traces(found.file)
    assert [(t.id, t.label, t.error_class) for t in traces] == [
        ("circular_p_0", 1, "circular"),
        ("circular_p_1", -1, "circular"),
        ("deception_p_0", 1, "deception"),
    ]
    again = import_steps([found.file], tmp_path / "again.jsonl")
    assert found.file.read_bytes() == again.file.read_bytes()


def test_counts_are_kept_by_a_copy(tmp_path):
    counts = {"successes": [3, 0, None], "trials": [4, 0, None]}
    record = {
        "id": "a",
        "problem": "Q",
        "steps": ["a", "b", "c"],
        "labels": [True] * 3,
        "values": [0.75, None, None],
        **counts,
    }
    found = import_steps([write(tmp_path / "a.jsonl", record)], tmp_path / "b.jsonl")
    (trace,) = load_traces(found.file)
    assert trace.counts == ((3, 4), None, None)
    assert trace == replace(load_traces(tmp_path / "a.jsonl")[0], subset="b")


def test_a_named_format_takes_no_other_record(tmp_path):
    write(tmp_path / "a.jsonl", PRMBENCH)
    with pytest.raises(UserError, match="line 1: field 'input' is missing.*a record of math-shepherd"):
        import_steps([tmp_path / "a.jsonl"], tmp_path / "b.jsonl", form="math-shepherd")
    with pytest.raises(UserError, match=r"`form=prmbanch`: not known \(did you mean 'prmbench'"):
        import_steps([tmp_path / "a.jsonl"], tmp_path / "b.jsonl", form="prmbanch")
    with pytest.raises(UserError, match="ends in .jsonl"):
        import_steps([tmp_path / "a.jsonl"], tmp_path / "b.json")
    assert not (tmp_path / "b.jsonl").exists()


def test_real_records(steps_data):
    folder = steps_data
    prmbench = load_traces(folder / "prmbench_subset.jsonl.gz")
    packed = (folder / "prmbench_subset.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    assert [t.label for t in prmbench] == [row["label"] for row in rows]
    assert sum(t.labels.count(W) for t in prmbench) == sum(
        i < len(row["steps"]) for row in rows for i in row["error_steps"]
    )
    assert {t.error_class for t in prmbench} == {row["classification"] for row in rows}
    prm800k_traces = load_traces(folder / "prm800k_val_decoded.jsonl.gz")
    counts = np.unique([one for t in prm800k_traces for one in t.labels], return_counts=True)
    assert dict(zip(*map(np.ndarray.tolist, counts), strict=True)) == {N: 633, R: 7775, W: 1121}
    for name, of in (("math-shepherd", "math-shepherd"), ("prm800k", "prm800k")):
        file = folder / f"format_samples_{name}.jsonl"
        traces = load_traces(file)
        assert len(traces) == len(file.read_bytes().splitlines())
        assert all(FORMATS[of].fields[0] not in t.problem and len(t.labels) == len(t.steps) for t in traces)
        if name == "math-shepherd":
            for row, trace in zip(map(json.loads, file.open(encoding="utf-8")), traces, strict=True):
                joined = "\n".join(
                    f"{s} {'-' if one == W else '+'}" for s, one in zip(trace.steps, trace.labels, strict=True)
                )
                assert re.sub(r"\s+", " ", f"{trace.problem} {joined}") == re.sub(r"\s+", " ", row["label"])


def test_a_label_that_goes_on_after_the_last_mark_is_refused(tmp_path):
    """Steps that only the label has would be left out without a word."""
    file = tmp_path / "a.jsonl"
    record = {"input": "1 + 1? Step 1: 2 ки", "label": "1 + 1? Step 1: 2 +\nStep 2: so 3 -"}
    file.write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match="line 1: field 'label' differs from 'input' after step 0"):
        import_steps([file], tmp_path / "b.jsonl")
