from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import support
from typer.testing import CliRunner

import prmbench
from prmbench.benchmarks.differences import check_comparable, side_of
from prmbench.benchmarks.differences import compare_sides as compare
from prmbench.benchmarks.differences_table import p_in_words
from prmbench.benchmarks.policy.run import PRESETS
from prmbench.benchmarks.processbench.benchmark import PROCESSBENCH
from prmbench.benchmarks.processbench.metrics import predict
from prmbench.benchmarks.processbench.schema import RULES
from prmbench.benchmarks.registry import load_measured
from prmbench.cli.app import app
from prmbench.errors import UserError
from prmbench.resources import resource_folder
from prmbench.stats.protocols import TOKEN_PROTOCOLS

QUICK = {"n_resamples": 50}
read_items = PROCESSBENCH.read_items


def load_side(path, **choice):
    return side_of(load_measured(path), **choice)


@pytest.fixture(scope="module")
def runs(tiny, tiny_tuned, tmp_path_factory):
    """Two reward models on the same two subsets, and on another draw of them."""
    root = tmp_path_factory.mktemp("runs")
    for name, seed in (("same", 0), ("other", 5)):
        (root / name).mkdir()
        support.write_traces(root / name / "gsm8k.jsonl", 40, seed)
        support.write_traces(root / name / "math.jsonl", 30, seed + 1)
    model = {"reference": tiny, "objective": "implicit_prm"}
    for name, data, rm in (("a", "same", tiny_tuned), ("b", "same", tiny), ("c", "other", tiny_tuned)):
        prmbench.evaluate(rm, data=root / data, output=root / name, name=name, **QUICK, **model)
    return root


def test_predictions_are_those_of_the_entry(runs):
    """Every protocol and threshold policy: F1 of the predictions is the entry's."""
    one = load_side(runs / "a")
    items = read_items(runs / "a" / "items.jsonl")
    seen = 0
    for protocol in TOKEN_PROTOCOLS:
        for policy in RULES:
            in_entry = one.measured.entry.metrics.protocols[protocol].subsets["gsm8k"].rules.get(policy)
            if in_entry is None:
                continue
            found = predict(
                items,
                one.measured.entry.subject.beta,
                one.measured.entry.subject.fixed_thresholds,
                protocol=protocol,
                rule=policy,
            )
            for name, predictions in found.items():
                entry = one.measured.entry.metrics.protocols[protocol].subsets[name].rules[policy]
                error = predictions.labels >= 0
                assert predictions.hits[error].mean() == pytest.approx(entry.acc_error.value)
                assert predictions.hits[~error].mean() == pytest.approx(entry.acc_correct.value)
                seen += 1
    assert seen > 20


def test_a_pair(runs):
    a, b = load_side(runs / "a"), load_side(runs / "b")
    (pair,) = compare([a, b], n_resamples=500)
    assert (pair.first, pair.second) == ("a", "b")
    for name, difference in pair.subsets.items():
        crossfit = [
            m.measured.entry.metrics.protocols["process"].subsets[name].rules["crossfit"].f1.value for m in (a, b)
        ]
        assert (difference.first, difference.second) == pytest.approx(tuple(crossfit))
        assert difference.value == pytest.approx(crossfit[0] - crossfit[1])
        assert difference.low <= difference.value <= difference.high
        mine, theirs = a.subsets[name].values > 0, b.subsets[name].values > 0
        assert difference.mcnemar.only_first == int((mine & ~theirs).sum()) == len(difference.flips[0])
        assert difference.mcnemar.only_second == int((~mine & theirs).sum()) == len(difference.flips[1])
        assert set(difference.flips[0]) == {
            i for i, m, t in zip(a.subsets[name].ids, mine, theirs, strict=True) if m and not t
        }
        for groups in (difference.groups["position"], difference.groups["generator"]):
            assert sum(g.n for g in groups) == len(a.subsets[name].ids)
            assert sum(g.mcnemar.only_first for g in groups) == difference.mcnemar.only_first
        assert difference.groups["position"][0].name == "no error"
    assert pair.mean.value == pytest.approx(np.mean([d.value for d in pair.subsets.values()]))
    assert pair.p_holm == pair.mean.p


def test_both_ways_and_with_itself(runs):
    a, b = load_side(runs / "a"), load_side(runs / "b")
    (one,), (other,) = compare([a, b], n_resamples=300), compare([b, a], n_resamples=300)
    assert one.mean.value == -other.mean.value
    (same,) = compare([a, dataclasses.replace(a)], n_resamples=100)
    assert (same.mean.value, same.mean.low, same.mean.high, same.mean.p) == (0, 0, 0, 1)


