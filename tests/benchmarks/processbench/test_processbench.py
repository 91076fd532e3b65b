from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import support

import prmbench
from prmbench.benchmarks.processbench.benchmark import PROCESSBENCH
from prmbench.benchmarks.processbench.run import evaluate_traces
from prmbench.benchmarks.processbench.schema import ProcessBenchEntry
from prmbench.benchmarks.registry import recompute
from prmbench.data.traces import load_traces
from prmbench.errors import UserError
from prmbench.results.schema import read_entry
from prmbench.reward_models.loading import load_reward_model

QUICK = {"n_resamples": 100}
read_items = PROCESSBENCH.read_items


def figures(entry):
    """What must be the same however a run went."""
    return entry.model_copy(update={"provenance": None})


@pytest.fixture(scope="module")
def model(tiny, tiny_tuned):
    return load_reward_model(tiny_tuned, reference=tiny, objective="implicit_prm")


@pytest.fixture
def finished(model, traces_file, tmp_path):
    entry, path = prmbench.evaluate(model, data=traces_file, output=tmp_path / "run", **QUICK)
    return entry, path


def test_entry_and_items(finished, model, traces_file):
    entry, path = finished
    assert read_entry(path, ProcessBenchEntry) == entry
    traces = load_traces(traces_file)
    items = read_items(path.parent / entry.items.file)
    assert [i.id for i in items] == [t.id for t in traces]
    scores = prmbench.score_traces(model, traces)
    for item, one in zip(items, scores, strict=True):
        assert np.abs(item.sums - one.sums).max() < 1e-4
    assert entry.benchmark.subsets["made"].n_items == 40
    assert entry.benchmark.subsets["made"].counts["tokens"] == sum(int(i.n_tokens.sum()) for i in items)
    assert entry.subject.beta == 0.05
    assert set(entry.subject.weights) == {"model", "reference"}
    assert entry.provenance.versions["torch"]
    assert entry.provenance.token_options["end_of_turn"] == "<|end|>"
    assert "fixed" in entry.metrics.protocols["prefix"].mean


def test_entry_holds_no_problem_text(finished, traces_file):
    _, path = finished
    written = path.read_text() + (path.parent / "items.jsonl").read_text()
    for trace in load_traces(traces_file):
        assert trace.problem not in written
        assert trace.steps[0] not in written


def test_recompute_gives_the_same_entry(finished, tmp_path):
    entry, path = finished
    for source in (path, path.parent, path.parent / "items.jsonl"):
        assert recompute(source) == entry
    # Items alone: the figures that need neither beta nor the kind are the same.
    shutil.copy(path.parent / "items.jsonl", tmp_path / "alone.jsonl")
    alone = recompute(tmp_path / "alone.jsonl", n_resamples=100)
    for name, protocol in entry.metrics.protocols.items():
        for policy in ("crossfit", "oracle"):
            assert alone.metrics.protocols[name].mean[policy] == protocol.mean[policy]
    assert alone.benchmark.fingerprint == entry.benchmark.fingerprint


def test_changed_items_are_noticed(finished):
    _, path = finished
    items = path.parent / "items.jsonl"
    items.write_text(items.read_text().replace('"label": -1', '"label": 0', 1))
    with pytest.raises(UserError, match=r"is not the file that .*entry.json describes \(it has 40 items"):
        recompute(path)


def test_recompute_keeps_seed_and_resamples_unless_told(model, traces_file, tmp_path):
    options = {"n_resamples": 50, "seed": 7}
    entry, path = prmbench.evaluate(model, data=traces_file, output=tmp_path / "run", **options)
    assert recompute(path) == entry
    other = recompute(path, seed=1)
    assert (other.provenance.seed, other.provenance.n_resamples) == (1, 50)
    assert other.metrics != entry.metrics


