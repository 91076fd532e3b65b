from __future__ import annotations

import json
import shutil

import pytest
import support

from prmbench.benchmarks.calibration.run import evaluate_calibration
from prmbench.benchmarks.td_probe.benchmark import TD_PROBE
from prmbench.data.completions import load_completions
from prmbench.data.prompts import find_prompt
from prmbench.data.traces import load_traces
from prmbench.errors import UserError
from prmbench.reports.leaderboard import add
from prmbench.reports.subject_page import write_report
from prmbench.reports.verification import unchecked_subsets, verify_entry
from prmbench.results.schema import read_entry
from prmbench.reward_models.loading import load_reward_model


@pytest.fixture(scope="module")
def calibrated(tiny, tiny_tuned, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    file = support.write_candidates(folder / "c.jsonl")
    model = load_reward_model(tiny_tuned, reference=tiny, objective="implicit_prm")
    evaluate_calibration(
        model,
        load_completions([file]),
        find_prompt("boxed"),
        name="first",
        source="first",
        output=folder / "run",
        n_resamples=50,
    )
    return folder / "run"


def test_everything_is_on_the_page(probe_folders, calibrated, tmp_path):
    page = support.Page(write_report([probe_folders / "first", calibrated], tmp_path / "page.html"))
    metrics = read_entry(probe_folders / "first" / "entry.json", TD_PROBE.entry_type).metrics
    assert "All branches (48 of 12 states): AUC and correlations, times 100" in page.text
    for result in metrics.branches.signals.values():
        for figure in (result.auc, result.pearson, result.agreement):
            assert f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]" in page.text
    for note in metrics.branches.notes:
        assert f"All branches: {note}" in page.text
    for part in metrics.positions:
        assert f"{100 * part.low:.0f} to {100 * part.high:.0f}% ({part.n_branches:,} branches)" in page.text
    assert "first 100%, naive" in page.text
    assert page.tags.count("figure") == 2
    alone = support.Page(write_report([probe_folders / "candidates"], tmp_path / "alone.html"))
    assert "Next tokens with at least P_min" in alone.text
    assert "states with several, %" in alone.text


@pytest.mark.parametrize("name", ["first", "candidates", "calibrated"])
def test_probes_are_what_their_items_say(probe_folders, calibrated, tmp_path, name):
    folder = shutil.copytree(calibrated if name == "calibrated" else probe_folders / name, tmp_path / "copy")
    assert verify_entry(folder) == []
    entry = json.loads((folder / "entry.json").read_text())
    where = {
        "first": ("branches", "signals", "td", "auc"),
        "candidates": ("p_min", "0.1", "mass"),
        "calibrated": ("pass_rate",),
    }[name]
    inner = entry["metrics"]
    for key in where:
        inner = inner[key]
    inner["value"] = 0.987
    (folder / "entry.json").write_text(json.dumps(entry))
    (found,) = verify_entry(folder)
    assert f"field 'metrics.{'.'.join(where)}.value' is 0.987; its items give" in found
    with pytest.raises(UserError, match="its items give"):
        write_report([folder], tmp_path / "page.html")


def test_data_at_hand_do_not_matter_to_them(probe_folders, tmp_path):
    traces = load_traces(support.write_traces(tmp_path / "t.jsonl", 4))
    assert verify_entry(probe_folders / "first", traces) == []
    assert unchecked_subsets(probe_folders / "first", traces) == ["a"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("sum", 10**400), ("rolled", 10**30), ("rank", -1), ("length", 0), ("right", 99), ("logprob", None)],
)
def test_broken_branches_are_named(probe_folders, tmp_path, field, value):
    folder = shutil.copytree(probe_folders / "first", tmp_path / "copy")
    first, *rest = (folder / "items.jsonl").read_text().splitlines(keepends=True)
    (folder / "items.jsonl").write_text(json.dumps({**json.loads(first), field: value}) + "\n" + "".join(rest))
    with pytest.raises(UserError, match=r"items.jsonl, line 1: "):
        verify_entry(folder)


@pytest.mark.parametrize("field", ["seed", "n_resamples"])
def test_statistics_below_zero_are_named(probe_folders, tmp_path, field):
    folder = shutil.copytree(probe_folders / "first", tmp_path / "copy")
    entry = json.loads((folder / "entry.json").read_text())
    entry["provenance"][field] = -1
    (folder / "entry.json").write_text(json.dumps(entry))
    with pytest.raises(UserError, match=field):
        verify_entry(folder)


@pytest.mark.parametrize("field", ["provenance", "items"])
def test_what_figures_are_traced_by_is_not_left_out(probe_folders, tmp_path, field):
    folder = shutil.copytree(probe_folders / "first", tmp_path / "copy")
    entry = json.loads((folder / "entry.json").read_text())
    (folder / "entry.json").write_text(json.dumps({**entry, field: None}))
    (found,) = verify_entry(folder)
    assert f"field '{field}' is empty" in found


def test_no_leaderboard_takes_them(probe_folders, tmp_path):
    with pytest.raises(UserError, match="entries of td-probe are compared, not ranked"):
        add(probe_folders / "first", tmp_path)


def test_a_link_that_is_gone_is_named(calibrated, tmp_path):
    folder = shutil.copytree(calibrated, tmp_path / "copy")
    entry = json.loads((folder / "entry.json").read_text())
    entry["subject"]["objective"] = "dpo"
    (folder / "entry.json").write_text(json.dumps(entry))
    with pytest.raises(UserError, match=r"'first': objective \"dpo\" with margin null has no link from values"):
        verify_entry(folder)
