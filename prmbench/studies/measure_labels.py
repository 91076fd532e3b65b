"""What the study of labels measures of a reward model, explicit or implicit: the same figures for all of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from prmbench.api import rerank
from prmbench.benchmarks.best_of_n.metrics import completion_scores
from prmbench.benchmarks.best_of_n.schema import BestOfNMetrics, CompletionScores
from prmbench.benchmarks.processbench.run import evaluate_traces
from prmbench.benchmarks.registry import load_measured
from prmbench.data.rollouts import read_rollouts
from prmbench.data.traces import load_traces
from prmbench.miniature.build import rollout_steps, write_lines
from prmbench.miniature.solutions import FORMATS
from prmbench.miniature.true_model import values_after
from prmbench.miniature.world import parse_problem
from prmbench.results.schema import Estimate, Subject
from prmbench.results.store import write_atomically
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.objectives import Convention, meaning_of
from prmbench.stats.auc import ranking_auc
from prmbench.studies.lab import N_ROLLOUTS, PRM_RECIPE, RM_RECIPE, Lab
from prmbench.studies.label_data import N_BASE, Chosen, by_problem, choose, label_quality
from prmbench.studies.label_settings import LabelSettings
from prmbench.studies.measure_reward_models import BATCH_TOKENS, BEST_OF, f1_by_rule
from prmbench.training.prm.recipe import PRMRecipe
from prmbench.training.prm.run import train_prm
from prmbench.training.recipes.read import as_overrides, load_recipe
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm

SOLUTIONS_AN_UPDATE, LEAST_UPDATES = 32, 60
"""Every update reads this many solutions. There is one for each so many solutions of the data, and at least so many."""
HELD_OUT_SHARE, MOST_HELD_OUT = 5, 64
"""One problem in five is kept back, up to so many; the weights with the lowest held-out loss are measured."""
N_CHOSEN = 60
"""Problems of Best-of-N."""
LABEL_SIZES = [N_BASE, SOLUTIONS_AN_UPDATE, LEAST_UPDATES, HELD_OUT_SHARE, MOST_HELD_OUT, N_CHOSEN]
PAIRS = {
    "batch_size": SOLUTIONS_AN_UPDATE // 2,
    "micro_batch_size": SOLUTIONS_AN_UPDATE // 2,
    "pairs_per_prompt": 2,
    "evaluate_every": None,
}
"""What differs from the recipe of reward models: a pair of each problem would leave three solutions in five unused."""
N_RESAMPLES = 10
"""Intervals here are over seeds, so those of the entries are not used."""


def measure_labels(lab: Lab, settings: LabelSettings, output: Path) -> dict[str, Any]:
    """Train and measure one reward model of the study of labels.

    Args:
        lab: The seed's data and models.
        settings: How it is trained.
        output: Folder for the training and the entries. The weights are deleted in the end: the seed makes them again.

    Returns:
        ``data``: what it was trained on, and the tokens that were sampled for it. ``auc_final``: AUC of a completion's own score
        against its verdict. On the test split also ``f1`` by threshold rule, format and protocol; ``baselines``: F1 by format and
        baseline; ``step_auc`` by format and protocol; ``best_of_n``: accuracy by score and size, under ``own`` the name of its own
        score; ``spearman``: rank correlation of prefix values with the true ones.
    """
    # Choose the data, train.
    chosen = choose(lab, settings)
    model = trained_on(lab, settings, output, chosen)
    run: dict[str, Any] = {"name": settings.objective, "n_resamples": N_RESAMPLES, "batch_tokens": BATCH_TOKENS}
    # Score completions: for the test those at the evaluation preset, where settings are searched those at temperature 1.
    testing = lab.split == "test"
    completions, sizes = (lab.candidates, BEST_OF) if testing else (lab.rollouts_folder, N_ROLLOUTS[1:])
    limit = N_CHOSEN if testing else None
    finished = rerank(model, [completions], output=output / "completions", limit=limit, sizes=sizes, **run)
    assert finished is not None  # nothing is shared between processes
    items = load_measured(output / "completions").items
    found = {"data": _describe(lab, settings, chosen), "auc_final": _final_auc(items, finished[0].subject)}
    # Score traces.
    if testing:
        found |= {
            **_on_traces(model, lab, output=output / "traces", **run),
            "best_of_n": _best_of_n(finished[0].metrics),
            "spearman": _agreement(lab, items, finished[0].subject),
        }
    for folder in ("model", "data"):
        shutil.rmtree(output / folder, ignore_errors=True)
    return found


def trained_on(lab: Lab, settings: LabelSettings, output: Path, chosen: Chosen | None = None) -> RewardModel:
    """Train a reward model of the study of labels, and load it.

    Args:
        lab: The seed's data and models.
        settings: How it is trained.
        output: Folder for the training.
        chosen: What it is trained on; None chooses it.
    """
    if settings.source == "nothing":
        return load_reward_model(lab.policy, kind="endo")
    return load_reward_model(_train(lab, settings, chosen or choose(lab, settings), output))


def _train(lab: Lab, settings: LabelSettings, chosen: Chosen, output: Path) -> Path:
    """Train a reward model on what was chosen. Returns its checkpoint folder."""
    n_problems = len(by_problem(chosen.solutions))
    held_out = min(MOST_HELD_OUT, n_problems // HELD_OUT_SHARE)
    changes: dict[str, Any] = {
        "model": lab.policy,
        "output": output / "model",
        "objective": settings.objective,
        "learning_rate": settings.learning_rate,
        "max_steps": max(LEAST_UPDATES, len(chosen.solutions) // SOLUTIONS_AN_UPDATE),
        "seed": lab.build.seed,
    }
    if settings.is_explicit:
        each = len(chosen.solutions) // n_problems
        changes |= {"data": write_lines(output / "data" / "labels.jsonl", chosen.records), "held_out": held_out * each}
        train_prm(load_recipe(PRM_RECIPE, PRMRecipe, as_overrides(changes)))
    else:
        file = output / "data" / "rollouts.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, "".join(one.line() for one in chosen.solutions))
        changes |= {"data": file, "held_out": held_out, **PAIRS}
        train_rm(load_recipe(RM_RECIPE, RMRecipe, as_overrides(changes)))
    return output / "model"


def _describe(lab: Lab, settings: LabelSettings, chosen: Chosen) -> dict[str, Any]:
    """Say what a reward model was trained on."""
    trained = settings.source != "nothing"
    found: dict[str, Any] = {
        "problems": len(by_problem(chosen.solutions)) if trained else 0,
        "solutions": len(chosen.solutions) if trained else 0,
        "sampled": chosen.sampled if trained else 0,
        "continued": chosen.continued,
        "start": chosen.start,
        "affordable": chosen.affordable,
        "pool": len(lab.outcome_rollouts),
    }
    if settings.source == "rollouts":
        found["quality"] = label_quality(chosen.records, lab.build.world)
    return found


def _final_auc(items: Sequence[CompletionScores], subject: Subject) -> float:
    """AUC of the own scores of completions against their verdicts."""
    convention = Convention.of(subject)
    own = [completion_scores(item, convention)[convention.own] for item in items]
    return ranking_auc(np.array(own), np.array([item.correct for item in items]))


def _on_traces(model: RewardModel, lab: Lab, **run: Any) -> dict[str, Any]:
    """ProcessBench figures of the seed's traces."""
    traces = load_traces(lab.traces, list(FORMATS))
    entry, _ = evaluate_traces(model, traces, source=run["name"], miniature=True, **run)
    protocols = entry.metrics.protocols
    return {
        "f1": f1_by_rule(protocols, FORMATS),
        "baselines": f1_by_rule(entry.metrics.baselines, FORMATS)["crossfit"],
        "step_auc": {
            form: {name: result.subsets[form].step_auc.value for name, result in protocols.items()} for form in FORMATS
        },
    }