def test_three_are_corrected_together(runs):
    three = [load_side(runs / "a"), load_side(runs / "b"), load_side(runs / "a", protocol="prefix")]
    pairs = compare(three, n_resamples=300)
    assert [(p.first, p.second) for p in pairs] == [("a", "b"), ("a", "a"), ("b", "a")]
    assert all(p.p_holm >= p.mean.p for p in pairs)
    assert min(p.p_holm for p in pairs) == pytest.approx(min(1.0, 3 * min(p.mean.p for p in pairs)))


def test_what_cannot_be_compared_is_named(runs, tmp_path):
    a, c = load_side(runs / "a"), load_side(runs / "c")
    with pytest.raises(UserError, match=r"field 'benchmark\.subsets\.gsm8k\.data_hash' is"):
        check_comparable(a, c)
    with pytest.raises(UserError, match="expected two entries or more"):
        compare([a])
    with pytest.raises(UserError, match="expected an entry, or the folder of a run"):
        load_side(tmp_path / "nowhere")
    (tmp_path / "entry.json").write_text("[]")
    with pytest.raises(UserError, match="is no entry"):
        load_side(tmp_path)
    with pytest.raises(UserError, match="protocol 'proces': these scores have process, prefix"):
        load_side(runs / "a", protocol="proces")
    with pytest.raises(UserError, match="threshold rule 'fixed' is not defined here"):
        load_side(runs / "a", thresholds="fixed")
    changed = tmp_path / "changed"
    shutil.copytree(runs / "a", changed)
    items = changed / "items.jsonl"
    items.write_text(items.read_text().replace('"label": -1', '"label": 0', 1))
    with pytest.raises(UserError, match="is not the file that the entry beside it describes"):
        load_side(changed)


def test_policies_and_best_of_n(tiny, tiny_tuned, tmp_path):
    problems = tmp_path / "p.jsonl"
    problems.write_text(
        "".join(json.dumps({"id": f"p{i}", "problem": f"Say {i}.", "answer": "7"}) + "\n" for i in range(8))
    )
    short = PRESETS["paper"].model_copy(update={"max_new_tokens": 6})
    for name, policy, params in (("one", tiny, short), ("two", tiny_tuned, short), ("hot", tiny, PRESETS["released"])):
        params = params.model_copy(update={"max_new_tokens": 6})
        prmbench.measure_policy(
            str(policy), subsets=[str(problems)], output=tmp_path / name, name=name, n=2, params=params, n_resamples=20
        )
    one, two, hot = (load_side(tmp_path / name) for name in ("one", "two", "hot"))
    (pair,) = compare([one, two], n_resamples=100)
    assert pair.mean.first == one.measured.entry.metrics.mean["average"].value
    assert pair.subsets["p"].mcnemar is None
    with pytest.raises(UserError, match=r"field 'benchmark\.settings\.sampling' is"):
        check_comparable(one, hot)
    with pytest.raises(UserError, match="`protocol=`: means nothing for policy"):
        load_side(tmp_path / "one", protocol="prefix")

    rollouts = tmp_path / "one" / "p"
    for name, rm in (("x", tiny_tuned), ("y", tiny)):
        prmbench.rerank(
            rm, [rollouts], reference=tiny, objective="dpo", output=tmp_path / name, name=name, n_resamples=20
        )
    x, y = (load_side(tmp_path / name) for name in ("x", "y"))
    (pair,) = compare([x, y], n_resamples=100)
    own = x.measured.entry.metrics.mean.scores[x.measured.entry.metrics.own]["2"]["expected"].value
    assert pair.mean.first == pytest.approx(own)
    with pytest.raises(UserError, match="`n=3`: .* has 2 completions"):
        load_side(tmp_path / "x", n=3)
    with pytest.raises(UserError, match=r"field 'benchmark\.name' is \"policy\" and \"best-of-n\""):
        check_comparable(one, x)


