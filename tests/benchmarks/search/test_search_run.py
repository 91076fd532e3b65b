"""Runs of guided search: what they leave, that they go on, and policies that write no proper steps."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from prmbench.benchmarks.registry import recompute
from prmbench.benchmarks.search.benchmark import GUIDED_SEARCH, SearchOptions
from prmbench.benchmarks.search.run import evaluate_search
from prmbench.cli.app import app
from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.errors import UserError
from prmbench.policies.policy import load_policy
from prmbench.reports.compare import compare
from prmbench.reward_models.loading import load_reward_model
from prmbench.verify import verify

PROBLEMS = {
    "a": [Problem(f"p{i}", f"What is {i} + 1?", str(i % 3)) for i in range(4)],
    "b": [Problem("q", "Name a digit.", "7")],
}
OPTIONS = SearchOptions(budgets=(2, 4), width=2, step_ends=(" ", "e", "1"))
RUN = {"params": SamplingParams(max_new_tokens=12), "prompt": "number", "n_resamples": 50}


@pytest.fixture(scope="module")
def model(tiny, tiny_tuned):
    return load_reward_model(tiny_tuned, reference=tiny, objective="ipvrm")


def new_policy(tiny, words=None):
    """A policy that ends now and then; or one that knows a few words alone."""
    policy = load_policy(str(tiny), find_prompt("number"))
    policy.stop |= frozenset(range(3, policy.engine.vocabulary, 25))
    if words is not None:
        ids = [policy.encoder.tokenizer.convert_tokens_to_ids(word) for word in words]
        policy.engine = HFEngine(policy.engine.model, allowed=np.array(sorted(ids)))
        policy.stop = frozenset({policy.encoder.end_of_turn})
    return policy


def run(model, policy, folder, sets=PROBLEMS, options=OPTIONS, **more):
    entry, path = evaluate_search(
        model, policy, sets, name="x", source="x", output=folder, options=options, **{**RUN, **more}
    )
    return entry, path, GUIDED_SEARCH.read_items(path.parent / "items.jsonl")


def plain(items):
    """Items but for their times."""
    return [dataclasses.replace(one, seconds=0.0).line() for one in items]


@pytest.fixture(scope="module")
def searched(model, tiny, tmp_path_factory):
    return run(model, new_policy(tiny), tmp_path_factory.mktemp("search") / "run")


def test_an_entry_holds_every_method_and_is_computed_from_its_items(searched):
    entry, path, items = searched
    methods = ("best-of-n", "weighted", "beam", "dvts", "particles")
    assert list(entry.metrics.mean.methods) == [f"{m}@{n}" for m in methods for n in (2, 4)]
    assert len(items) == 5 * (1 + 3 * 2)
    assert entry.benchmark.subsets["a"].n_items == 4
    again = recompute(path)
    assert again.metrics == entry.metrics
    fields = {"best-of-n": 4, "beam": 4}
    for one in items:
        assert len(one.correct) <= (8 * 4 if one.method == "best-of-n" else fields.get(one.method, 4))
        assert one.flops > 0
    assert "Guided search: x (implicit, ipvrm), 5 problems" in entry.table().splitlines()[0]
    assert GUIDED_SEARCH.columns([entry])[0].title == "best-of-n@4"


def test_samples_are_those_of_the_policy_and_cost_as_much_as_the_dearest_search(searched, tiny):
    _, _, items = searched
    policy = new_policy(tiny)
    for subset, problems in PROBLEMS.items():
        for problem in problems:
            mine = [one for one in items if (one.subset, one.id) == (subset, problem.id)]
            (pool,) = [one for one in mine if one.method == "best-of-n"]
            dearest = max(one.flops for one in mine if one.method != "best-of-n")
            assert pool.flops >= dearest or len(pool.correct) == 32
            assert pool.flops - (pool.policy_flops + pool.model_flops)[-4:].sum() < dearest or len(pool.correct) == 4
            prompt = policy.encoder.prompt_ids(find_prompt("number").render(problem.problem))
            requests = [Request(prompt, problem.id, k) for k in range(len(pool.correct))]
            texts = policy.engine.generate(requests, policy.stop, RUN["params"], seed=0)
            assert [len(one.ids) for one in texts] == pool.lengths.tolist()
            decode = policy.encoder.tokenizer.decode
            answers = [decode(one.ids, skip_special_tokens=True) for one in texts]
            verdicts = verify(answers, [problem.answer] * len(texts), style="number")
            right = [
                verdict == "correct" and one.finish_reason == "stop"
                for verdict, one in zip(verdicts, texts, strict=True)
            ]
            assert right == pool.correct


def test_results_do_not_depend_on_the_batch_and_go_on_where_they_stopped(searched, model, tiny, tmp_path):
    _, path, items = searched
    _, _, small = run(model, new_policy(tiny), tmp_path / "small", batch_tokens=1)
    assert [one.key for one in small] == [one.key for one in items]
    for mine, theirs in zip(small, items, strict=True):
        assert mine.correct == theirs.correct
        assert mine.answers == theirs.answers
        assert mine.lengths.tolist() == theirs.lengths.tolist()
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-3)
        np.testing.assert_allclose(mine.policy_flops, theirs.policy_flops)
        np.testing.assert_allclose(mine.model_flops, theirs.model_flops)
    # A run that was stopped after some problems: what is there stays, times and all; what is not is the same.
    folder = tmp_path / "stopped"
    folder.mkdir()
    (folder / "run.json").write_text((path.parent / "run.json").read_text())
    lines = (path.parent / "items.jsonl").read_text().splitlines(keepends=True)
    (folder / "items.jsonl").write_text("".join(lines[:10]))
    _, again, resumed = run(model, new_policy(tiny), folder)
    assert plain(resumed) == plain(items)
    assert (again.parent / "items.jsonl").read_text().splitlines(keepends=True)[:7] == lines[:7]


def test_policies_that_write_no_proper_steps_are_counted(model, tiny, tmp_path):
    """One that never ends a step, one that ends at once, one that repeats itself."""
    some = {"a": PROBLEMS["a"][:2]}
    options = SearchOptions(budgets=(2,), width=2, step_ends=("2",))

    def totals(name, words, **more):
        entry, _, items = run(model, new_policy(tiny, words), tmp_path / name, some, options, **more)
        assert all(one.accuracy.value == 0 for one in entry.metrics.mean.methods.values())
        sums = {}
        for key in ("cut", "endless", "empty", "repeating", "duplicates"):
            sums[key] = {sum(getattr(one, key) for one in items if one.method == m) for m in ("beam", "dvts")}
        return sums, entry

    found, entry = totals("endless", ["1"])
    # Two paths of each of two problems; they are the same, so that one of two tells nothing.
    assert found["cut"] == found["endless"] == {4}
    assert found["duplicates"] == {2}
    assert found["empty"] == found["repeating"] == {0}
    assert "beam@2: 4 were cut at the token limit, 4 of these in their first step" in entry.table(width=200)
    found, entry = totals("empty", ["<|end|>"])
    assert found["empty"] == {4}
    assert found["cut"] == found["endless"] == found["repeating"] == {0}
    found, _ = totals("repeating", ["1", "2"], params=SamplingParams(max_new_tokens=30))
    assert found["cut"] == {4}
    assert all(2 <= n <= 4 for n in found["repeating"])
    assert found["endless"] == {0}


def test_a_step_that_never_ends_is_cut_where_the_user_says(model, tiny, tmp_path):
    options = SearchOptions(methods=("beam",), budgets=(2,), step_ends=("never",), step_tokens=4)
    _, _, items = run(model, new_policy(tiny, ["1", "5"]), tmp_path, {"a": PROBLEMS["a"][:1]}, options)
    (beam,) = [one for one in items if one.method == "beam"]
    assert beam.sampled.tolist() == [0, 8, 8, 8]  # the prompt, then three rounds of two steps of four tokens


def test_a_prompt_without_room_is_wrong(model, tiny, tmp_path):
    policy = new_policy(tiny)
    long = Problem("long", "word " * 3 * policy.engine.max_length, "1")
    options = SearchOptions(methods=("beam",), budgets=(2,))
    entry, _, items = run(model, policy, tmp_path, {"a": [PROBLEMS["a"][0], long]}, options)
    assert [len(one.correct) for one in items if one.id == "long"] == [0, 0]
    assert entry.metrics.mean.methods["beam@2"].accuracy.value in (0, 0.5)


def test_two_entries_are_compared_problem_by_problem(searched, tiny, tmp_path):
    other = load_reward_model(tiny, kind="endo")
    _, path, _ = run(other, new_policy(tiny), tmp_path / "endo")
    found = compare([searched[1], path], n_resamples=50).as_json()
    assert found["pairs"][0]["first"] == "x (implicit, ipvrm)" or found["pairs"]


def test_mistakes_are_one_sentence(model, tiny, tmp_path):
    policy = new_policy(tiny)
    for options, sentence in (
        (SearchOptions(methods=("bean",)), "`methods=bean`: not known.*beam"),
        (SearchOptions(score="median"), "`score=median`: a implicit has token_mean"),
        (SearchOptions(score="decayed_sum"), "`score=decayed_sum`"),
        (SearchOptions(step_ends=("",)), "`step_ends=`: is empty"),
        (SearchOptions(budgets=(0,)), "`budgets=0`: expected 1 or more"),
    ):
        with pytest.raises(UserError, match=sentence):
            run(model, policy, tmp_path / "x", options=options)


def test_the_command(tiny, tiny_tuned, tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text(
        "".join(json.dumps({"id": p.id, "problem": p.problem, "answer": p.answer}) + "\n" for p in PROBLEMS["a"])
    )
    arguments = [
        "eval",
        "--policy",
        tiny,
        "--rm",
        tiny_tuned,
        "--kind",
        "endo",
        "--benchmark",
        "search",
        "--subset",
        file,
    ]
    arguments += ["--method", "beam", "--method", "best-of-n", "--budget", 2, "--width", 2, "--max-new-tokens", 6]
    arguments += ["--step-end", "\\n", "--path-score", "min", "--resamples", 20, "--output", tmp_path / "run"]
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    assert "beam@2" in done.output
    entry = json.loads((tmp_path / "run" / "entry.json").read_text())
    assert entry["benchmark"]["settings"]["step_ends"] == ["\n"]
    assert entry["metrics"]["score"] == "min"
    assert (tmp_path / "run" / "search.svg").exists()
    done = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--output", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert "Guided search" in (tmp_path / "page.html").read_text()
