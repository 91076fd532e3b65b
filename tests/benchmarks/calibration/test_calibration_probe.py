from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import support
from typer.testing import CliRunner

from prmbench.benchmarks.calibration.benchmark import CALIBRATION
from prmbench.benchmarks.calibration.metrics import compute_calibration
from prmbench.benchmarks.calibration.run import evaluate_calibration, prefix_lengths
from prmbench.benchmarks.calibration.schema import RolloutValues
from prmbench.benchmarks.judged import encode_completions
from prmbench.benchmarks.registry import recompute
from prmbench.cli.app import app
from prmbench.data.completions import StoredCompletion, load_completions
from prmbench.data.prompts import find_prompt
from prmbench.errors import UserError
from prmbench.results.schema import Subject
from prmbench.reward_models.loading import load_reward_model
from prmbench.stats.calibration import margin_logit, reliability, sigmoid

IPVRM = Subject(name="x", source=None, kind="implicit", objective="ipvrm", beta=10.0, margin=5.0)


@pytest.fixture
def file(tmp_path):
    return support.write_candidates(tmp_path / "c.jsonl")


def test_prefixes_end_at_each_fifth():
    assert prefix_lengths(10) == [2, 4, 6, 8, 10]
    assert prefix_lengths(7) == [2, 3, 5, 6, 7]
    assert prefix_lengths(1) == [1, 1, 1, 1, 1]


def test_figures_by_plain_loops():
    rng = np.random.default_rng(0)
    items = []
    for i in range(40):
        t = prefix_lengths(20 + i)
        sums = (0.02 * rng.standard_normal(5) * np.array(t)).tolist()
        items.append(RolloutValues("s", f"p{i // 4}", i % 4, "d", bool(rng.integers(2)), t, sums))
    found = compute_calibration(items, IPVRM, n_resamples=60, seed=0)
    right = np.array([float(item.correct) for item in items])
    assert found.brier_constant == pytest.approx(np.mean((right - right.mean()) ** 2))
    for i, part in enumerate(found.parts):
        value = np.array([10 * item.sums[i] / item.t[i] for item in items])
        for name, m in (("margin", 5.0), ("naive", 0.0)):
            p = sigmoid(margin_logit(value, m))
            assert part.links[name].brier.value == pytest.approx(np.mean((p - right) ** 2))
            assert part.links[name].predicted.value == pytest.approx(p.mean())
            assert part.links[name].ece.value == pytest.approx(reliability(p, right, n_bins=10).ece())
            assert sum(size for _, _, size in part.links[name].diagram) == pytest.approx(1)
        pairs = [(a > b) + 0.5 * (a == b) for a in value[right == 1] for b in value[right == 0]]
        assert part.auc.value == pytest.approx(np.mean(pairs))
        assert part.auc.low < part.auc.value < part.auc.high
    naive = found.parts[0].links["naive"].brier.value
    assert naive != pytest.approx(found.parts[0].links["margin"].brier.value)


def test_implicit_prm_is_read_off_the_sum():
    items = [RolloutValues("s", f"p{i}", 0, "d", i % 2 == 0, [1, 2, 3, 4, 5], [i, i, i, i, 2.0 * i]) for i in range(4)]
    subject = IPVRM.model_copy(update={"objective": "implicit_prm", "beta": 0.5, "margin": None})
    found = compute_calibration(items, subject, n_resamples=0, seed=0)
    assert found.parts[-1].links["margin"].predicted.value == pytest.approx(sigmoid(np.arange(4.0)).mean())
    assert found.parts[-1].links["margin"] == found.parts[-1].links["naive"]


def test_items_are_prefix_sums_of_token_values(tiny, tiny_tuned, file, tmp_path):
    model = load_reward_model(tiny_tuned, reference=tiny, objective="ipvrm", margin=5.0)
    candidates, template = load_completions([file]), find_prompt("boxed")
    entry, path = evaluate_calibration(
        model, candidates, template, name="x", source="x", output=tmp_path / "run", n_resamples=20
    )
    items = CALIBRATION.read_items(path.parent / "items.jsonl")
    encoded = encode_completions(model, candidates, template)
    for item, trace, candidate in zip(items, encoded, candidates, strict=True):
        (values,) = model.token_values([trace])
        assert item.t == prefix_lengths(len(values))
        assert item.sums == pytest.approx([values[:t].sum() for t in item.t], abs=1e-4)
        assert item.correct == (candidate.sample == 0)
    assert entry.metrics.pass_rate.value == pytest.approx(1 / 3)
    assert recompute(path).metrics == entry.metrics


def test_the_command_and_what_it_refuses(tiny, tiny_tuned, file, tmp_path):
    asked = ["probe", "calibration", "--rm", tiny_tuned, "--reference", tiny, "--rollouts", file, "--resamples", 10]
    whole = [*asked, "--objective", "implicit_prm", "--output", tmp_path / "run"]
    done = CliRunner().invoke(app, list(map(str, whole)))
    assert done.exit_code == 0, done.output
    assert "12 rollouts" in done.stdout
    assert (tmp_path / "run" / "calibration.svg").exists()
    model = load_reward_model(tiny_tuned, reference=tiny, objective="dpo")
    with pytest.raises(UserError, match="no probability's logit"):
        evaluate_calibration(model, load_completions([file]), find_prompt("boxed"), name="x", source="x")
    model = load_reward_model(tiny_tuned, reference=tiny, objective="ipvrm")
    with pytest.raises(UserError, match="nothing says its margin"):
        evaluate_calibration(model, load_completions([file]), find_prompt("boxed"), name="x", source="x")


@pytest.mark.parametrize(
    ("change", "field"),
    [({"sums": [10**400] * 5}, "sums"), ({"t": [0] * 5}, "t"), ({"t": [-1] * 5}, "t"), ({"t": [1]}, "t")],
)
def test_hostile_items_are_named(tmp_path, change, field):
    fields = {
        "subset": "a",
        "id": "p",
        "sample": 0,
        "digest": "d",
        "correct": True,
        "t": [1, 2, 3, 4, 5],
        "sums": [0.5] * 5,
    }
    assert CALIBRATION.parse("x", fields).t == [1, 2, 3, 4, 5]
    with pytest.raises(UserError, match=f"x: field.* '{field}'"):
        CALIBRATION.parse("x", {**fields, **change})


def test_rollouts_without_a_token_are_left_out(tiny, tiny_tuned, tmp_path):
    """What a run leaves where a prompt has no room."""
    model = load_reward_model(tiny_tuned, reference=tiny, objective="ipvrm", margin=5.0)
    some = StoredCompletion("s", "a", 0, "What is 1 + 1?", "2", "It is 2", np.array([5, 6, 7]), False)
    none = replace(some, id="b", text="", ids=np.zeros(0, dtype=np.int64))
    asked = {"name": "x", "source": "x", "n_resamples": 5}
    entry, _ = evaluate_calibration(model, [some, none], find_prompt("boxed"), output=tmp_path / "run", **asked)
    assert entry.metrics.n_rollouts == 1
    with pytest.raises(UserError, match="no rollout has a token"):
        evaluate_calibration(model, [none], find_prompt("boxed"), output=tmp_path / "none", **asked)
