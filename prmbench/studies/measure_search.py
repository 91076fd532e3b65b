"""What the study of guided search measures: methods at budgets by reward model, over-optimisation, and errors of step scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from prmbench.benchmarks.search.benchmark import SearchOptions
from prmbench.benchmarks.search.run import evaluate_search
from prmbench.benchmarks.search.schema import SearchMetrics
from prmbench.data.problems import Problem, load_problems
from prmbench.data.prompts import find_prompt
from prmbench.engines.sampling import SamplingParams
from prmbench.miniature.build import MAX_NEW_TOKENS, PROMPT, make_problems, write_lines
from prmbench.miniature.true_model import TrueValueModel
from prmbench.policies.policy import Policy
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
from prmbench.studies.lab import Lab
from prmbench.studies.label_settings import LABELLED, LabelSettings
from prmbench.studies.measure_labels import trained_on
from prmbench.studies.settings import REWARD_MODELS, RewardModelSettings

PARAMS = SamplingParams(max_new_tokens=MAX_NEW_TOKENS)
BUDGETS = (4, 16)
N_SEARCHED, N_MANY, MANY = 100, 32, 1_024
"""Problems of the methods, problems of the curve of over-optimisation, and samples of each of these."""
TRUTH = "true values"
"""What scores paths exactly; in the study of labels a reward model that is trained on them has the same name."""
SEARCH_SIZES = [N_SEARCHED, N_MANY, MANY, list(BUDGETS)]


@dataclass(frozen=True)
class SearchSettings:
    """What scores the paths of the study of guided search.

    Attributes:
        scores: `TRUTH`, the name of a reward model of the tables, or the name of one of the study of labels.
    """

    scores: str

    @property
    def reward(self) -> RewardModelSettings | LabelSettings | None:
        """How the reward model is trained; None for the true values."""
        return None if self.scores == TRUTH else REWARD_MODELS.get(self.scores) or LABELLED[self.scores]


SEARCHES: dict[str, SearchSettings] = {
    name: SearchSettings(name) for name in (TRUTH, "ipvrm", "implicit_prm", "q_rm", "exact @16")
}
"""The study's ways to score, by the name of their run. ``exact @16`` is an explicit PRM, trained on exact labels."""


def measure_searches(lab: Lab, settings: SearchSettings, output: Path) -> dict[str, Any]:
    """Measure every method of guided search with one way to score paths.

    Args:
        lab: The seed's data and models.
        settings: What scores the paths.
        output: Folder of the entries.

    Returns:
        ``methods``: by method and budget ``accuracy`` and ``difference`` (from Best-of-N at equal compute), each with ``value``,
        ``low`` and ``high`` over the problems; ``best_of_n``, ``equal_n``, ``any_right``, ``sampled`` tokens and ``flops`` of a
        problem. ``curve``: by N ``accuracy`` and ``any_right`` of Best-of-N,
        exact over all subsets of `MANY` samples. ``agreement``: what `agreement` says; 1 for the true values themselves.
    """
    # What scores paths.
    policy = lab.load_policy()
    truth = TrueValueModel(lab.build.world, policy.encoder)
    if settings.scores == TRUTH:
        model: RewardModel = truth
    elif settings.scores in REWARD_MODELS:
        model = lab.reward_model(REWARD_MODELS[settings.scores])
    else:
        model = trained_on(lab, LABELLED[settings.scores], output / "reward-model")
    # Problems that no reward model was trained on, as test problems are.
    seed = 40_000 + lab.build.seed
    file = write_lines(output / "problems.jsonl", make_problems(lab.build.world, "test", N_SEARCHED, seed))
    problems = load_problems(file)
    # The methods, and many samples.
    found = measure_search(model, policy, problems, settings.scores, output / "methods")
    many = measure_many(model, policy, problems[:N_MANY], settings.scores, output / "many", MANY)
    agrees = 1.0 if model is truth else agreement(model, truth, policy, problems)
    return {
        "methods": {
            name: {
                "accuracy": one.accuracy.model_dump(),
                "difference": one.difference.model_dump(),
                "best_of_n": one.best_of_n.value,
                "equal_n": one.equal_n,
                "any_right": one.any_right.value,
                "sampled": one.sampled,
                "flops": (one.policy_flops or 0.0) + (one.model_flops or 0.0),
            }
            for name, one in found.mean.methods.items()
        },
        "curve": {
            n: {"accuracy": one.accuracy.value, "any_right": one.any_right.value} for n, one in many.mean.curve.items()
        },
        "agreement": agrees,
    }


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
) -> float:
    """Measure how well scores of prefixes order them as true values do, among paths of a problem that have equally many steps.

    Args:
        model: The reward model.
        truth: The true values.
        policy: The policy.
        problems: The problems.
        n: Paths of each problem.

    Returns:
        The mean Spearman correlation, over problems and then over steps where the true values differ.
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
    return float(np.mean([np.mean(one) for one in by_problem.values()]))
