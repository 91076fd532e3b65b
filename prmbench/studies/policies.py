"""Policy optimisation in the miniature, and everything the study of it measures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prmbench.benchmarks.policy.run import ITEMS_NAME, read_completions
from prmbench.data.verdicts import Verdict
from prmbench.miniature.build import Build, make_problems, write_lines
from prmbench.miniature.world import Split
from prmbench.resources import resource_folder
from prmbench.results.schema import digest
from prmbench.results.store import write_atomically
from prmbench.studies.reward_models import Bench, Settings
from prmbench.training.recipes.load import load_recipe
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rl.run import train_rl

RECIPE = "miniature/rl.yaml"
N_TRAIN, N_TEST = 6_000, 400


@dataclass(frozen=True)
class PolicySettings:
    """A run of the study.

    Attributes:
        method: of `prmbench.training.rl.methods.METHODS`; ``sft``: none, the policy that all start from.
        objective: of the reward model; None: none. update, reference: of `RewardOptions`.
        steps: rollout batches.
    """

    method: str
    objective: str | None = None
    update: str = "frozen"
    reference: str = "old"
    alpha: float = 0.1
    gae_weight: float = 1.0
    learning_rate: float = 1e-4
    reward_learning_rate: float = 1e-4
    steps: int = 30


class PolicyBench:
    """One build's problems and reward models. split: that policies are measured on."""

    def __init__(self, bench: Bench, split: Split = "test", n_train: int = N_TRAIN, n_test: int = N_TEST) -> None:
        self.bench, self.split, self.build = bench, split, bench.build
        # Another draw than that which the reward models' rollouts are of; "train" is the split, so some problems are in both.
        self.train = self._write("train", n_train, 10_000 + self.build.seed)
        self.test = self._write(split, n_test, 20_000 + self.build.seed)

    def _write(self, split: Split, n: int, seed: int) -> Path:
        file = self.build.folder() / f"rl-{split}-{n}.jsonl"
        return write_lines(file, make_problems(self.build.world, split, n, seed))


def policy_place(
    build: Build,
    split: Split,
    settings: PolicySettings,
    reward: Settings | None,
    problems: str | None = None,
) -> Path:
    """The folder of a run. problems: name of the file it is measured on; None: a split's usual one."""
    recipe = (resource_folder("training") / RECIPE).read_text(encoding="utf-8")
    named = problems or f"rl-{split}-{N_TEST}.jsonl"
    key = digest([asdict(settings), None if reward is None else asdict(reward), split, recipe, named])
    return build.folder() / "policies" / f"{settings.method}-{settings.objective}-{key[:12]}"


def run_policy(bench: PolicyBench, settings: PolicySettings, reward: Settings | None = None) -> dict[str, Any]:
    """Train and measure one policy; kept, and read the next time.

    Args:
        reward: the offline reward model to start from.

    Returns:
        ``settings``, ``seed``, ``split``; ``right``: correct completions of each test problem, in the problems' order, and ``n``
        completions of each; ``history``: figures of every step (`prmbench.training.rl.trainer`), empty for ``sft``.
    """
    build = bench.build
    place = policy_place(build, bench.split, settings, reward, bench.test.name)
    result = place / "measured.json"
    if result.exists():
        kept: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return kept
    history: list[dict[str, Any]] = []
    recipe = _recipe(bench, settings, reward, place)
    if settings.method == "sft":
        entry = _measure_start(bench, recipe, place)
    else:
        done = train_rl(recipe)
        assert done is not None
        history = done.history
        entry = place / "entries" / f"step-{done.steps}"
    counts: dict[str, int] = {}
    for item in read_completions(entry / ITEMS_NAME):
        counts[item.id] = counts.get(item.id, 0) + (item.verdict == Verdict.CORRECT)
    assert recipe.evaluate is not None
    found = {
        "settings": asdict(settings),
        "reward": None if reward is None else asdict(reward),
        "seed": build.seed,
        "split": bench.split,
        "n": recipe.evaluate.n,
        "right": [counts[name] for name in sorted(counts, key=lambda name: int(name.rpartition("-")[2]))],
        "history": [{k: v for k, v in row.items() if k not in ("epoch", "learning_rate")} for row in history],
    }
    for weights in place.rglob("*.safetensors"):
        weights.unlink()  # hundreds of runs; the seed makes them again
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(result, json.dumps(found) + "\n")
    return found


def _recipe(bench: PolicyBench, settings: PolicySettings, reward: Settings | None, output: Path) -> RLRecipe:
    method = "grpo" if settings.method == "sft" else settings.method
    changes = {
        "model": bench.bench.policy,
        "problems": bench.train,
        "output": output,
        "method": method,
        "alpha": settings.alpha,
        "gae_weight": settings.gae_weight,
        "learning_rate": settings.learning_rate,
        "max_steps": settings.steps,
        "seed": bench.build.seed,
        "evaluate.problems": f"[{bench.test}]",
    }
    if reward is not None:
        bench.bench.train(reward)
        changes |= {
            "reward_model.model": bench.bench.folder(reward),
            "reward_model.update": settings.update,
            "reward_model.reference": settings.reference,
            "reward_model.learning_rate": settings.reward_learning_rate,
        }
    return load_recipe(RECIPE, RLRecipe, [f"{name}={value}" for name, value in changes.items()])


def _measure_start(bench: PolicyBench, recipe: RLRecipe, place: Path) -> Path:
    from prmbench.benchmarks.policy.run import evaluate_policy
    from prmbench.data.problem_sets import find_problems
    from prmbench.data.prompts import find_prompt
    from prmbench.policies.policy import load_policy

    options = recipe.evaluate
    assert options is not None
    evaluate_policy(
        load_policy(str(bench.bench.policy), find_prompt(recipe.prompt)),
        find_problems(options.problems),
        name="sft",
        source="sft",
        output=place,
        n=options.n,
        params=options.params(),
        prompt=recipe.prompt,
        seed=recipe.seed,
        n_resamples=options.resamples,
    )
    return place


def average(found: dict[str, Any]) -> float:
    """avg@n of a result, in %."""
    return 100 * float(np.mean(found["right"])) / float(found["n"])


def last_third(found: dict[str, Any], name: str) -> float:
    """Mean of a logged figure over the last third of the steps; NaN where it was not logged."""
    history: Sequence[dict[str, Any]] = found["history"]
    values = [row[name] for row in history[-(len(history) // 3) :] if name in row]
    return float(np.mean(values)) if values else float("nan")
