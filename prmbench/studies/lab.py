"""One seed's data and models in the miniature, each made when it is first needed and kept on disk.

Several processes may work on one seed: each thing is made by one of them while the others wait for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from prmbench.data.problems import Problem, load_problems
from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import Rollout
from prmbench.engines.sampling import SamplingParams
from prmbench.miniature.build import PROMPT, Build, make_problems, recipe_keys, train_policy, write_lines
from prmbench.miniature.split_data import EVALUATION, TRAINING, sample_split, write_traces
from prmbench.miniature.world import Split
from prmbench.policies.policy import Policy, load_policy
from prmbench.results.schema import digest
from prmbench.results.store import write_atomically
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.loading import load_reward_model
from prmbench.studies.prefix_values import (
    CONTINUATIONS,
    N_PREFIXED,
    PREFIXES_EACH,
    PrefixValue,
    sample_prefix_values,
)
from prmbench.studies.settings import RewardModelSettings
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm

RM_RECIPE, PRM_RECIPE, RL_RECIPE = "miniature/rm.yaml", "miniature/prm.yaml", "miniature/rl.yaml"
RM_SAVE_EVERY, RL_SAVE_EVERY = 100, 10
"""Steps between two saved states of a training, from which it goes on after a stop; they change nothing of its result."""
N_OUTCOMES, N_ROLLOUTS = (4_500, 5), (600, 4)
"""Problems, and completions of each: to train reward models on, and to test them on."""
N_TRACES = 400
N_CANDIDATES = (200, 64)
"""Problems of Best-of-N, and completions of each."""
N_TRAIN, N_TEST = 6_000, 1_600
"""Problems that policies are trained and measured on."""
SIZES = [N_OUTCOMES, N_ROLLOUTS, N_TRACES, N_CANDIDATES, N_TRAIN, N_TEST]


def kept(place: Path, make: Callable[[], Any]) -> Any:
    """Return what a JSON file holds, and make it first where it is not there. One process makes it, the others wait.

    Args:
        place: The file.
        make: Makes the content, which JSON must be able to hold.

    Returns:
        The content, as it is read from the file.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        with FileLock(place.with_suffix(".lock")):
            if not place.exists():
                write_atomically(place, json.dumps(make()) + "\n")
    return json.loads(place.read_text(encoding="utf-8"))


