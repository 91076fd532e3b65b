"""Calibration against labels by rollouts: figures by plain loops, intervals that cover, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import support
import support_prm
from scipy.special import expit
from scipy.stats import binomtest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from prmbench.benchmarks.base import DataRequest, Job
from prmbench.benchmarks.calibration.benchmark import CALIBRATION
from prmbench.benchmarks.calibration.metrics import compute_calibration
from prmbench.benchmarks.calibration.run import find_truth
from prmbench.benchmarks.calibration.schema import StateValues
from prmbench.benchmarks.registry import recompute
from prmbench.benchmarks.runner import evaluate_alone
from prmbench.cli.app import app
from prmbench.data.prompts import find_prompt
from prmbench.errors import UserError
from prmbench.results.schema import Subject
from prmbench.reward_models.loading import load_reward_model
from prmbench.stats.calibration import margin_logit

IPVRM = Subject(name="x", source=None, kind="implicit", objective="ipvrm", beta=10.0, margin=5.0)
LOGITS = Subject(
    name="x", source=None, kind="classifier", objective="step_soft", step_valued=True, fixed_thresholds={"step": 0.0}
)


def made(rng, n, k=8, bias=0.0):
    """Solutions whose logits are those of the true rates, plus a bias."""
    items = []
    for i in range(n):
        theta = rng.beta(1.5, 1.5, size=int(rng.integers(2, 6)))
        values = np.log(theta / (1 - theta)) + bias
        t = np.cumsum(rng.integers(1, 9, size=len(theta)))
        right = rng.binomial(k, theta)
        items.append(StateValues("s", f"{i}", f"p{i // 2}", "d", t, values, right, np.full(len(theta), k)))
    return items


def test_figures_by_plain_loops():
    items = made(np.random.default_rng(0), 30, bias=0.4)
    found = compute_calibration(items, LOGITS, n_resamples=40, seed=0)
    states = [(v, k, n) for one in items for v, k, n in zip(one.values, one.successes, one.trials, strict=True)]
    p, rate = np.array([expit(v) for v, _, _ in states]), np.array([k / n for _, k, n in states])
    outcomes = [(q, 1.0) for q, (_, k, _) in zip(p, states, strict=True) for _ in range(k)]
    outcomes += [(q, 0.0) for q, (_, k, n) in zip(p, states, strict=True) for _ in range(n - k)]
    assert (found.n_rollouts, found.states.n_states, found.states.n_continuations) == (30, len(states), 8)
    assert found.pass_rate.value == pytest.approx(rate.mean())
    assert list(found.states.links) == ["margin"]
    link = found.states.links["margin"]
    assert link.predicted.value == pytest.approx(p.mean())
    assert link.brier.value == pytest.approx(np.mean([(q - y) ** 2 for q, y in outcomes]))
    assert link.error.value == pytest.approx(
        np.mean([(q - r) ** 2 - r * (1 - r) / 7 for q, r in zip(p, rate, strict=True)])
    )
    inside = [
        (c := binomtest(k, n).proportion_ci(0.95)).low <= q <= c.high for q, (_, k, n) in zip(p, states, strict=True)
    ]
    assert link.inside.value == pytest.approx(np.mean(inside))
    ece = 0.0
    for low in np.arange(10) / 10:
        mine = (p >= low) & (p < low + 0.1)
        if mine.any():
            ece += mine.mean() * abs(p[mine].mean() - rate[mine].mean())
    assert link.ece.value == pytest.approx(ece)
    pairs = [(a > b) + 0.5 * (a == b) for a, y in outcomes if y for b, z in outcomes if not z]
    assert found.states.auc.value == pytest.approx(np.mean(pairs))
    assert sum(share for _, _, share in link.diagram) == pytest.approx(1)
    for _, of, _ in link.diagram:
        assert of.low <= of.value <= of.high


def test_the_error_is_that_of_the_true_rates_whatever_the_number_of_continuations():
    """Unbiased for the known error of a biased model, at 2 and at 32 continuations; a perfect model has none."""
    rng = np.random.default_rng(1)
    for k in (2, 32):
        items = made(rng, 1500, k=k)
        assert compute_calibration(items, LOGITS, n_resamples=0, seed=0).states.links["margin"].error.value == (
            pytest.approx(0, abs=0.006)
        )
    biased = made(rng, 1500, k=2, bias=1.0)
    truth = np.mean([(expit(v) - expit(v - 1.0)) ** 2 for one in biased for v in one.values])
    found = compute_calibration(biased, LOGITS, n_resamples=0, seed=0).states.links["margin"]
    assert found.error.value == pytest.approx(truth, abs=0.006)
    assert truth > 0.02


def test_intervals_respect_the_continuations():
    """The interval over problems of the mean rate covers the true mean, though each state has one continuation alone."""
    rng, covered = np.random.default_rng(2), 0
    for seed in range(200):
        found = compute_calibration(made(rng, 60, k=1), LOGITS, n_resamples=200, seed=seed)
        covered += found.pass_rate.low <= 0.5 <= found.pass_rate.high  # the mean of the beta distribution
    assert 0.9 <= covered / 200 <= 0.99
    assert found.states.links["margin"].error.value is None  # one continuation says nothing of its noise
    assert found.states.error_constant is None


def test_states_without_a_token_are_left_out():
    item = StateValues("s", "a", "p", "d", np.array([0, 3]), np.array([0.0, 1.0]), np.array([2, 2]), np.array([4, 4]))
    assert compute_calibration([item], IPVRM, n_resamples=0, seed=0).states.n_states == 1
    empty = StateValues("s", "a", "p", "d", np.array([0]), np.array([0.0]), np.array([2]), np.array([4]))
    with pytest.raises(UserError, match="has a token before its end"):
        compute_calibration([empty], IPVRM, n_resamples=0, seed=0)


def test_an_ipvrm_is_read_by_both_links_off_the_mean():
    items = made(np.random.default_rng(3), 20)
    found = compute_calibration(items, IPVRM, n_resamples=0, seed=0)
    v = np.concatenate([10 * one.values / one.t for one in items])
    assert found.states.links["margin"].predicted.value == pytest.approx(expit(margin_logit(v, 5.0)).mean())
    assert found.states.links["naive"].predicted.value == pytest.approx(expit(v).mean())


@pytest.fixture(scope="module")
def labels(tiny, tmp_path_factory):
    """A run of `prmbench label` of a tiny policy."""
    folder = tmp_path_factory.mktemp("labels")
    records = [
        {"id": f"{i}", "problem": f"{i} + 1?", "answer": str(i), "steps": ["We add.", "It is so.", f"So {i}."]}
        for i in range(3)
    ]
    (folder / "x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    command = f"label {folder / 'x.jsonl'} --policy {tiny} --prompt number --k 4 --max-new-tokens 40 --output {folder / 'run'}"
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    return folder / "run"


def test_the_labels_of_a_run_are_the_truth_of_the_probe(tiny, tiny_tuned, labels, tmp_path):
    command = (
        f"probe calibration --rm {tiny_tuned} --reference {tiny} --objective implicit_prm --rollouts {labels} --resamples 20 "
        f"--output {tmp_path / 'run'}"
    )
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    assert "6 ends of steps of 3 solutions, 4 continuations each" in done.stdout
    assert (tmp_path / "run" / "calibration.svg").exists()
    # Values are those of the prefixes, counts those of the run; the finished ends are left out.
    model = load_reward_model(tiny_tuned, reference=tiny, objective="implicit_prm")
    written = [json.loads(line) for line in (labels / "labels.jsonl").read_text().splitlines()]
    items = CALIBRATION.read_items(tmp_path / "run" / "items.jsonl")
    for item, record in zip(items, written, strict=True):
        trace = model.encoder.encode(find_prompt("number").render(record["problem"]), record["steps"])
        (values,) = model.token_values([trace])
        ends = [int(np.flatnonzero(trace.step_of == step)[-1]) + 1 for step in range(2)]
        assert item.t.tolist() == np.cumsum(trace.step_counts())[:2].tolist()
        assert item.values == pytest.approx([values[:end].sum() for end in ends], abs=1e-4)
        assert (item.successes.tolist(), item.trials.tolist()) == (record["successes"][:2], [4, 4])
    entry = json.loads((tmp_path / "run" / "entry.json").read_text())
    assert recompute(tmp_path / "run").metrics.model_dump(mode="json") == entry["metrics"]
    page = CliRunner().invoke(app, f"report {tmp_path / 'run'} --output {tmp_path / 'page.html'}".split())
    assert page.exit_code == 0, page.output
    assert "rate of right continuations" in (tmp_path / "page.html").read_text()


def test_an_explicit_prm_is_measured_by_its_scores_and_other_scores_are_refused(tiny, labels, tmp_path):
    folder = support_prm.save_linear_classifier(tmp_path / "prm", AutoTokenizer.from_pretrained(tiny), arch="llama")
    model = load_reward_model(folder, preset="trl-prm")
    entry, path = evaluate(model, labels, tmp_path / "run")
    items = CALIBRATION.read_items(path.parent / "items.jsonl")
    for item in items:
        record = next(one for one in map(json.loads, (labels / "labels.jsonl").open()) if one["id"] == item.id)
        (scores,) = model.score([model.encode(record["problem"], record["steps"])])
        assert item.values == pytest.approx(scores.scores[:2], abs=1e-5)
    assert entry.metrics.states.links["margin"].predicted.value == pytest.approx(
        np.mean(expit(np.concatenate([item.values for item in items])))
    )
    with pytest.raises(UserError, match="objective 'dpo' gives values that are no probability's logit"):
        evaluate(load_reward_model(tiny, reference=tiny, objective="dpo"), labels, tmp_path / "other")


def evaluate(model, labels, output):
    data = find_truth(DataRequest(rollouts=[labels]))
    return evaluate_alone(CALIBRATION, Job(data=data, model=model, name="x", source="x", output=output, n_resamples=10))


def test_labels_and_rollouts_are_not_mixed(labels, tmp_path):
    rollouts = support.write_candidates(tmp_path / "c.jsonl")
    with pytest.raises(UserError, match="some of the rollouts are labels of steps"):
        find_truth(DataRequest(rollouts=[labels, rollouts]))
    with pytest.raises(UserError, match="sampled with number; leave it out"):
        find_truth(DataRequest(rollouts=[labels], prompt="boxed"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": [1]}, "must hold equally many numbers"),
        ({"trials": [4, 0]}, "field 'trials' must hold numbers from 1"),
        ({"successes": [5, 0]}, "none below 'successes'"),
        ({"values": [0.5, float("nan")]}, "field 'values' must hold finite numbers"),
    ],
)
def test_hostile_items_are_named(tmp_path, change, message):
    fields = {"subset": "a", "id": "p", "problem": "q", "digest": "d"}
    fields |= {"t": [1, 2], "values": [0.5, -1.0], "successes": [1, 0], "trials": [4, 4]}
    assert CALIBRATION.parse("x", fields).t.tolist() == [1, 2]
    with pytest.raises(UserError, match=f"x: .*{message}"):
        CALIBRATION.parse("x", {**fields, **change})


def test_one_file_has_one_sort_of_truth(tmp_path):
    state = {
        "subset": "a",
        "id": "p",
        "problem": "q",
        "digest": "d",
        "t": [1],
        "values": [0.5],
        "successes": [1],
        "trials": [4],
    }
    rollout = {"subset": "a", "id": "p", "sample": 0, "digest": "d", "correct": True, "t": [1] * 5, "sums": [0.5] * 5}
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(state) + "\n" + json.dumps(rollout) + "\n")
    with pytest.raises(UserError, match="keep them in two files"):
        CALIBRATION.read_items(path)