def test_the_command_on_the_entries_that_ship():
    entries = resource_folder("leaderboards") / "entries"
    paths = [str(entries / f"smollm2-135m-{name}") for name in ("ipvrm", "implicit_prm")]
    runner = CliRunner(env={"COLUMNS": "160"})
    shown = runner.invoke(app, ["compare", *paths, "--groups", "--resamples", "500"])
    assert shown.exit_code == 0, shown.output
    for text in ("2 subjects on the same 400 items", "gsm8k: no error", "gsm8k: Qwen2-1.5B-Instruct", "right only by"):
        assert text in shown.output
    found = json.loads(runner.invoke(app, ["compare", *paths, "--json", "--resamples", "500"]).stdout)
    (pair,) = found["pairs"]
    assert pair["mean"]["value"] == pytest.approx(pair["mean"]["first"] - pair["mean"]["second"])
    assert found["benchmark"] == "processbench"


def test_other_labels_are_no_comparison(runs, tmp_path):
    """Labels that were changed, the digests kept and the entry made to fit: the other entry gives it away."""
    a = load_side(runs / "a")
    one = a.subsets["gsm8k"]
    labels = one.labels.copy()
    labels[0] = -1 if labels[0] >= 0 else 0
    changed = dataclasses.replace(a, subsets={**a.subsets, "gsm8k": dataclasses.replace(one, labels=labels)})
    with pytest.raises(UserError, match=f"item '{one.ids[0]}' of gsm8k has another label in each"):
        compare([a, changed])
    digests = ["0" * 64, *one.digests[1:]]
    changed = dataclasses.replace(a, subsets={**a.subsets, "gsm8k": dataclasses.replace(one, digests=digests)})
    with pytest.raises(UserError, match="has another digest in each"):
        compare([a, changed])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("status", "reported", "only measured entries"), ("subject", {"name": "a\x1b[31m"}, "holds control characters")],
)
def test_entries_that_are_not_read(runs, tmp_path, field, value, message):
    copy = shutil.copytree(runs / "a", tmp_path / "copy")
    fields = json.loads((copy / "entry.json").read_text())
    fields[field] = {**fields[field], **value} if isinstance(value, dict) else value
    (copy / "entry.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=message):
        load_side(copy)


def test_names_at_80_columns(runs, tmp_path):
    """Two names that begin alike are cut to what differs, whole; two runs of one name are told apart by their folders."""
    paths = []
    for folder, name in (("a", "Qwen2.5-Math-PRM-7B-step100"), ("b", "Qwen2.5-Math-PRM-7B-step200")):
        paths.append(shutil.copytree(runs / folder, tmp_path / folder))
        support.change_json(
            paths[-1] / "entry.json",
            subject={**json.loads((paths[-1] / "entry.json").read_text())["subject"], "name": name},
        )
    runner = CliRunner(env={"COLUMNS": "80"})
    shown = runner.invoke(app, ["compare", *map(str, paths), "--resamples", "50", "--groups"]).output
    heading = "".join(line for line in shown.splitlines() if "difference" in line or "step" in line)
    assert "step100" in heading
    assert "step200" in heading
    assert max(map(len, shown.splitlines())) <= 80
    assert not any(line.rstrip().endswith("\N{HORIZONTAL ELLIPSIS}") for line in shown.splitlines())
    for path in paths:
        support.change_json(
            path / "entry.json", subject={**json.loads((path / "entry.json").read_text())["subject"], "name": "same"}
        )
    found = json.loads(runner.invoke(app, ["compare", *map(str, paths), "--resamples", "50", "--json"]).stdout)
    assert [found["pairs"][0][side] for side in ("first", "second")] == ["same (a)", "same (b)"]


def test_no_significant_difference_keeps_its_sign():
    entries = resource_folder("leaderboards") / "entries"
    paths = [str(entries / f"miniature-{name}") for name in ("ipvrm_late", "ipvrm")]
    shown = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["compare", *paths, "--resamples", "500"]).output
    (pair,) = compare([load_side(path) for path in paths], n_resamples=500)
    assert pair.mean.p > 0.05
    assert pair.mean.value < 0
    said = f"No significant difference: ipvrm_late minus ipvrm is {100 * pair.mean.value:+.1f} points, p = 0."
    assert said in shown


def test_the_same_on_every_item_is_no_proof():
    entry = str(resource_folder("leaderboards") / "entries" / "miniature-dpo")
    shown = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["compare", entry, entry, "--resamples", "50"]).output
    assert "No difference: both come to the same on every item. An interval of width 0 is no proof" in shown


def test_a_small_p_within_a_sentence():
    assert [p_in_words(p) for p in (0.0004, 0.001, 0.0123)] == ["p < 0.001", "p = 0.001", "p = 0.012"]
