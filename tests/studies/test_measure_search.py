"""The study of guided search on a few problems."""

from __future__ import annotations

import pytest

from prmbench.benchmarks.registry import load_measured
from prmbench.data.problems import load_problems
from prmbench.data.prompts import find_prompt
from prmbench.miniature.build import PROMPT, SHIPPED, Build, make_problems, write_lines
from prmbench.miniature.true_model import TrueValueModel
from prmbench.policies.policy import load_policy
from prmbench.reward_models.loading import load_reward_model
from prmbench.studies import measure_search as study
from prmbench.studies.lab import Lab
from prmbench.studies.measure_search import agreement, measure_many, measure_search
from prmbench.studies.runs import StudyRun, perform


@pytest.fixture(scope="module")
def policy():
    return load_policy(str(SHIPPED), find_prompt(PROMPT))


@pytest.mark.slow
def test_true_values_order_prefixes_as_themselves_and_win(policy, tmp_path):
    problems = load_problems(write_lines(tmp_path / "p.jsonl", make_problems(Build().world, "test", 3, 7)))
    truth = TrueValueModel(Build().world, policy.encoder)
    assert agreement(truth, truth, policy, problems, n=6) == pytest.approx(1)
    # The policy's own confidence is another matter.
    endo = load_reward_model(SHIPPED, kind="endo")
    assert -1 < agreement(endo, truth, policy, problems, n=6) < 1
    found = measure_search(truth, policy, problems, "true values", tmp_path / "run")
    assert load_measured(tmp_path / "run").entry.metrics == found
    many = measure_many(truth, policy, problems, "true values", tmp_path / "many", n=32)
    # True values choose a right sample wherever there is one, and never lose by more samples.
    assert [one.accuracy.value for one in many.mean.curve.values()] == pytest.approx(
        [one.any_right.value for one in many.mean.curve.values()]
    )


@pytest.mark.slow
def test_a_run_of_the_study(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, size in {"N_SEARCHED": 3, "N_MANY": 2, "MANY": 16}.items():
        monkeypatch.setattr(study, name, size)
    row = perform(StudyRun("search", "true values"), Lab(0))
    assert set(row["methods"]) == {
        f"{m}@{n}" for m in ("best-of-n", "weighted", "beam", "dvts", "particles") for n in (4, 16)
    }
    beam = row["methods"]["beam@16"]
    assert beam["difference"]["value"] == pytest.approx(beam["accuracy"]["value"] - beam["best_of_n"])
    assert beam["flops"] > 0
    assert row["curve"]["16"]["accuracy"] == row["curve"]["16"]["any_right"]
    assert row["agreement"] == 1
