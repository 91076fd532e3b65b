from __future__ import annotations

import dataclasses
import math

import pytest

from prmbench.miniature.solutions import FORMATS
from prmbench.studies import lab, measure_probes, prefix_values, settings
from prmbench.studies.runs import StudyRun, perform

RUNS = [
    StudyRun("reward model", "ipvrm"),
    StudyRun("reward model", "endo"),
    StudyRun("best-of-n", "ipvrm"),
    StudyRun("policy", "sft"),
    StudyRun("policy", "distrl ipvrm"),
    StudyRun("td", "ipvrm"),
    StudyRun("candidates", "sft"),
    StudyRun("credit", "ipvrm"),
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Every kind of run, from the policy that ships, at a size of seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        sizes = {"N_OUTCOMES": (300, 5), "N_ROLLOUTS": (60, 4), "N_TRACES": 40, "N_CANDIDATES": (4, 64)}
        for name, size in {**sizes, "N_TRAIN": 300, "N_TEST": 40}.items():
            patch.setattr(lab, name, size)
        patch.setattr(prefix_values, "N_PREFIXED", 20)
        for name, size in {"N_BRANCHES": 40, "ROLLOUTS_EACH": 4, "N_PROBED": 10}.items():
            patch.setattr(measure_probes, name, size)
        short = dataclasses.replace(settings.POLICIES["distrl ipvrm"], steps=2)
        patch.setitem(settings.POLICIES, "distrl ipvrm", short)
        made = lab.Lab(0)
        found = {run: perform(run, made) for run in RUNS}
        again = {run: perform(run, lab.Lab(0)) for run in RUNS}
        yield found, again, made


@pytest.mark.slow
def test_every_kind_of_run_is_made_once_and_kept(rows):
    found, again, made = rows
    assert again == found
    for run, row in found.items():
        assert run.place(made.folder).is_file()
        assert (row["name"], row["seed"], row["split"]) == (run.name, 0, "test")
    assert found[StudyRun("policy", "distrl ipvrm")]["reward"]["objective"] == "ipvrm"
    assert not list((made.folder / "runs").rglob("*.safetensors"))  # weights of policies are not kept


@pytest.mark.slow
def test_what_is_measured_of_a_reward_model(rows):
    row = rows[0][StudyRun("reward model", "ipvrm")]
    assert set(row["f1"]["crossfit"]) == set(FORMATS)
    assert 0.5 < row["auc_final"] <= 1
    share = row["format_share"]
    assert 0 < share["absolute"] < 1
    assert 0 < share["tokens"] < 1
    truth = row["truth"]
    assert truth["n"] == 80
    assert -1 <= truth["spearman"] <= 1
    # The links differ where there is a margin, and only there is a link needed.
    assert truth["margin"]["mse"] != truth["naive"]["mse"]
    assert sum(truth["margin"]["share"]) == pytest.approx(1)
    endo = rows[0][StudyRun("reward model", "endo")]["truth"]
    assert "margin" not in endo
    assert row["f1"]["crossfit"]["tagged"]["process"] is not None


@pytest.mark.slow
def test_what_is_measured_of_a_policy_and_by_the_probes(rows):
    found = rows[0]
    start, trained = (found[StudyRun("policy", name)] for name in ("sft", "distrl ipvrm"))
    assert len(start["right"]) == len(trained["right"]) == 40
    assert start["n"] == trained["n"] == 8
    assert start["history"] == []
    assert [0 <= step["rollouts/accuracy"] <= 1 for step in trained["history"]] == [True, True]
    for sampled in ("figures", "at_one"):
        own = next(iter(found[StudyRun("best-of-n", "ipvrm")][sampled]["scores"].values()))
        assert set(own) == {"4", "16", "64"}
    td = found[StudyRun("td", "ipvrm")]["metrics"]["branches"]["signals"]["td"]["auc"]["value"]
    assert td is None or not math.isnan(td)
    sizes = [found[StudyRun("candidates", "sft")]["metrics"]["p_min"][p]["size"]["value"] for p in ("0.05", "0.2")]
    assert sizes[0] >= sizes[1] > 0.9
