"""What the study of step labels measures of a reward model: how it finds wrong steps, and what its training cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prmbench.benchmarks.processbench.run import evaluate_traces
from prmbench.data.rollouts import read_rollouts
from prmbench.data.traces import load_traces
from prmbench.miniature.world import FORMATS
from prmbench.results.schema import digest
from prmbench.reward_models.loading import load_reward_model
from prmbench.stats.protocols import STEP_PROTOCOL
from prmbench.studies.lab import PRM_RECIPE, RM_RECIPE, Lab, recipe_text
from prmbench.studies.measure_reward_models import BATCH_TOKENS
from prmbench.studies.step_label_data import TrainingData, finished_by_problem, training_data
from prmbench.studies.step_label_settings import StepLabelSettings
from prmbench.training.prm.recipe import PRMRecipe
from prmbench.training.prm.run import train_prm
from prmbench.training.recipes.read import load_recipe
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm

PAIRS_EACH = 2
"""Pairs of a problem's solutions at most, for implicit reward models."""
HELD_OUT = 10
"""One of so many solutions is kept back."""
UPDATES, BETWEEN = 120, 20
"""Updates of every training, and updates between two measurements of what is kept back."""
BATCH = 32
"""Solutions of an update: so many of an explicit PRM, half as many pairs of an implicit reward model."""


def measure_step_labels(lab: Lab, settings: StepLabelSettings, output: Path) -> dict[str, Any]:
    """Train a reward model of the study, and measure it on labelled traces.

    Args:
        lab: The seed's data and models.
        settings: How it is trained.
        output: Folder for the ProcessBench entry.

    Returns:
        ``data``: the numbers of `TrainingData`. ``f1`` and ``auc`` by format: ProcessBench's F1 with crossfit thresholds, and the
        AUC of right steps against first wrong ones, of the step score (implicit: process). ``random``: F1 of random scores.
    """
    data = training_data(lab, settings)
    folder = _trained(lab, settings, data)
    entry, _ = evaluate_traces(
        load_reward_model(folder),
        load_traces(lab.traces, list(FORMATS)),
        name=settings.name,
        source=settings.name,
        batch_tokens=BATCH_TOKENS,
        miniature=True,
        output=output,
        n_resamples=0,
    )
    of = entry.metrics.protocols[STEP_PROTOCOL if settings.explicit else "process"].subsets
    random = entry.metrics.baselines["random"].subsets
    return {
        "data": data.figures(),
        "f1": {form: of[form].rules["crossfit"].f1.value for form in FORMATS},
        "auc": {form: of[form].step_auc.value for form in FORMATS},
        "random": {form: random[form].rules["crossfit"].f1.value for form in FORMATS},
    }


def _trained(lab: Lab, settings: StepLabelSettings, data: TrainingData) -> Path:
    """Train a reward model where it is not there yet. Returns its folder."""
    name = PRM_RECIPE if settings.explicit else RM_RECIPE
    key = digest([settings.__dict__, recipe_text(name), data.figures()["n_traces"]])[:12]
    folder = lab.folder / "step-labels" / f"rm-{settings.model}-{key}".replace(" ", "-")
    changes: dict[str, Any] = {
        "model": lab.policy,
        "data": data.path,
        "output": folder,
        "objective": settings.objective,
        "learning_rate": settings.learning_rate,
        "max_steps": UPDATES,
        "evaluate_every": BETWEEN,
        "save_every": UPDATES,
        "seed": lab.build.seed,
    }
    if settings.explicit:
        changes |= {"batch_size": BATCH, "micro_batch_size": BATCH, "held_out": data.n_traces // HELD_OUT}
        train_prm(load_recipe(PRM_RECIPE, PRMRecipe, [f"{name}={value}" for name, value in changes.items()]))
        return folder
    groups = finished_by_problem(read_rollouts(data.path))
    right = [sum(one.correct for one in group) for group in groups]
    pairs = sum(min(PAIRS_EACH, n, len(group) - n) for n, group in zip(right, groups, strict=True))
    changes |= {"pairs_per_prompt": PAIRS_EACH, "held_out": pairs // HELD_OUT}
    changes |= {"batch_size": BATCH // 2, "micro_batch_size": BATCH // 2}
    train_rm(load_recipe(RM_RECIPE, RMRecipe, [f"{name}={value}" for name, value in changes.items()]))
    return folder
