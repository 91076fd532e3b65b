"""Step scores as other tools write them become one sort of records, and these an entry of either benchmark of traces."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import support
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_expit
from typer.testing import CliRunner

import prmbench
from prmbench.benchmarks.processbench.benchmark import PROCESSBENCH
from prmbench.cli.app import app
from prmbench.data.importers.step_scores import import_scores
from prmbench.errors import UserError


def convert(tmp_path, content, name="dump.jsonl", **options):
    """Write a dump, convert it, and return the records."""
    file = tmp_path / name
    text = content if isinstance(content, str) else "".join(json.dumps(one) + "\n" for one in content)
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    import_scores([file], tmp_path / "scores.jsonl", **options)
    return [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]


WANTED = [{"id": "7", "scores": [0.5, 0.25]}, {"id": "b", "scores": [1.0]}]
VARIANTS = {
    "plain": ([{"id": "7", "scores": [0.5, 0.25]}, {"id": "b", "scores": [1.0]}], {}),
    "ids as numbers": ([{"id": 7, "scores": [0.5, 0.25]}, {"id": "b", "scores": [1]}], {}),
    "ids as floats of a table": ([{"id": 7.0, "scores": [0.5, 0.25]}, {"id": "b", "scores": [1]}], {}),
    "numbers as texts": ([{"id": "7", "scores": ["0.5", " 2.5e-1"]}, {"id": "b", "scores": ["1"]}], {}),
    "a list as a text": ([{"id": "7", "scores": "[0.5, 0.25]"}, {"id": "b", "scores": "[1]"}], {}),
    "each in a list": ([{"id": "7", "scores": [[0.5], [0.25]]}, {"id": "b", "scores": [[1]]}], {}),
    "a batch of one": ([{"id": "7", "scores": [[0.5, 0.25]]}, {"id": "b", "scores": [[1]]}], {}),
    "two classes": ([{"id": "7", "scores": [[0.5, 0.5], [0.75, 0.25]]}, {"id": "b", "scores": [[0, 1]]}], {"column": 1}),
    "two classes, from the end": (
        [{"id": "7", "scores": [[0.5, 0.5], [0.75, "0.25"]]}, {"id": "b", "scores": [[0, 1]]}],
        {"column": -1},
    ),
    "two classes in a batch of one": (
        [{"id": "7", "scores": [[[0.5, 0.5], [0.75, 0.25]]]}, {"id": "b", "scores": [[[0, 1]]]}],
        {"column": 1},
    ),
    "other names": ([{"idx": "7", "step_probs": [0.5, 0.25], "x": 1}, {"idx": "b", "step_probs": [1]}], {}),
    "named fields": (
        [{"n": "7", "p": [0.5, 0.25], "id": "no"}, {"n": "b", "p": [1], "id": "no"}],
        {"id_field": "n", "scores_field": "p"},
    ),
    "logits of probabilities": (
        [{"id": "7", "scores": [expit(0.5), expit(0.25)]}, {"id": "b", "scores": [expit(1)]}],
        {"scale": "probability"},
    ),
    "logits of log-probabilities": (
        [{"id": "7", "scores": [log_expit(0.5), log_expit(0.25)]}, {"id": "b", "scores": [log_expit(1)]}],
        {"scale": "logprob"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["dump.jsonl", "dump.jsonl.gz", "dump.json"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_form_gives_the_same_records(variant, name, tmp_path):
    records, options = VARIANTS[variant]
    content = json.dumps(records) if name == "dump.json" else records
    found = convert(tmp_path, content, name, **options)
    assert [one["id"] for one in found] == ["7", "b"]
    for one, wanted in zip(found, WANTED, strict=True):
        assert one["scores"] == pytest.approx(wanted["scores"], abs=1e-12)


def test_one_object_from_ids_to_scores(tmp_path):
    assert convert(tmp_path, '\n {"7": [0.5, 0.25], "b": [[1]]}', "dump.json") == WANTED


def test_subsets_are_kept_and_ids_count_within_one(tmp_path):
    records = [{"id": 0, "subset": name, "scores": [0.5]} for name in ("math", "gsm8k")]
    assert convert(tmp_path, records) == [{"id": "0", "subset": name, "scores": [0.5]} for name in ("math", "gsm8k")]


@given(st.floats(0, 1))
def test_logits_keep_the_order_and_the_ends(p):
    from prmbench.data.importers.step_scores import _scaled

    logit = _scaled("x", 0, p, "probability")
    assert expit(logit) == pytest.approx(p, abs=1e-12)
    assert _scaled("x", 0, 0.0, "probability") <= logit <= _scaled("x", 0, 1.0, "probability")


@pytest.mark.parametrize(
    ("records", "options", "said"),
    [
        ([[1]], {}, "line 1: is a JSON list; expected an object with an id and scores"),
        ([{"scores": [1]}], {}, "line 1: has no field known to hold the id; it has scores: name one with `id_field=`"),
        ([{"id": 1, "x": [1]}], {}, "no field known to hold the scores; it has id, x: name one with `scores_field=`"),
        ([{"id": 1, "scores": [1]}], {"scores_field": "score"}, r"no field 'score' \(did you mean 'scores'\?\)"),
        ([{"id": 1, "scores": []}], {}, "field 'scores' is \\[\\]; expected a list of numbers, one a step"),
        ([{"id": 1, "scores": "no"}], {}, "field 'scores' is \"no\"; expected a list of numbers"),
        ([{"id": 1, "scores": [0.5, None]}], {}, r"field 'scores\[1\]' is null; expected a number"),
        ([{"id": 1, "scores": [True]}], {}, r"field 'scores\[0\]' is true; expected a number"),
        ([{"id": 1, "scores": ["NaN"]}], {}, r"field 'scores\[0\]' is \"NaN\"; expected a number"),
        ([{"id": 1, "scores": [[0.1, 0.9], [0.2, 0.8]]}], {}, "holds 2 numbers; say which is that of a right step"),
        ([{"id": 1, "scores": [[0.1, 0.9]]}], {"column": 2}, "`column=2` names none"),
        ([{"id": 1, "scores": [0.1, 0.9]}], {"column": 1}, "holds one number; leave `column=1` out"),
        ([{"id": None, "scores": [1]}], {}, "no field known to hold the id"),
        ([{"id": {}, "scores": [1]}], {}, "field 'id' is {}; expected a string"),
        ([{"id": 1, "scores": [1]}, {"id": "1", "scores": [1]}], {}, "line 2: id '1' was already used at .*dump.jsonl, line 1"),
        ([{"id": 1, "scores": [1.5]}], {"scale": "probability"}, "score of step 0 is 1.5; expected a probability"),
        ([{"id": 1, "scores": [0.5]}], {"scale": "logprob"}, "expected a log-probability, at most 0"),
        ([{"id": 1, "scores": [0.5]}], {"scale": "prob"}, "`scale=prob`: expected kept, probability, logprob"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, records, options, said):
    with pytest.raises(UserError, match=said):
        convert(tmp_path, records, **options)
    assert not (tmp_path / "scores.jsonl").exists()


def figures(nested, path=()):
    """The numbers of nested objects by their paths, but for thresholds, which may differ in their last digits."""
    if isinstance(nested, dict):
        inner = [figures(value, (*path, name)) for name, value in nested.items() if name != "thresholds"]
        return {key: value for one in inner for key, value in one.items()}
    return {path: np.nan if nested is None else nested} if isinstance(nested, int | float | None) else {}


def test_a_dump_becomes_the_entries_that_the_model_itself_has(tmp_path, monkeypatch):
    """A classifier's scores, written as probabilities of two classes by another tool, on ProcessBench and on step labels."""
    import support_prm

    monkeypatch.chdir(tmp_path)
    tokenizer = support.wrap(support.byte_level())
    tokenizer.add_tokens(["<extra_0>"], special_tokens=True)
    support_prm.save_linear_classifier(tmp_path / "model", tokenizer)
    support.write_traces(tmp_path / "made.jsonl", 40)
    model = prmbench.load_reward_model("model", kind="classifier")
    for benchmark in ("processbench", "step-labels"):
        entry, path = prmbench.evaluate(model, benchmark=benchmark, data="made.jsonl", output=benchmark, n_resamples=50)
        if benchmark == "processbench":
            items = PROCESSBENCH.read_items(path.parent / "items.jsonl")
            right = [(1 / (1 + np.exp(-item.scores))).tolist() for item in items]
            dump = [{"idx": i.id, "probs": [[1 - p, p] for p in ps]} for i, ps in zip(items, right, strict=True)]
            (tmp_path / "dump.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, dump)).encode()))
            command = [
                "data",
                "scores",
                "dump.jsonl.gz",
                "--column",
                "1",
                "--scale",
                "probability",
                "--output",
                "s.jsonl",
            ]
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
            assert done.stdout.startswith("40 traces, ")
        command = [
            "eval",
            "--benchmark",
            benchmark,
            "--from-items",
            "s.jsonl",
            "--data",
            "made.jsonl",
            "--resamples",
            "50",
        ]
        done = CliRunner().invoke(app, [*command, "--output", f"{benchmark}-theirs"])
        assert done.exit_code == 0, done.output
        theirs = json.loads((tmp_path / f"{benchmark}-theirs" / "entry.json").read_text())
        mine = json.loads(entry.model_dump_json())
        assert theirs["benchmark"]["fingerprint"] == mine["benchmark"]["fingerprint"]
        assert "length" not in theirs["metrics"]["baselines"]
        for one in (mine, theirs):  # which thresholds mean p = 0.5 is known of the model alone
            for result in one["metrics"]["protocols"]["step"]["subsets"].values():
                result["rules"].pop("fixed", None)
                result.get("undefined", {}).pop("fixed", None)
        ours, found = (
            figures(one["metrics"]["protocols"]["step"]["subsets"]["made"]["rules"]) for one in (mine, theirs)
        )
        assert len(ours) > 8
        assert found == pytest.approx(ours, abs=1e-9, nan_ok=True), benchmark
        again = prmbench.recompute(tmp_path / f"{benchmark}-theirs", n_resamples=50)
        assert (
            json.loads(again.model_dump_json())["metrics"]
            == json.loads((tmp_path / f"{benchmark}-theirs" / "entry.json").read_text())["metrics"]
        )
        assert (
            CliRunner().invoke(app, ["compare", benchmark, f"{benchmark}-theirs", "--resamples", "20"]).exit_code == 0
        )
        page = CliRunner().invoke(app, ["report", f"{benchmark}-theirs", "--output", f"{benchmark}.html"])
        assert page.exit_code == 0, page.output
    board = CliRunner().invoke(app, ["leaderboard", "add", "processbench-theirs", "--folder", "board"])
    assert board.exit_code == 0, board.output
    built = CliRunner().invoke(app, ["leaderboard", "build", "--folder", "board", "--resamples", "20"])
    assert built.exit_code == 0, built.output


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "no records; expected at least one id"),
        ('{"a": [0.1], "b": [0.2], "a": [0.3]}', "key 'a' is there twice; keep one of it"),
    ],
)
def test_an_object_from_ids_to_scores_is_read_whole(tmp_path, content, said):
    with pytest.raises(UserError, match=said):
        convert(tmp_path, content, name="dump.json")


