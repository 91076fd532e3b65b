"""What the study of guided search measures: methods at budgets by reward model, over-optimisation, and errors of step scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from prmbench.benchmarks.search.benchmark import SearchOptions
from prmbench.benchmarks.search.run import evaluate_search
from prmbench.benchmarks.search.schema import SearchMetrics
from prmbench.benchmarks.search.table import standing
from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.engines.sampling import SamplingParams
from prmbench.miniature.build import MAX_NEW_TOKENS, PROMPT
from prmbench.miniature.true_model import TrueValueModel
from prmbench.policies.policy import Policy
from prmbench.reports.pages import markdown_table
from prmbench.results.schema import Estimate
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.objectives import Convention
from prmbench.reward_models.subject import describe
from prmbench.search.drive import run_searches
from prmbench.search.methods import Setting, particles
from prmbench.search.paths import Cost, Task
from prmbench.search.paths import Path as ResponsePath
from prmbench.search.sampler import PolicySampler
from prmbench.search.scorer import ModelScorer
from prmbench.search.step_ends import StepEnds

PARAMS = SamplingParams(max_new_tokens=MAX_NEW_TOKENS)
BUDGETS = (4, 16)
MANY = 1_024
"""Samples of each problem for the curve of over-optimisation."""


def score_of(model: RewardModel) -> str:
    """Which score the study chooses paths by: the true value of what is there, or the model's own.

    Args:
        model: The reward model.
    """
    return "last" if isinstance(model, TrueValueModel) else "own"


def measure_search(
    model: RewardModel, policy: Policy, problems: Sequence[Problem], name: str, output: Path
) -> SearchMetrics:
    """Run every method at every budget with one reward model. It goes on where it was stopped.

    Args:
        model: The reward model.
        policy: The policy.
        problems: The problems.
        name: What the reward model is called.
        output: Folder of the run.
    """
    options = SearchOptions(budgets=BUDGETS, score=score_of(model))
    return _measure(model, policy, problems, name, options, output)


def measure_many(
    model: RewardModel, policy: Policy, problems: Sequence[Problem], name: str, output: Path, n: int = MANY
) -> SearchMetrics:
    """Measure Best-of-N up to many samples, by exact expectation.

    Args:
        model: The reward model.
        policy: The policy.
        problems: The problems.
        name: What the reward model is called.
        output: Folder of the run.
        n: Samples of each problem.
    """
    options = SearchOptions(methods=("best-of-n",), budgets=(n,), score=score_of(model))
    return _measure(model, policy, problems, name, options, output)


def _measure(
    model: RewardModel, policy: Policy, problems: Sequence[Problem], name: str, options: SearchOptions, output: Path
) -> SearchMetrics:
    entry, _ = evaluate_search(
        model,
        policy,
        {"miniature": list(problems)},
        name=name,
        source=name,
        options=options,
        params=PARAMS,
        prompt=PROMPT,
        miniature=True,
        output=output,
    )
    metrics: SearchMetrics = entry.metrics
    return metrics


def agreement(
    model: RewardModel, truth: TrueValueModel, policy: Policy, problems: Sequence[Problem], n: int = 16
) -> Estimate:
    """Measure how well scores of prefixes order them as true values do, among paths of a problem that have equally many steps.

    Args:
        model: The reward model.
        truth: The true values.
        policy: The policy.
        problems: The problems.
        n: Paths of each problem.

    Returns:
        The mean Spearman correlation over problems and steps where the true values differ, with a 95% interval over problems
        (normal).
    """
    template = find_prompt(PROMPT)
    ends = StepEnds(policy.encoder.tokenizer, [policy.encoder.options.separator])
    own, exact = (
        ModelScorer(one, policy, template, score_of(one), Convention.of(describe(one, "x", "x")))
        for one in (model, truth)
    )
    seen: dict[tuple[str, int], list[tuple[float, float]]] = {}

    class Both:
        """Scores by the model, and notes the true value beside each score."""

        def begin(self, task: Task) -> Cost:
            return own.begin(task)

        def score(self, grown: Sequence[tuple[Task, ResponsePath, ResponsePath]]) -> list[tuple[float, Any, Cost]]:
            found = own.score(grown)
            plain = [(task, ResponsePath(old.ids), new) for task, old, new in grown]
            for (task, _, path), (mine, _, _), (true, _, _) in zip(grown, found, exact.score(plain), strict=True):
                seen.setdefault((task.key, len(path.ends)), []).append((mine, true))
            return found

        def keep(self, live: Sequence[tuple[Task, ResponsePath]]) -> None:
            own.keep(live)

    tasks = [Task(one.id, one.problem, policy.encoder.prompt_ids(template.render(one.problem))) for one in problems]
    searches = [(task, particles(Setting(n, temperature=math.inf, key=task.key))) for task in tasks]
    with own.keeping():
        run_searches(searches, PolicySampler(policy, ends, PARAMS, 0), Both())
    by_problem: dict[str, list[float]] = {}
    for (key, _), pairs in seen.items():
        mine, true = np.array(pairs).T
        if len(pairs) > 2 and np.ptp(true) > 0:
            found = float(spearmanr(mine, true)[0]) if np.ptp(mine) > 0 else 0.0
            by_problem.setdefault(key, []).append(found)
    means = np.array([np.mean(one) for one in by_problem.values()])
    half = 1.96 * float(means.std(ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else float("nan")
    return Estimate(value=float(means.mean()), low=float(means.mean()) - half, high=float(means.mean()) + half)


def cell(found: Estimate, *, signed: bool = False) -> str:
    """Write a share in percent with its interval.

    Args:
        found: The figure.
        signed: Whether a plus is written before a figure above 0.
    """
    assert found.value is not None
    text = f"{100 * found.value:{'+' if signed else ''}.1f}"
    return (
        text if found.low is None or found.high is None else f"{text} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    )


def methods_table(results: Mapping[str, SearchMetrics]) -> str:
    """Write a row a reward model, method and budget.

    Args:
        results: Figures by the reward model's name.
    """
    rows = []
    for name, metrics in results.items():
        for method, found in metrics.mean.methods.items():
            pooled = method.startswith("best-of-n@")
            flops = ((found.policy_flops or 0.0) + (found.model_flops or 0.0)) / 1e6
            against = (
                ["", ""]
                if pooled
                else [
                    f"{100 * (found.best_of_n.value or 0):.1f} @{found.equal_n:.1f}",
                    cell(found.difference, signed=True),
                ]
            )
            rows.append([name, method, cell(found.accuracy), *against, f"{found.sampled:,.0f}", f"{flops:,.0f}"])
    titles = ["scores by", "method", "right", "best-of-n, equal compute", "difference", "tokens", "MFLOPs"]
    return markdown_table(titles, rows)


def winners(results: Mapping[str, SearchMetrics]) -> list[str]:
    """Say of each reward model which searches are better and which are worse than Best-of-N at equal compute.

    Args:
        results: Figures by the reward model's name.
    """
    lines = []
    for name, metrics in results.items():
        groups: dict[str, list[str]] = {}
        for method, found in metrics.mean.methods.items():
            if not method.startswith("best-of-n@"):
                groups.setdefault(standing(found.difference), []).append(method)
        said = "; ".join(f"{words} Best-of-N: {', '.join(some)}" for words, some in groups.items())
        lines.append(f"- {name}: {said}.")
    return lines


def curve_table(results: Mapping[str, SearchMetrics]) -> str:
    """Write Best-of-N against N, a row a reward model.

    Args:
        results: Figures by the reward model's name, all of the same samples.
    """
    sizes = list(next(iter(results.values())).mean.curve)
    first = next(iter(results.values())).mean.curve
    rows = [
        [name, *(f"{100 * (one.mean.curve[n].accuracy.value or 0):.1f}" for n in sizes)]
        for name, one in results.items()
    ]
    rows.append(["any right", *(f"{100 * (first[n].any_right.value or 0):.1f}" for n in sizes)])
    return markdown_table(["scores by", *(f"@{n}" for n in sizes)], rows)
