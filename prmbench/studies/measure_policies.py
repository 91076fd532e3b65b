"""What the studies measure of a policy: it is trained from the SFT policy, and its completions of test problems are counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from prmbench.benchmarks.policy.run import evaluate_policy
from prmbench.benchmarks.registry import load_measured
from prmbench.data.problem_sets import find_problems
from prmbench.data.prompts import find_prompt
from prmbench.data.verdicts import Verdict
from prmbench.policies.policy import load_policy
from prmbench.studies.lab import RL_RECIPE, RL_SAVE_EVERY, Lab
from prmbench.studies.measure_decisions import measure_moves
from prmbench.studies.settings import PolicySettings
from prmbench.training.recipes.read import as_overrides, load_recipe
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rl.run import train_rl


def measure_policy(lab: Lab, settings: PolicySettings, output: Path) -> dict[str, Any]:
    """Train and measure one policy.

    Args:
        lab: The seed's data and models.
        settings: How it is trained.
        output: Folder for the training run and its entries. The weights are deleted in the end, since there are hundreds of
            runs and the seed makes them again.

    Returns:
        ``right``: number of correct completions of each test problem, in the problems' order. ``n``: completions of each
        problem. ``history``: what training logged at every step, empty for ``sft``. ``moves``: what
        `prmbench.studies.measure_decisions.measure_moves` says of the trained policy.
    """
    recipe = policy_recipe(lab, settings, output)
    assert recipe.evaluate is not None
    history: list[dict[str, Any]] = []
    moved = {}
    if settings.method == "sft":
        entry = output
        evaluate_policy(
            lab.load_policy(),
            find_problems(recipe.evaluate.problems),
            name="sft",
            source="sft",
            output=output,
            n=recipe.evaluate.n,
            params=recipe.evaluate.params(),
            prompt=recipe.prompt,
            seed=recipe.seed,
            n_resamples=recipe.evaluate.resamples,
        )
    else:
        done = train_rl(recipe)
        assert done is not None
        history, entry = done.history, output / "entries" / f"step-{done.steps}"
        moved = {"moves": measure_moves(lab, load_policy(str(output), find_prompt(recipe.prompt)))}
    right: Counter[str] = Counter()
    for item in load_measured(entry).items:
        right[item.id] += item.verdict == Verdict.CORRECT
    for weights in output.rglob("*.safetensors"):
        weights.unlink()
    return {
        "n": recipe.evaluate.n,
        "right": [right[name] for name in sorted(right, key=lambda name: int(name.rpartition("-")[2]))],
        "history": [{k: v for k, v in row.items() if k not in ("epoch", "learning_rate")} for row in history],
        **moved,
    }


def policy_recipe(lab: Lab, settings: PolicySettings, output: Path) -> RLRecipe:
    """Return the recipe that a policy of the studies is trained with.

    Args:
        lab: The seed's data and models. The reward model that it starts from is trained first where it is not there.
        settings: How it is trained.
        output: Folder for the training run and its entries.
    """
    train, test = lab.policy_problems
    changes = {
        "model": lab.policy,
        "problems": train,
        "output": output,
        "method": "grpo" if settings.method == "sft" else settings.method,
        "alpha": settings.alpha,
        "gae_weight": settings.gae_weight,
        "learning_rate": settings.learning_rate,
        "max_steps": settings.steps,
        "seed": lab.build.seed,
        "evaluate.problems": [test],
        "save_every": RL_SAVE_EVERY,
    }
    if settings.reward is not None:
        changes |= {
            "reward_model.model": lab.reward_model_folder(settings.reward),
            "reward_model.update": settings.update,
            "reward_model.reference": settings.reference,
            "reward_model.learning_rate": settings.reward_learning_rate,
        }
    return load_recipe(RL_RECIPE, RLRecipe, as_overrides(changes))