def test_a_probability_just_above_one_is_shown_as_it_is(tmp_path):
    with pytest.raises(UserError, match=r"the score of step 0 is 1\.0000001; expected a probability"):
        convert(tmp_path, [{"id": "a", "scores": [1.0000001]}], scale="probability")


def test_a_number_that_no_float_holds_is_refused(tmp_path):
    data, scores = tmp_path / "traces.jsonl", tmp_path / "scores.jsonl"
    data.write_text(json.dumps({"id": "a", "problem": "x", "steps": ["y"], "label": -1}) + "\n")
    scores.write_text('{"id": "a", "scores": [1' + "0" * 400 + "]}\n")
    with pytest.raises(UserError, match="expected a list of numbers, one a step"):
        prmbench.evaluate_scores(scores, data=data, output=tmp_path / "out")


def test_scores_made_elsewhere_have_no_steps_without_tokens(tmp_path):
    """They come without tokens at all, which says nothing of the steps."""
    data, scores = tmp_path / "traces.jsonl", tmp_path / "scores.jsonl"
    data.write_text(
        "".join(
            json.dumps({"id": str(i), "problem": "x", "steps": ["y"], "label": i % 2 - 1}) + "\n" for i in range(20)
        )
    )
    scores.write_text("".join(json.dumps({"id": str(i), "scores": [i % 2 - 0.5]}) + "\n" for i in range(20)))
    command = ["eval", "--from-items", str(scores), "--data", str(data), "--benchmark", "processbench"]
    done = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "out"), "--resamples", "10"])
    assert done.exit_code == 0, done.output
    assert "no token of their own" not in done.output