class Lab:
    """One seed's data and models.

    Attributes:
        build: What the seed's miniature is made of.
        split: Split that traces, rollouts and candidates are of.
    """

    build: Build
    split: Split

    def __init__(self, seed: int, split: Split = "test") -> None:
        """Make nothing yet.

        Args:
            seed: Seed of the world's data, the models and their training.
            split: ``test`` for the tables, ``validation`` where settings are searched.
        """
        self.build, self.split = Build(seed=seed), split

    @cached_property
    def folder(self) -> Path:
        """Where everything of this seed is kept."""
        return self.build.folder()

    def _lock(self, name: str) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f".{name}.lock")

    @cached_property
    def policy(self) -> Path:
        """Checkpoint folder of the SFT policy, which everything starts from."""
        with self._lock("policy"):
            return train_policy(self.build)

    def load_policy(self) -> Policy:
        """Load the SFT policy, ready to sample."""
        return load_policy(str(self.policy), find_prompt(PROMPT))

    def _sample(
        self, split: Split, size: tuple[int, int], params: SamplingParams = TRAINING
    ) -> tuple[Path, list[Rollout]]:
        with self._lock(f"rollouts-{split}-{size[0]}x{size[1]}-{params.temperature:g}"):
            return sample_split(self.build, self.policy, split, *size, params)

    @cached_property
    def _outcomes(self) -> tuple[Path, list[Rollout]]:
        return self._sample("train", N_OUTCOMES)

    @property
    def outcomes(self) -> Path:
        """Folder of the verified rollouts that reward models are trained on."""
        return self._outcomes[0]

    @property
    def outcome_rollouts(self) -> list[Rollout]:
        """The same rollouts, by problem and then by sample."""
        return self._outcomes[1]

    @cached_property
    def _rollouts(self) -> tuple[Path, list[Rollout]]:
        return self._sample(self.split, N_ROLLOUTS)

    @property
    def rollouts(self) -> list[Rollout]:
        """Verified rollouts of the split's problems."""
        return self._rollouts[1]

    @property
    def rollouts_folder(self) -> Path:
        """Folder of the same rollouts."""
        return self._rollouts[0]

    @cached_property
    def candidates(self) -> Path:
        """Folder of the completions that Best-of-N chooses from, at the evaluation preset."""
        return self._sample(self.split, N_CANDIDATES, EVALUATION)[0]

    @cached_property
    def candidates_at_one(self) -> Path:
        """Folder of as many completions at temperature 1, which show over-optimisation."""
        return self._sample(self.split, N_CANDIDATES)[0]

    @cached_property
    def traces(self) -> Path:
        """Folder of labelled traces made of the rollouts, one file a format."""
        name = "{}-{}x{}-{}".format(self.split, *N_ROLLOUTS, N_TRACES)
        with self._lock(f"traces-{name}"):
            return write_traces(self.build, self.rollouts, N_TRACES, name)

    @cached_property
    def prefix_values(self) -> list[PrefixValue]:
        """Prefixes of rollouts with their true values."""

        def make() -> list[dict[str, Any]]:
            found = sample_prefix_values(self.load_policy(), self.rollouts, seed=self.build.seed, name=self.split)
            return [one.__dict__ for one in found]

        sizes = f"{N_PREFIXED}x{PREFIXES_EACH}x{CONTINUATIONS}"
        place = self.folder / f"prefix-values-{self.split}-{sizes}.json"
        return [PrefixValue(**fields) for fields in kept(place, make)]

    def probed_problems(self, n: int) -> list[Problem]:
        """Return the first problems that the rollouts are of.

        Args:
            n: Number of problems.
        """
        assert self.rollouts  # sampling them writes the file
        return load_problems(self.folder / f"problems-{self.split}-{N_ROLLOUTS[0]}.jsonl", n)

    @cached_property
    def policy_problems(self) -> tuple[Path, Path]:
        """Files of the problems that policies are trained on and measured on.

        They are other draws than the problems of the rollouts, from the same splits, so some problems are in both.
        """

        def write(split: Split, n: int, seed: int) -> Path:
            with self._lock(f"problems-{split}-{n}"):
                return write_lines(
                    self.folder / f"rl-{split}-{n}.jsonl", make_problems(self.build.world, split, n, seed)
                )

        return write("train", N_TRAIN, 10_000 + self.build.seed), write(self.split, N_TEST, 20_000 + self.build.seed)

    def reward_model_folder(self, settings: RewardModelSettings) -> Path:
        """Return the checkpoint folder of a trained reward model, and train it first where it is not there.

        Args:
            settings: How it is trained.
        """
        name = f"{settings.objective}-{digest([settings.__dict__, recipe_keys(RM_RECIPE)])[:12]}"
        folder = self.folder / "rm" / name
        with self._lock(f"train-{name}"):
            if not (folder / "rm.json").exists():
                self._train(settings, folder)
        return folder

    def _train(self, settings: RewardModelSettings, folder: Path) -> None:
        from prmbench.training.recipes.read import as_overrides, load_recipe

        changes = {
            "model": self.policy,
            "data": self.outcomes,
            "output": folder,
            "objective": settings.objective,
            "learning_rate": settings.learning_rate,
            "epochs": settings.epochs,
            "margin": settings.margin,
            "seed": self.build.seed,
            "save_every": RM_SAVE_EVERY,
        }
        train_rm(load_recipe(RM_RECIPE, RMRecipe, as_overrides(changes)))

    def reward_model(self, settings: RewardModelSettings) -> RewardModel:
        """Load a reward model, and train it first where it is not there.

        Args:
            settings: How it is trained.
        """
        if settings.objective == "endo":
            return load_reward_model(self.policy, kind="endo")
        return load_reward_model(self.reward_model_folder(settings))
