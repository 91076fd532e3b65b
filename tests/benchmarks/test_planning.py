from __future__ import annotations

import json
import math

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from prmbench.benchmarks import differences_table
from prmbench.benchmarks.differences import ComparedPair, Difference
from prmbench.benchmarks.planning import _power, plan_policies, power_of_pairs, render_plan
from prmbench.cli.app import app
from prmbench.errors import UserError
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
    assert 100 * (pair.mean.high - pair.mean.low) == pytest.approx(2 * 1.96 * error, rel=3e-3)  # n - 1 for n
    assert one.n_for_points == pairs_needed(2.0, one.spread)
    assert power_of(one.n, one.smallest, one.spread) == pytest.approx(0.8, abs=1e-6)


def test_points_belong_to_power():
    done = run("compare", *PAIR, "--points", "5")
    assert "--points 5: belongs to --power" in str(done.exception)


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
        (["--policy", "x", "--plan-for", "2", "--n", "1"], "needs at least 2 completions of each problem"),
        (["--policy", "x", "--plan-for", "2", "--temperature", "0"], "at a temperature above 0"),
    ],
)
def test_mistakes(arguments, said):
    done = run("eval", *arguments)
    assert done.exit_code != 0
    assert said in str(done.exception)


def plan_of(sets, points, samples=4):
    return {one.samples: one for one in plan_policies(sets, points)}[samples]


def completions(rates, n, rng):
    return {i: (rng.random(n) < one).tolist() for i, one in enumerate(rates)}


def share_decided(draw, sizes, points, repeats=600, samples=4):
    """How often the mean over sets of paired differences is told from 0, with the standard error of a mean over sets."""
    rng, decided = np.random.default_rng(1), 0
    for _ in range(repeats):
        means, variances = [], []
        for name, size in enumerate(sizes):
            p = draw[name](rng, size)
            a, b = (rng.binomial(samples, np.clip(one, 0, 1)) / samples for one in (p + points / 100, p))
            means.append((a - b).mean())
            variances.append((a - b).var(ddof=1) / size)
        decided += np.mean(means) > 1.96 * math.sqrt(sum(variances)) / len(sizes)
    return decided / repeats


HARD = {0: lambda rng, n: rng.beta(1.2, 1.5, n) * 0.9}
SEVERAL = {0: HARD[0], 1: lambda rng, n: rng.beta(0.5, 4, n), 2: lambda rng, n: np.full(n, 0.5)}
FLOOR = {0: lambda rng, n: np.full(n, 0.0125)}


@pytest.mark.parametrize(
    ("draw", "sizes", "points"), [(HARD, [400], 5.0), (SEVERAL, [3_000, 60, 240], 5.0), (FLOOR, [2_000], 2.0)]
)
def test_a_plan_by_simulation(draw, sizes, points):
    """Policies with the planned difference and the same hard problems are told apart in 80% of simulated comparisons.

    Of one set, of the mean over sets of unlike sizes, and of a policy that solves next to nothing.
    """
    rng = np.random.default_rng(0)
    sets = {name: completions(draw[name](rng, size), 8, rng) for name, size in enumerate(sizes)}
    plan = plan_of(sets, points)
    assert plan.alike <= plan.unrelated
    planned = [round(plan.alike * size / sum(sizes)) for size in sizes]
    assert share_decided(draw, planned, points) == pytest.approx(0.8, abs=0.06)


def test_policies_with_nothing_in_common_by_simulation():
    rng = np.random.default_rng(0)
    plan = plan_of({0: completions(rng.beta(1, 1, 3_000), 8, rng)}, 5.0)
    decided = 0
    for _ in range(600):
        a, b = (rng.binomial(4, rng.beta(1.1, 0.9 if k else 1.1, plan.unrelated)) / 4 for k in (1, 0))
        d = a - b
        decided += d.mean() > 1.96 * d.std(ddof=1) / math.sqrt(len(d))
    assert decided / 600 == pytest.approx(0.8, abs=0.06)


def test_what_one_problem_says():
    (plan, *_) = plans = plan_policies({"a": {0: [True, False, True]}, "b": {0: [True, False], 1: [True, True]}}, 2.0)
    assert plan.alike > 0
    assert math.isnan(plan.unrelated)
    console = Console(width=200, record=True)
    console.print(render_plan(plans, 2.0, [1, 2]))
    said = console.export_text()
    assert "n/a: one problem says nothing of how problems differ" in said
    assert "all 2 sets together" in said


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({"a": {0: [True]}}, "fewer than 2 completions"),
        ({"a": {0: [True, True]}, "b": {1: [False, False]}}, "all right or all wrong"),
    ],
)
def test_completions_without_noise_are_no_ground_for_a_plan(sets, said):
    with pytest.raises(UserError, match=said):
        plan_policies(sets, 2.0)


@pytest.mark.parametrize("sizes", [[6], [3, 9]])
def test_the_spread_of_few_items_is_not_too_narrow(sizes):
    """Intervals of a plain bootstrap, over many draws of few items: the variance that is read from them is the true one."""
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        sets = [rng.normal(size=size) for size in sizes]
        means = [one[rng.integers(0, len(one), (2_000, len(one)))].mean(axis=1) for one in sets]
        low, high = np.quantile(np.mean(means, axis=0), [0.025, 0.975])
        pair = ComparedPair("a", "b", {}, Difference(0, 0, 0.01, low, high, 1.0), 1.0)
        found.append(_power(pair, sizes, 2.0).spread ** 2 / sum(sizes))
    truth = 100**2 * sum(1 / size for size in sizes) / len(sizes) ** 2
    assert np.mean(found) == pytest.approx(truth, rel=0.12)  # uncorrected: 17% and 28% too low


def test_few_items_are_said_to_be_few(monkeypatch):
    assert "has only" not in run("compare", *PAIR, "--resamples", "50").stdout
    monkeypatch.setattr(differences_table, "FEW", 401)
    done = run("compare", *PAIR, "--resamples", "50")
    assert "A subset has only 400 items: intervals are too narrow" in " ".join(done.stdout.split()), done.output


def test_subjects_that_agree_on_every_item_say_nothing_of_a_spread():
    same = [PAIR[0], PAIR[0]]
    (one,) = power_of_pairs(compare(same, n_resamples=50), 2.0)
    assert (one.smallest, one.n_for_difference, one.n_for_points) == (None, None, None)
    done = run("compare", *same, "--power", "--resamples", "50")
    assert done.exit_code == 0, done.output
    assert "n/a: the difference is the same in every resample" in " ".join(done.stdout.split())
    (one,) = power_of_pairs(compare(PAIR, n_resamples=1), 2.0)
    assert one.n_for_points is None
