from __future__ import annotations

import io
import json

import numpy as np
import pytest
import support
import support_prm
from rich.console import Console
from typer.testing import CliRunner

import prmbench
from prmbench.cli.app import app
from prmbench.data.solutions import Solution
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model
from prmbench.scoring.run import Scored, score_solutions
from prmbench.scoring.threshold import Threshold, find_threshold
from prmbench.scoring.view import render
from prmbench.stats.thresholds import first_below


@pytest.fixture(scope="module")
def solutions():
    return [Solution(str(t["id"]), str(t["problem"]), tuple(t["steps"])) for t in support.make_traces(12, seed=3)]


@pytest.fixture(scope="module")
def implicit(tiny, tiny_tuned):
    return load_reward_model(tiny_tuned, reference=tiny, objective="ipvrm")


@pytest.fixture(scope="module")
def entry(implicit, tmp_path_factory):
    """Of the same model, on data called gsm8k and on others."""
    folder = tmp_path_factory.mktemp("entry")
    (folder / "data").mkdir()
    for seed, name in enumerate(("gsm8k", "other")):
        support.write_traces(folder / "data" / f"{name}.jsonl", 30, seed)
    return prmbench.evaluate(implicit, data=folder / "data", output=folder / "run")


def test_scores_are_those_of_the_model(implicit, solutions):
    found = score_solutions(implicit, solutions)
    for solution, one in zip(solutions, found, strict=True):
        sums = implicit.score([implicit.encode(solution.problem, solution.steps)])[0].sums
        assert one.scores["process"] == pytest.approx(10 * sums, abs=1e-2)
        assert one.scores["prefix"] == pytest.approx(10 * np.cumsum(sums), abs=1e-2)
        assert one.id == solution.id
        assert one.first_error is None
        assert len(one.n_tokens) == len(solution.steps)


def test_first_below_hand_worked():
    assert first_below(np.array([1.0, 0.5, -2.0, 0.0]), 0.5) == 2
    assert first_below(np.array([1.0, 0.5]), 0.5) == -1


def test_resumed_is_the_same_bit_for_bit(implicit, solutions, tmp_path, monkeypatch):
    threshold = Threshold(0.0, "process", "as given")
    whole = score_solutions(implicit, solutions, output=tmp_path / "whole", threshold=threshold, batch_tokens=300)
    calls = 0
    score = implicit.score

    def stopping(batch):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return score(batch)

    monkeypatch.setattr(implicit, "score", stopping)
    with pytest.raises(KeyboardInterrupt, match="of 12 solutions are kept"):
        score_solutions(implicit, solutions, output=tmp_path / "cut", threshold=threshold, batch_tokens=300)
    kept = (tmp_path / "cut" / "scores.jsonl").read_text().count("\n")
    assert 0 < kept < 12
    monkeypatch.undo()
    again = score_solutions(implicit, solutions, output=tmp_path / "cut", threshold=threshold, batch_tokens=300)
    assert again == whole
    files = [(tmp_path / name / "scores.jsonl").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]
    with pytest.raises(UserError, match=r"holds a run with other settings \(threshold"):
        score_solutions(implicit, solutions, output=tmp_path / "cut", batch_tokens=300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_tokens": ["x"]}, "field 'n_tokens' is \"x\"; expected a whole number"),
        ({"scores": {"process": ["x"]}}, r"field 'scores.process' must hold \d numbers"),
        ({"scores": {"process": [1.0]}}, r"field 'scores.process' must hold \d numbers"),
        ({"first_error": "x"}, "field 'votes or first_error' is \"x\""),
        ({"scores": {}}, "it holds other scores than this model gives"),
        ({"votes": [1]}, "it holds other scores than this model gives"),
        ({"id": "other"}, "the line of 'other': it is not the solution of that id"),
        ({"digest": "0" * 64}, "it is not the solution of that id"),
        ({"first_error": 7}, "its first_error does not follow from its scores"),
    ],
)
def test_kept_lines_are_checked_as_new_ones_are(implicit, solutions, tmp_path, change, message):
    threshold = Threshold(0.0, "process", "as given")
    score_solutions(implicit, solutions, output=tmp_path / "out", threshold=threshold)
    file = tmp_path / "out" / "scores.jsonl"
    first, *others = file.read_text().splitlines(keepends=True)
    file.write_text(json.dumps({**json.loads(first), **change}) + "\n" + "".join(others))
    with pytest.raises(UserError, match=message):
        score_solutions(implicit, solutions, output=tmp_path / "out", threshold=threshold)