def test_a_changed_config_is_another_run(tmp_path, traces_file):
    """Not only weights decide scores."""
    folder = support.save_checkpoint(tmp_path / "m")
    output = tmp_path / "run"
    prmbench.evaluate(folder, kind="endo", data=traces_file, output=output, **QUICK)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 50.0
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"other settings \(subject.weights.model"):
        prmbench.evaluate(folder, kind="endo", data=traces_file, output=output, **QUICK)


def test_a_template_that_changes_by_itself_is_another_run(tmp_path, traces_file, monkeypatch):
    folder = support.save_checkpoint(tmp_path / "m", template="{{ range(100000) | random }}" + support.TEMPLATE)
    output = tmp_path / "run"
    prmbench.evaluate(folder, kind="endo", data=traces_file, output=output, **QUICK)
    with pytest.raises(UserError, match=r"other settings \(tokens"):
        prmbench.evaluate(folder, kind="endo", data=traces_file, output=output, **QUICK)


def test_a_limit_that_cuts_nothing_is_no_sample(model, traces_file, tmp_path):
    entry, _ = prmbench.evaluate(model, data=traces_file, limit=100, output=tmp_path / "run", **QUICK)
    assert entry.benchmark.limit is None


def test_loading_arguments_with_a_loaded_model(model, traces_file):
    with pytest.raises(TypeError, match="unexpected with a loaded model: objective, beta"):
        prmbench.evaluate(model, data=traces_file, objective="dpo", beta=3)
    with pytest.raises(TypeError, match=r"unexpected keyword 'subset' \(did you mean 'subsets'"):
        prmbench.evaluate(model, data=traces_file, subset=["x"])


def test_recompute_mistakes(tmp_path):
    with pytest.raises(UserError, match="no such items file"):
        recompute(tmp_path / "no.jsonl")
    with pytest.raises(UserError, match=r"items.jsonl: no such items file"):
        recompute(tmp_path)


def test_a_second_run_scores_nothing_again(finished, model, traces_file):
    entry, path = finished
    again, _ = prmbench.evaluate(model, data=traces_file, output=path.parent, **QUICK)
    assert again == entry  # the run it tells of is still the one that scored


@pytest.mark.parametrize("batch_tokens", [64, 400])
def test_an_interrupted_run_ends_the_same(model, traces_file, tmp_path, batch_tokens, monkeypatch):
    options = {"n_resamples": 100, "batch_tokens": batch_tokens}
    entry, path = prmbench.evaluate(model, data=traces_file, output=tmp_path / "whole", **options)
    calls = 0
    score = model.score

    def stop(batch):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return score(batch)

    monkeypatch.setattr(model, "score", stop)
    with pytest.raises(KeyboardInterrupt):
        prmbench.evaluate(model, data=traces_file, output=tmp_path / "cut", **options)
    items = tmp_path / "cut" / "items.jsonl"
    kept = items.read_text().count("\n")
    assert 0 < kept < 40
    # Lose half of the last batch too: that batch is scored again, whole.
    items.write_text("\n".join(items.read_text().split("\n")[: kept - 1]) + '\n{"subset": "ma')
    monkeypatch.setattr(model, "score", score)
    again, again_path = prmbench.evaluate(model, data=traces_file, output=tmp_path / "cut", **options)
    assert again.provenance.run.resumed_items == kept - 1
    assert figures(again) == figures(entry)
    assert items.read_bytes() == (path.parent / "items.jsonl").read_bytes()
    assert again_path.exists()


def test_results_do_not_depend_on_the_batch_size(model, traces_file, tmp_path):
    small, large = (
        read_items(
            prmbench.evaluate(model, data=traces_file, output=tmp_path / str(n), n_resamples=0, batch_tokens=n)[
                1
            ].parent
            / "items.jsonl"
        )
        for n in (1, 4000)
    )
    for a, b in zip(small, large, strict=True):
        assert np.abs(a.sums - b.sums).max() < 1e-3


