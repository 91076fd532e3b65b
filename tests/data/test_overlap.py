from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
import support
from hypothesis import given
from typer.testing import CliRunner

import prmbench
from prmbench.cli.app import app
from prmbench.data.overlap import WORDS, find_overlap, problem_of, words_of
from prmbench.data.problem_sets import KNOWN_SETS
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError

LONG = "Anna has three red apples and gives two of them to her brother before lunch on Monday. How many are left?"


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_exact_and_shared(tmp_path):
    evaluation = write(
        tmp_path / "eval.jsonl",
        [
            {"id": "same", "problem": "What is 2 + 2?"},
            {"id": "long", "problem": LONG},
            {"id": "part", "problem": f"{LONG} Explain why nobody else gets one."},
            {"id": "new", "problem": "What is 2 + 3?"},
        ],
    )
    train = write(
        tmp_path / "train.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": "WHAT is 2+2"},
                    {"role": "assistant", "content": "What is 2 + 3?"},
                ]
            },
            {"prompt": LONG, "chosen": "a", "rejected": "b"},
            {"conversations": [{"from": "human", "value": "Something else."}, {"from": "gpt", "value": LONG}]},
        ],
    )
    (found,) = find_overlap(train, evaluation).values()
    assert (found.n, found.exact, found.shared) == (4, ["long", "same"], ["long", "part"])
    assert found.either == ["long", "part", "same"]
    shown = CliRunner().invoke(app, ["data", "overlap", str(train), str(evaluation)]).stdout
    said = "eval.jsonl: 4 problems; word by word 2 (50.0%), 13 words in a row 2 (50.0%): long, part, same\n"
    assert shown == said
    as_json = json.loads(CliRunner().invoke(app, ["data", "overlap", str(train), str(evaluation), "--json"]).stdout)
    assert as_json["eval.jsonl"] == {"n": 4, "exact": ["long", "same"], "shared": ["long", "part"]}


@given(st.lists(st.sampled_from("ab"), max_size=30), st.lists(st.sampled_from("ab"), max_size=30))
def test_shared_runs_are_those_of_a_slow_search(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("x")
    train, evaluation = (
        write(folder / name, [{"problem": " ".join(words) or "?"}])
        for name, words in (("t.jsonl", first), ("e.jsonl", second))
    )
    (found,) = find_overlap(train, evaluation).values()
    padded = f" {' '.join(first)} "
    slow = any(f" {' '.join(second[i : i + WORDS])} " in padded for i in range(len(second) - WORDS + 1))
    assert bool(found.shared) == slow
    assert bool(found.exact) == (first == second)


def test_processbench_and_problem_sets_by_name(processbench, tmp_path):
    """A real problem of ProcessBench in the training data is found, and those of no other subset."""
    trace = json.loads((processbench / "math.json").read_text())[0]
    train = write(tmp_path / "data" / "train.jsonl", [{"question": trace["problem"]}])
    found = find_overlap(train.parent, "processbench")
    assert trace["id"] in found["math"].exact
    assert {name for name, one in found.items() if one.exact} == {"math"}
    assert {one.n for one in found.values()} == {400, 1000}


def test_of_the_folder_of_a_rollout_run_the_rollouts_are_read(tmp_path):
    write(tmp_path / "run" / "rollouts.jsonl", [{"problem": "What is 2 + 2?"}])
    (tmp_path / "run" / "run.json").write_text('{"seed": 0}')
    evaluation = write(tmp_path / "eval.jsonl", [{"id": "same", "problem": "what is 2 + 2"}])
    assert find_overlap(tmp_path / "run", evaluation)["eval.jsonl"].exact == ["same"]


def test_mistakes(tmp_path):
    train = write(tmp_path / "train.jsonl", [{"text": "x"}])
    good = write(tmp_path / "good.jsonl", [{"problem": "x"}])
    with pytest.raises(UserError, match=r"train.jsonl, line 1: holds no problem; expected one of the fields problem"):
        find_overlap(train, good)
    with pytest.raises(UserError, match=r"procesbench: no such file or set .did you mean 'processbench'"):
        find_overlap(good, "procesbench")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file of records"):
        find_overlap(tmp_path / "empty", good)
    for record in (5, {"messages": []}, {"messages": [{"role": "user", "content": 5}]}):
        with pytest.raises(UserError, match="here: holds no problem"):
            problem_of("here", record)
    assert words_of("So $x^2$ is 4!") == ("so", "x", "2", "is", "4")


def test_recent_contests_have_names():
    assert KNOWN_SETS["hmmt_feb25"].read({"problem_idx": 1, "problem": "p", "answer": "\\frac{1}{2}"}) == (
        "p",
        "\\frac{1}{2}",
    )
    assert KNOWN_SETS["aime25"].read({"problem_idx": 1, "problem": "p", "answer": 70}) == ("p", "70")
    assert {"aime25", "aime26", "hmmt_feb25", "hmmt_nov25", "hmmt_feb26"} <= KNOWN_SETS.keys()


def test_the_entry_says_what_the_training_data_hold(tiny, tmp_path):
    data = support.write_traces(tmp_path / "made.jsonl", 6)
    traces = prmbench.load_traces(data)
    train = write(tmp_path / "train.jsonl", [{"problem": traces[0].problem}])
    n_same = sum(one.problem == traces[0].problem for one in traces)
    options = {"kind": "endo", "data": data, "n_resamples": 10}
    entry, _ = prmbench.evaluate(tiny, trained_on=train, output=tmp_path / "one", **options)
    assert entry.provenance.training_overlap == {"made": {"problems": 6, "exact": n_same, "shared": 0}}
    said = f"the training data hold {n_same} of the 6 problems of made word by word, and share 13 words in a row with 0"
    assert said in entry.provenance.warnings
    assert f"At risk: {said}." in " ".join(entry.table(width=300).split())
    other = write(tmp_path / "other.jsonl", [{"problem": "Nothing of this."}])
    entry, _ = prmbench.evaluate(tiny, trained_on=other, output=tmp_path / "two", **options)
    assert entry.provenance.training_overlap == {"made": {"problems": 6, "exact": 0, "shared": 0}}
    assert not any("training data" in warning for warning in entry.provenance.warnings)
    entry, _ = prmbench.evaluate(tiny, output=tmp_path / "three", **options)
    assert entry.provenance.training_overlap is None
    problems = write(tmp_path / "sums.jsonl", [{"id": "a", "problem": "Nothing of this!", "answer": "7"}])
    how = {"n": 1, "params": SamplingParams(max_new_tokens=3), "n_resamples": 10, "trained_on": other}
    policy, _ = prmbench.measure_policy(tiny, subsets=[str(problems)], output=tmp_path / "four", **how)
    assert policy.provenance.training_overlap == {"sums": {"problems": 1, "exact": 1, "shared": 0}}