def test_threshold_of_an_entry_predicts_as_the_entry_does(implicit, entry):
    """On the entry's own traces: its gsm8k policy's predictions, item by item."""
    from prmbench.benchmarks.processbench.benchmark import PROCESSBENCH
    from prmbench.benchmarks.processbench.metrics import predict

    _, path = entry
    items = PROCESSBENCH.read_items(path.parent / "items.jsonl")
    traces = prmbench.load_traces(path.parent.parent / "data")
    for protocol in ("process", "prefix_mean"):
        threshold = find_threshold(f"{path.parent}:gsm8k:{protocol}", implicit)
        expected = predict(items, 10.0, {}, protocol=protocol, rule="gsm8k")
        for subset, one in expected.items():
            mine = [Solution(t.id, t.problem, t.steps) for t in traces if t.subset == subset]
            found = {s.id: s.first_error for s in score_solutions(implicit, mine, threshold=threshold)}
            assert [found[item.id] for item in one.items] == one.predicted.tolist()


def test_thresholds(implicit, entry, tiny, tiny_tuned):
    path = entry[1]
    assert (
        find_threshold(str(path), implicit).protocol == "process"
    )  # the policy that is one threshold, the first protocol
    assert find_threshold(f"{path}:gsm8k", implicit, "prefix").protocol == "prefix"
    assert find_threshold(f"{path}:fixed:prefix_mean", implicit).value == 0.0
    assert find_threshold("-1.5", implicit) == Threshold(-1.5, "process", "as given")
    for text, message in [
        ("nan", "expected a finite number"),
        (f"{path}:crossfit", "no single threshold 'crossfit' of process; it has gsm8k"),
        (f"{path}:oracle", "no single threshold 'oracle' of process; it has gsm8k"),  # two subsets
        (f"{path}:gsm8k:prefx", "has no protocol 'prefx'"),
        ("nowhere", "no such file; expected an entry"),
    ]:
        with pytest.raises(UserError, match=message):
            find_threshold(text, implicit)
    with pytest.raises(UserError, match=r"of another model.*\(field 'subject.kind' differs\)"):
        find_threshold(str(path), load_reward_model(tiny, kind="endo"))
    prefixed = load_reward_model(tiny_tuned, reference=tiny, objective="ipvrm", tokens={"step_prefix": "Step {i}: "})
    with pytest.raises(UserError, match=r"other text around its steps \(field 'provenance.template_hash' differs\)"):
        find_threshold(str(path), prefixed)
    with pytest.raises(UserError, match=r"field 'subject.beta' differs"):
        find_threshold(str(path), load_reward_model(tiny_tuned, reference=tiny, beta=1.0))
    with pytest.raises(UserError, match="names the protocol prefix, `protocol=process` another"):
        find_threshold(f"{path}:gsm8k:prefix", implicit, "process")
    with pytest.raises(UserError, match="`protocol=proces`: .*did you mean 'process'"):
        find_threshold("0", implicit, "proces")


def test_a_threshold_says_what_it_rests_on(implicit, entry):
    """One that tells nothing apart is refused: it never flags, flags every trace, or never finds the first error."""
    path = entry[1]
    counts = entry[0].benchmark.subsets["gsm8k"].counts
    assert f", chosen on 30 traces of gsm8k, {counts['error']} of them with an error" in (
        find_threshold(str(path), implicit).said
    )
    assert find_threshold(f"{path}:fixed:prefix_mean", implicit).said.endswith(", chosen on no trace")
    for n_error, n_correct, message in [
        (0.0, 1.0, "flags none of the 30 traces"),
        (0.5, 0.0, "flags every trace without an error among the 30 traces"),
        (0.0, 0.5, "finds no first error in any of the 30 traces"),
    ]:
        fields = json.loads(path.read_text())
        rule = fields["metrics"]["protocols"]["process"]["subsets"]["gsm8k"]["rules"]["gsm8k"]
        rule["acc_error"]["value"], rule["acc_correct"]["value"] = n_error, n_correct
        changed = path.parent / "changed.json"
        changed.write_text(json.dumps(fields))
        with pytest.raises(UserError, match=message) as raised:
            find_threshold(str(changed), implicit)
        assert f"{rule['thresholds'][0]:.4g}" in str(raised.value)


