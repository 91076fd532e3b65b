from __future__ import annotations

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from prmbench.benchmarks.planning import plan_policies, power_of_pairs
from prmbench.cli.app import app
from prmbench.reports.compare import compare
from prmbench.resources import resource_folder
from prmbench.stats.power import pairs_needed, power_of

ENTRIES = resource_folder("leaderboards") / "entries"
PAIR = [str(ENTRIES / name) for name in ("miniature-ipvrm", "miniature-dpo")]
POLICY = str(ENTRIES / "smollm2-135m-policy-gsm8k100")


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_the_spread_is_that_of_the_interval():
    found = compare(PAIR, n_resamples=500)
    (one,) = power_of_pairs(found, 2.0)
    pair = found.pairs[0]
    error = one.spread / math.sqrt(one.n)
    assert 100 * (pair.mean.high - pair.mean.low) == pytest.approx(2 * 1.96 * error, rel=1e-3)
    assert one.n_for_points == pairs_needed(2.0, one.spread)
    assert power_of(one.n, one.smallest, one.spread) == pytest.approx(0.8, abs=1e-6)


def test_the_commands_say_it():
    done = run("compare", *PAIR, "--power", "--resamples", "200")
    assert done.exit_code == 0, done.output
    assert "Power: what 800 items decide, at 80%" in done.stdout
    found = json.loads(run("compare", *PAIR, "--power", "--points", "5", "--json", "--resamples", "200").stdout)
    assert found["power"][0]["points"] == 5.0
    done = run("eval", "--from-items", POLICY, "--plan-for", "2")
    assert done.exit_code == 0, done.output
    assert "Problems that decide 2 points" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from-items", POLICY, "--plan-for", "0"], "--plan-for 0: expected a difference in points"),
        (["--from-items", POLICY, "--plan-for", "2", "--json"], "--plan-for and --json"),
        (["--from-items", PAIR[0], "--plan-for", "2"], "is of processbench; expected a policy's run"),
        (["--rm", "x", "--plan-for", "2"], "--plan-for: is for policies"),
    ],
)
def test_mistakes(arguments, said):
    done = run("eval", *arguments)
    assert done.exit_code != 0
    assert said in str(done.exception)


def test_a_plan_by_simulation():
    """Two policies with the planned difference and the same hard problems are told apart in 80% of simulated comparisons."""
    rng = np.random.default_rng(0)
    p = rng.beta(1.2, 1.5, 400)
    right = {i: (rng.random(8) < one).tolist() for i, one in enumerate(p)}
    plan = {one.samples: one for one in plan_policies(right, 5.0)}[4]
    assert plan.alike < plan.unrelated

    def decided(n_problems):
        from scipy.stats import ttest_1samp

        base = np.clip(rng.beta(1.2, 1.5, n_problems), 0, 0.95)
        a = rng.binomial(4, np.clip(base + 0.05, 0, 1)) / 4
        b = rng.binomial(4, base) / 4
        return ttest_1samp(a - b, 0).pvalue < 0.05 and (a - b).mean() > 0

    share = np.mean([decided(plan.alike) for _ in range(400)])
    assert share == pytest.approx(0.8, abs=0.08)


def test_one_completion_of_a_problem_is_too_few():
    with pytest.raises(ValueError, match="fewer than two"):
        plan_policies({0: [True]}, 2.0)


def test_subjects_that_agree_on_every_item_say_nothing_of_a_spread():
    same = [PAIR[0], PAIR[0]]
    (one,) = power_of_pairs(compare(same, n_resamples=50), 2.0)
    assert (one.smallest, one.n_for_difference, one.n_for_points) == (None, None, None)
    done = run("compare", *same, "--power", "--resamples", "50")
    assert done.exit_code == 0, done.output
    assert "n/a: the difference is the same in every resample" in " ".join(done.stdout.split())
    (one,) = power_of_pairs(compare(PAIR, n_resamples=1), 2.0)
    assert one.n_for_points is None


def test_completions_without_noise_are_no_ground_for_a_plan():
    with pytest.raises(ValueError, match="all right or all wrong"):
        plan_policies({0: [True, True], 1: [False, False]}, 2.0)