def test_changed_settings_or_data_are_refused_in_the_same_folder(finished, model, traces_file, tiny):
    _, path = finished
    with pytest.raises(UserError, match=r"other settings \(numerics.batch_tokens: 1024 there, 7 now\)"):
        prmbench.evaluate(model, data=traces_file, output=path.parent, batch_tokens=7)
    other = load_reward_model(tiny, kind="endo")
    with pytest.raises(UserError, match=r"other settings \(subject.kind: .implicit. there, .endo. now\)"):
        prmbench.evaluate(other, data=traces_file, output=path.parent, **QUICK)
    support.write_traces(traces_file, 40, seed=9)
    with pytest.raises(UserError, match=r"other settings \(data.made"):
        prmbench.evaluate(model, data=traces_file, output=path.parent, **QUICK)


def test_default_folder_depends_on_the_settings(model, traces_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = prmbench.evaluate(model, data=traces_file, **QUICK)[1]
    same = prmbench.evaluate(model, data=traces_file, **QUICK)[1]
    other = prmbench.evaluate(model, data=traces_file, n_resamples=100, batch_tokens=99)[1]
    assert first == same != other
    assert first.parent.parent.name == "prmbench-results"


def test_overlong_traces_are_refused_or_left_out(tmp_path, traces_file):
    folder = support.save_checkpoint(tmp_path / "short", max_position_embeddings=120)
    model = load_reward_model(folder, kind="endo")
    with pytest.raises(UserError, match=r"of 40 traces are longer than the model's 119 positions .*`skip_overlong=`"):
        prmbench.evaluate(model, data=traces_file, output=tmp_path / "a", **QUICK)
    entry, _ = prmbench.evaluate(model, data=traces_file, output=tmp_path / "b", n_resamples=0, skip_overlong=True)
    whole, _ = prmbench.evaluate(
        load_reward_model(support.save_checkpoint(tmp_path / "long"), kind="endo"),
        data=traces_file,
        output=tmp_path / "c",
        **QUICK,
    )
    assert 0 < entry.benchmark.subsets["made"].n_items < 40
    assert entry.benchmark.fingerprint != whole.benchmark.fingerprint


def test_nan_scores_name_the_trace(model, traces_file, tmp_path, monkeypatch):
    score = model.score

    def poisoned(batch):
        found = score(batch)
        found[0].sums[0] = np.nan
        return found

    monkeypatch.setattr(model, "score", poisoned)
    with pytest.raises(UserError, match=r"made/t\d+: the model gives a NaN score"):
        prmbench.evaluate(model, data=traces_file, output=tmp_path / "run", **QUICK)


def test_no_traces(model):
    with pytest.raises(UserError, match="no traces"):
        evaluate_traces(model, [], name="x", source="x")


def test_fingerprints_compare_data_not_models(tiny, tiny_tuned, traces_file, tmp_path):
    one, two = (
        prmbench.evaluate(folder, kind="endo", data=traces_file, output=tmp_path / folder.name, **QUICK)[0]
        for folder in (tiny, tiny_tuned)
    )
    assert one.benchmark.fingerprint == two.benchmark.fingerprint
    assert one.subject.weights != two.subject.weights


def test_real_traces_end_to_end(tiny, tiny_tuned, processbench, tmp_path):
    entry, path = prmbench.evaluate(
        tiny_tuned,
        reference=tiny,
        data=processbench,
        subsets=["gsm8k", "math"],
        limit=40,
        output=tmp_path / "run",
        n_resamples=200,
        skip_overlong=True,
    )
    assert set(entry.benchmark.subsets) == {"gsm8k", "math"}
    assert entry.benchmark.limit == 40
    assert set(entry.metrics.protocols["process"].mean) == {"crossfit", "gsm8k", "oracle"}
    assert json.loads(path.read_text())["schema_version"] == 1


def test_an_entry_of_another_version_is_written_anew(finished, model, traces_file):
    entry, path = finished
    path.write_text('{"schema_version": 0}')
    again, _ = prmbench.evaluate(model, data=traces_file, output=path.parent, **QUICK)
    assert figures(again) == figures(entry)
    assert read_entry(path, ProcessBenchEntry) == again