def test_a_critic_names_the_error_itself(smollm2, tmp_path):
    folder = support_prm.save_causal(tmp_path / "m", support_prm.smol_tokenizer(smollm2), "qwen2")
    model = load_reward_model(folder, kind="critic", generation={"n": 2, "temperature": 1.0, "max_new_tokens": 4})
    found = score_solutions(model, [Solution("a", "P?", ("x", "y"))], output=tmp_path / "out")
    assert found[0].votes == [None, None]
    assert (found[0].scores, found[0].first_error) == ({}, None)
    assert score_solutions(model, [Solution("a", "P?", ("x", "y"))], output=tmp_path / "out") == found
    with pytest.raises(UserError, match="critic names the first wrong step itself"):
        find_threshold("0", model)


def test_too_long_is_named(implicit):
    with pytest.raises(UserError, match=r"solution 'long' needs [\d,]+ tokens, the model has 1,024 positions"):
        score_solutions(implicit, [Solution("long", "P", ("word " * 3000,))])


def test_view_marks_the_error_and_obeys_no_control_character():
    solution = Solution("a[red]", "Is\x1b[2J this [bold]markup[/bold]?", ("fine", "bad\nnews \x07", "later"))
    scored = Scored("a[red]", "d", [1, 2, 1], {"step": [2.0, -3.0, 1.0]}, first_error=1)
    console = Console(width=100, force_terminal=True, color_system="standard", record=True, file=io.StringIO())
    console.print(render([solution], [scored], "step", Threshold(0.0, "step", "as given")))
    styled, plain = console.export_text(styles=True, clear=False), console.export_text()
    assert "Is?[2J this [bold]markup[/bold]?" in plain
    assert "first error: bad news ?" in plain
    assert "\x1b[2J" not in styled
    assert "\x07" not in styled
    assert "\x1b[31m" in styled  # red: below the threshold
    assert "\x1b[32m" in styled  # green: above


def test_colours_do_not_depend_on_how_many_are_shown():
    solutions = [Solution(str(i), "P", ("x",)) for i in range(10)]
    scored = [Scored(str(i), "d", [1], {"step": [float(i)]}) for i in range(10)]
    console = Console(width=100, force_terminal=True, color_system="standard", record=True, file=io.StringIO())
    console.print(render(solutions, scored, "step", None, 1))
    styled = console.export_text(styles=True, clear=False)
    assert "\x1b[31m" in styled  # the lowest of ten, though the only one shown
    assert "1: P" not in console.export_text()


# --- the command ---


def run(*arguments):
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def test_the_reference_cache_can_be_left_out(tiny, tiny_tuned, tmp_path, monkeypatch):
    monkeypatch.setenv("PRMBENCH_CACHE_GIB", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"problem": "What is 2 + 2?", "steps": ["4"]}) + "\n")
    common = (file, "--rm", tiny_tuned, "--reference", tiny, "--json")
    without = run(*common, "--no-reference-cache")
    assert without.exit_code == 0, without.output
    assert not list((tmp_path / "cache").rglob("*.sqlite*"))
    assert run(*common).stdout == without.stdout
    assert list((tmp_path / "cache").rglob("*.sqlite*"))


def test_command(tiny, tiny_tuned, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"problem": "What is 2 + 2?", "solution": "2 + 2 = 5.\n\nSo \\boxed{5}."}) + "\n")
    common = (file, "--rm", tiny_tuned, "--reference", tiny, "--objective", "ipvrm")
    done = run(*common, "--threshold", "0", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "1: What is 2 + 2?" in done.stdout
    assert f"scores: {tmp_path / 'out' / 'scores.jsonl'}" in done.stdout
    line = json.loads((tmp_path / "out" / "scores.jsonl").read_text())
    assert set(line["scores"]) == {"process", "prefix", "process_mean", "prefix_mean"}
    assert line["first_error"] == first_below(np.array(line["scores"]["process"]), 0.0)
    printed = json.loads(run(*common, "--threshold", "0", "--json").stdout)
    assert printed == [line]
    asked = json.loads(run(*common, "--prompt", "boxed", "--json").stdout)
    assert asked[0]["n_tokens"] == line["n_tokens"]
    assert asked[0]["scores"] != line["scores"]
    wrong = run(*common, "--output", tmp_path / "scores.jsonl")
    assert "is the name of a file; expected a folder" in str(wrong.exception)
    wrong = run(*common, "--protocol", "step")
    assert "--protocol step: this model gives process" in str(wrong.exception)
