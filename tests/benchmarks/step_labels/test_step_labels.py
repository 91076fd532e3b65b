"""The benchmark step-labels from data to entry, with a tiny model, and with scores made elsewhere."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import support
from typer.testing import CliRunner

import prmbench
from prmbench.benchmarks.registry import load_measured, recompute
from prmbench.benchmarks.step_labels.benchmark import STEP_LABELS
from prmbench.cli.app import app
from prmbench.data.traces import load_traces, with_labels
from prmbench.errors import UserError
from prmbench.reports.compare import compare
from prmbench.reports.export import to_csv
from prmbench.reports.subject_page import write_report
from prmbench.reports.verification import verify_entry
from prmbench.reward_models.loading import load_reward_model

QUICK = {"n_resamples": 50}


def prmbench_records(n=24):
    """Records as PRMBench has them: error steps from 1, one of them past the end, and a blank step."""
    records = []
    for i, trace in enumerate(support.make_traces(n)):
        steps = [*trace["steps"], ""] if i == 3 else trace["steps"]
        wrong = list(range(trace["label"] + 1, len(steps) + 2)) if trace["label"] >= 0 else []
        records.append(
            {
                "idx": f"p_{i}",
                "classification": ("circular", "deception", "multi_solutions")[i % 3] if wrong else "multi_solutions",
                "modified_question": trace["problem"],
                "modified_process": steps,
                "error_steps": wrong,
            }
        )
    return records


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(tiny, tiny_tuned):
    return load_reward_model(tiny_tuned, reference=tiny, objective="implicit_prm")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("labelled") / "made.jsonl", prmbench_records())


@pytest.fixture(scope="module")
def finished(model, data, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "run"
    return prmbench.evaluate(model, benchmark="step-labels", data=data, output=run, threshold="prefix=0.5", **QUICK)


def test_entry_and_items(finished, model, data):
    entry, path = finished
    items = STEP_LABELS.read_items(path.parent / "items.jsonl")
    traces = load_traces(data)
    assert [(i.id, i.labels, i.error_class, i.digest) for i in items] == [
        (t.id, t.labels, t.error_class, t.labelled_digest()) for t in traces
    ]
    for item, one in zip(items, prmbench.score_traces(model, traces), strict=True):
        assert np.abs(item.sums - one.sums).max() < 1e-4
    counts = entry.benchmark.subsets["made"].counts
    assert counts["steps"] == counts["right"] + counts["wrong"] == sum(len(t.steps) for t in traces)
    assert counts["empty_steps"] == 1
    found = entry.metrics.protocols["prefix"].subsets["made"]
    assert set(found.rules) == {"crossfit", "given", "oracle", "fixed"}
    assert found.rules["given"].thresholds == [0.5]
    assert set(found.rules["crossfit"].classes) == {"circular", "deception", "multi_solutions"}
    assert set(found.rules["crossfit"].categories) == {"simplicity", "sensitivity", "all classes"}
    assert traces[0].problem not in path.read_text() + (path.parent / "items.jsonl").read_text()


def test_figures_follow_from_the_items(finished, tmp_path):
    entry, path = finished
    assert recompute(path).metrics == entry.metrics
    assert verify_entry(path.parent, None) == []


def test_the_data_are_checked(finished, data):
    _, path = finished
    traces = load_traces(data)
    assert verify_entry(path.parent, traces) == []
    changed = prmbench_records()
    changed[1]["error_steps"] = [1]
    other = write(data.parent / "changed.jsonl", changed).rename(data.parent / "other")
    (data.parent / "folder").mkdir(exist_ok=True)
    shutil.copyfile(other, data.parent / "folder" / "made.jsonl")
    assert any(
        "has other labels than the data" in one
        for one in verify_entry(path.parent, load_traces(data.parent / "folder"))
    )


def test_it_goes_everywhere_an_entry_goes(finished, model, data, tmp_path):
    entry, path = finished
    with_other, _ = prmbench.evaluate(
        model, benchmark="step-labels", data=data, output=tmp_path / "b", name="b", batch_tokens=64, **QUICK
    )
    assert with_other.benchmark.fingerprint == entry.benchmark.fingerprint
    found = compare([path, tmp_path / "b"], n_resamples=20, seed=0)
    assert found.pairs[0].mean.value == pytest.approx(0, abs=1e-9)
    assert 0 < found.pairs[0].mean.first < 1
    page = support.Page(write_report([path], tmp_path / "page.html", None))
    assert page.tags.count("svg") == 1
    assert "by class of error" in page.text
    assert "protocols.process.subsets.made" in to_csv([load_measured(path)])
    shown = CliRunner().invoke(app, ["eval", "--from-items", str(path.parent)]).output
    assert "Step labels: tuned" in shown
    assert "made: by class of error, process" in shown
    assert "the best score that knows nothing of the text" in " ".join(shown.split())


def test_two_entries_are_compared_by_prm_score(data, tmp_path):
    """Against a plain bootstrap; and a score that calls every step right does not win by the number of right steps."""
    traces, rng = load_traces(data), np.random.default_rng(3)
    kept: dict[str, list[np.ndarray]] = {"good": [], "blind": []}
    for name, cells in kept.items():
        records = []
        for trace in traces:
            right = np.array([label == "right" for label in trace.labels])
            guess = rng.random(len(right)) < np.where(right, 0.7, 0.3) if name == "good" else np.ones(len(right), bool)
            records.append({"id": trace.id, "scores": guess.astype(float).tolist()})
            cells.append(np.array([right & guess, ~right & guess, ~right & ~guess, right & ~guess]).sum(axis=1))
        scores = write(tmp_path / f"{name}.jsonl", records)
        prmbench.evaluate_scores(scores, data=data, output=tmp_path / name, threshold="0.5", **QUICK)
    found = compare([tmp_path / "good", tmp_path / "blind"], n_resamples=4000, seed=0, thresholds="given").pairs[0].mean

    def prm_score(counts):
        tp, fp, tn, fn = counts
        return (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fp + fn)) / 2

    drawn = []
    for _ in range(2000):
        some = rng.integers(len(traces), size=len(traces))
        sums = {name: np.sum([cells[i] for i in some], axis=0) for name, cells in kept.items()}
        drawn.append(prm_score(sums["good"]) - prm_score(sums["blind"]))
    plain = {name: prm_score(np.sum(cells, axis=0)) for name, cells in kept.items()}
    assert (found.first, found.second) == pytest.approx((plain["good"], plain["blind"]))
    assert found.first > found.second
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.03)


def test_an_overlong_trace_fails_alone(model, tmp_path, capsys):
    records = prmbench_records()
    records[5]["modified_process"] = ["12 + 34 = 46. " * 200, *records[5]["modified_process"]]
    data = write(tmp_path / "x.jsonl", records)
    entry, path = prmbench.evaluate(model, benchmark="step-labels", data=data, output=tmp_path / "run", **QUICK)
    assert "warning: 1 of 24 traces are longer than the model's" in capsys.readouterr().err
    assert entry.items.n == 23
    assert "1 of 24 traces are longer" in entry.provenance.warnings[-1]
    assert "p_5" not in (path.parent / "items.jsonl").read_text()


def test_traces_whose_first_error_alone_is_known(model, traces_file, tmp_path):
    entry, _ = prmbench.evaluate(model, benchmark="step-labels", data=traces_file, output=tmp_path / "a", **QUICK)
    plain, _ = prmbench.evaluate(model, data=traces_file, output=tmp_path / "b", **QUICK)
    for name, protocol in entry.metrics.protocols.items():
        theirs = plain.metrics.protocols[name].subsets["made"].step_auc.value
        assert protocol.subsets["made"].step_auc.value == pytest.approx(theirs)
    assert entry.benchmark.subsets["made"].counts["unknown"] > 0


def test_a_threshold_of_another_entry(finished, model, traces_file, tmp_path):
    entry, path = finished
    other, _ = prmbench.evaluate(
        model, benchmark="step-labels", data=traces_file, output=tmp_path / "a", threshold=str(path.parent), **QUICK
    )
    for name, protocol in entry.metrics.protocols.items():
        (chosen,) = protocol.subsets["made"].rules["oracle"].thresholds
        assert other.metrics.given[name] == chosen
        assert other.metrics.protocols[name].subsets["made"].rules["given"].thresholds == [chosen]
    assert recompute(tmp_path / "a").metrics == other.metrics


def test_mistakes(finished, model, tiny_tuned, data, tmp_path):
    _, path = finished
    run = {"benchmark": "step-labels", "data": data, "output": tmp_path / "run"}
    for threshold, message in (
        ("high", "expected a number, PROTOCOL=NUMBER, or the file or folder"),
        ("nan", "expected a number"),
        ("step=1", "these scores have process, prefix, process_mean, prefix_mean, not 'step'"),
        ("prefiks=1", "did you mean 'prefix'"),
    ):
        with pytest.raises(UserError, match=message):
            prmbench.evaluate(model, threshold=threshold, **run)
    endo = load_reward_model(tiny_tuned, kind="endo")
    with pytest.raises(UserError, match="is of another model or layout"):
        prmbench.evaluate(endo, threshold=str(path.parent), **run)
    assert not (tmp_path / "run").exists()
    critic = load_reward_model(tiny_tuned, kind="critic")
    with pytest.raises(UserError, match="a critic names the first wrong step and scores nothing"):
        prmbench.evaluate(critic, **run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["right"]}, "field 'labels' must have one label a step"),
        ({"labels": ["good"] * 9}, "labels"),
        ({"label": 0, "labels": None}, "'labels'"),
        ({"sums": None, "votes": [0]}, "field 'votes' means nothing here"),
        ({"sums": ["NaN"]}, "sums"),
    ],
)
def test_broken_items_are_named(finished, tmp_path, change, message):
    _, path = finished
    first = {**json.loads((path.parent / "items.jsonl").read_text().splitlines()[0]), **change}
    write(tmp_path / "items.jsonl", [first])
    with pytest.raises(UserError, match=f"line 1: .*{message}"):
        STEP_LABELS.read_items(tmp_path / "items.jsonl")


# --- scores made elsewhere ---


def foreign(traces, rng):
    return [{"id": t.id, "scores": rng.random(len(t.steps)).round(3).tolist()} for t in traces]


def test_scores_made_elsewhere(data, tmp_path):
    traces = load_traces(data)
    records = foreign(traces, np.random.default_rng(0))
    scores = write(tmp_path / "theirs.jsonl", records)
    found = CliRunner().invoke(
        app,
        f"eval --benchmark step-labels --from-items {scores} --data {data} --threshold 0.5 --output {tmp_path / 'run'}"
        " --resamples 50 --json".split(),
    )
    assert found.exit_code == 0, found.output
    entry = json.loads(found.stdout)
    assert (entry["subject"]["name"], entry["subject"]["kind"], entry["provenance"]["engine"]) == (
        "theirs",
        "scores",
        "elsewhere",
    )
    rules = entry["metrics"]["protocols"]["step"]["subsets"]["made"]["rules"]
    assert set(rules) == {"crossfit", "given", "oracle"}
    # PRMBench's counts, by a plain loop over its own records.
    counts = {"tp": 0, "fp": 0, "tn": 0, "fn": 0}
    by_id = {f"{r['classification']}_{r['idx']}": r for r in prmbench_records()}
    for record in records:
        for number, score in enumerate(record["scores"], start=1):
            wrong, kept = number in by_id[record["id"]]["error_steps"], score >= 0.5
            counts[("fp" if kept else "tn") if wrong else ("tp" if kept else "fn")] += 1
    assert rules["given"]["counts"] == counts
    assert set(entry["metrics"]["baselines"]) == {"random", "position"}
    assert recompute(tmp_path / "run").metrics.model_dump() == STEP_LABELS.metrics_type(**entry["metrics"]).model_dump()
    other, _ = prmbench.evaluate_scores(
        scores, data=data, output=tmp_path / "again", name="x", threshold="0.5", **QUICK
    )
    assert other.metrics.model_dump() == STEP_LABELS.metrics_type(**entry["metrics"]).model_dump()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "none"}, "line 2: field 'id' is \"none\": no trace of the data has it"),
        ({"subset": "other"}, 'in subset "other": no trace'),
        ({"scores": [0.5]}, "line 2: has 1 scores, trace '.*' has"),
        ({"scores": "0.5"}, "field 'scores' is \"0.5\"; expected a list of numbers"),
        ({"scores": [True] * 5}, "expected a list of numbers"),
        ({"scores": [float("nan")] * 5}, "expected a list of numbers"),
        ({"score": 1}, "has scores already; keep one record of it"),
    ],
)
def test_scores_that_do_not_fit_are_named(data, tmp_path, change, message):
    first, second = foreign(load_traces(data)[:2], np.random.default_rng(0))
    wrong = {**(first if "score" in change else second), **change}
    with pytest.raises(UserError, match=message):
        prmbench.evaluate_scores(write(tmp_path / "x.jsonl", [first, wrong]), data=data, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_traces_without_scores_are_left_out_and_counted(data, tmp_path, capsys):
    scores = write(tmp_path / "x.jsonl", foreign(load_traces(data)[3:], np.random.default_rng(0)))
    entry, _ = prmbench.evaluate_scores(scores, data=data, output=tmp_path / "run", **QUICK)
    assert "3 of 24 traces have no scores in x.jsonl" in capsys.readouterr().err
    assert entry.items.n == 21


def test_other_benchmarks_take_no_scores(data, tmp_path):
    with pytest.raises(UserError, match="best-of-n takes no scores that were made elsewhere"):
        prmbench.evaluate_scores(tmp_path / "x", data=data, benchmark="best-of-n")
    found = CliRunner().invoke(app, f"eval --from-items x --data {data} --rm y".split())
    assert found.exit_code != 0


def test_labels_that_follow_from_the_first_error():
    trace = prmbench.Trace("a", "s", "p", ("x", "y", "z"), 1)
    assert with_labels(trace).labels == ("right", "wrong", "unknown")
    assert with_labels(prmbench.Trace("a", "s", "p", ("x", "y"), -1)).labels == ("right", "right")