def _best_of_n(metrics: BestOfNMetrics) -> dict[str, Any]:
    """Best-of-N by every score, and by the choices that need no reward model."""

    def expected(by_name: dict[str, dict[str, dict[str, Estimate]]]) -> dict[str, dict[str, float | None]]:
        return {
            name: {n: estimates["expected"].value for n, estimates in by_size.items()}
            for name, by_size in by_name.items()
        }

    return {
        "own": metrics.own,
        "scores": expected(metrics.mean.scores),
        "baselines": expected(metrics.mean.baselines),
    }


def _agreement(lab: Lab, items: Sequence[CompletionScores], subject: Subject) -> float | None:
    """Rank correlation of a model's prefix values with the demonstrator's true ones, over all steps but a solution's last.

    A token-valued model's prefix value is the sum of its token values up to the end of the step, or their mean where that is its
    own way; a step-valued model's is the score of the step. None where all values are equal, such as those of a log-ratio whose
    best weights are those that it started from.
    """
    world, means = lab.build.world, meaning_of(subject.objective, subject.kind).final == "token_mean"
    steps = {one.key: (one.problem, rollout_steps(one)) for one in read_rollouts(lab.candidates)}
    values: list[NDArray[np.float64]] = []
    truth: list[NDArray[np.float64]] = []
    for item in items:
        problem, texts = steps[item.id, str(item.sample)]
        if len(texts) != len(item.n_tokens):
            continue  # a blank step, which is none for the world
        if item.scores is not None:
            mine = item.scores
        else:
            assert item.sums is not None
            mine = np.cumsum(item.sums) / (np.cumsum(item.n_tokens) if means else 1)
        values.append(mine[:-1])
        truth.append(values_after(parse_problem(problem), texts, world)[:-1])
    found = np.concatenate(values)
    return float(spearmanr(found, np.concatenate(truth)).statistic) if np.ptp(found) else None
