"""The demo: the whole loop in the miniature, from a policy to a trained reward model, its tables and its step scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from prmbench.api import rerank
from prmbench.benchmarks.best_of_n.schema import BestOfNMetrics
from prmbench.benchmarks.processbench.run import evaluate_traces
from prmbench.benchmarks.processbench.schema import ProcessBenchEntry
from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import Rollout, Summary, summarise
from prmbench.data.solutions import Solution
from prmbench.data.traces import Trace, load_traces
from prmbench.miniature.build import PROMPT, Build, recipe_keys, rollout_error, rollout_steps, train_policy
from prmbench.miniature.solutions import FORMATS
from prmbench.miniature.split_data import EVALUATION, sample_split, write_traces
from prmbench.miniature.targets import Regime, measure_regime
from prmbench.policies.policy import Policy, load_policy
from prmbench.results.schema import Entry, digest
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.loading import load_reward_model
from prmbench.scoring.run import Scored, score_solutions
from prmbench.scoring.threshold import Threshold

RM_RECIPE = "miniature/rm.yaml"
BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class Sizes:
    """How large the demo is.

    Attributes:
        problems: Test problems.
        samples: Completions of each of them at temperature 1.
        traces: Labelled traces in each format.
        outcomes: Training problems whose rollouts the reward model learns from.
        outcome_samples: Completions of each of those.
        reranked: Problems of Best-of-N.
        candidates: Completions of each of those, at the evaluation preset.
    """

    problems: int = 600
    samples: int = 4
    traces: int = 400
    outcomes: int = 2_500
    outcome_samples: int = 5
    reranked: int = 64
    candidates: int = 64


class Demo:
    """What the demo makes, each thing when it is first asked for. Everything is kept on disk by what it was made of."""

    def __init__(
        self, build: Build | None = None, sizes: Sizes | None = None, log: Callable[[str], None] = print
    ) -> None:
        """Make nothing yet.

        Args:
            build: What the miniature is made of; None takes the default, whose policy ships.
            sizes: How large the demo is; None takes the default.
            log: Called with a line for every measurement.
        """
        self.build, self.sizes, self.log = build or Build(), sizes or Sizes(), log

    @cached_property
    def policy_folder(self) -> Path:
        """Checkpoint folder of the policy."""
        return train_policy(self.build, self.log)

    @cached_property
    def policy(self) -> Policy:
        """The policy, ready to sample."""
        return load_policy(str(self.policy_folder), find_prompt(PROMPT))

    @cached_property
    def rollouts(self) -> list[Rollout]:
        """Verified rollouts of test problems."""
        return sample_split(self.build, self.policy_folder, "test", self.sizes.problems, self.sizes.samples)[1]

    @cached_property
    def summary(self) -> Summary:
        """The rollouts in figures."""
        return summarise(self.rollouts)

    @cached_property
    def errors(self) -> dict[str, int]:
        """Number of rollouts by kind of the first error."""
        return dict(Counter(rollout_error(one, self.build.world) for one in self.rollouts).most_common())

    @cached_property
    def lengths(self) -> dict[int, int]:
        """Number of rollouts by their number of steps."""
        return dict(sorted(Counter(len(rollout_steps(one)) for one in self.rollouts).items()))

    @cached_property
    def regime(self) -> Regime:
        """The figures that the world was tuned on."""
        return measure_regime(self.build, self.policy, self.rollouts)

    @cached_property
    def traces(self) -> list[Trace]:
        """Labelled traces in all formats."""
        name = f"test-{self.sizes.problems}x{self.sizes.samples}"
        return load_traces(write_traces(self.build, self.rollouts, self.sizes.traces, name), list(FORMATS))

    @cached_property
    def reward_model_folder(self) -> Path:
        """Checkpoint folder of a reward model (IPVRM), trained on rollouts of training problems."""
        from prmbench.training.recipes.read import as_overrides, load_recipe
        from prmbench.training.rm.recipe import RMRecipe
        from prmbench.training.rm.run import train_rm

        data, _ = sample_split(self.build, self.policy_folder, "train", self.sizes.outcomes, self.sizes.outcome_samples)
        of = digest(recipe_keys(RM_RECIPE))[:12]
        folder = self.build.folder() / f"demo-rm-{self.sizes.outcomes}x{self.sizes.outcome_samples}-{of}"
        if not (folder / "rm.json").exists():
            changes = {"model": self.policy_folder, "data": data, "output": folder, "seed": self.build.seed}
            held = {} if self.sizes.outcomes > 500 else {"held_out": 0}
            train_rm(load_recipe(RM_RECIPE, RMRecipe, as_overrides(changes | held)), log=self.log)
        return folder

    @cached_property
    def reward_model(self) -> RewardModel:
        """The reward model, loaded."""
        return load_reward_model(self.reward_model_folder)

    @cached_property
    def endo(self) -> tuple[ProcessBenchEntry, Path]:
        """ProcessBench of the policy's own log-probs (EndoRM), which need no training, and the entry's file."""
        return self._processbench("EndoRM", load_reward_model(self.policy_folder, kind="endo"), self.policy_folder)

    @cached_property
    def ipvrm(self) -> tuple[ProcessBenchEntry, Path]:
        """ProcessBench of the trained reward model, and the entry's file."""
        return self._processbench("IPVRM", self.reward_model, self.reward_model_folder)

    def _processbench(self, name: str, model: RewardModel, folder: Path) -> tuple[ProcessBenchEntry, Path]:
        return evaluate_traces(
            model,
            self.traces,
            name=name,
            source=str(folder),
            output=self.build.folder() / f"demo-{name.lower()}-{digest(self.sizes.__dict__)[:8]}",
            batch_tokens=BATCH_TOKENS,
            miniature=True,
        )

    @cached_property
    def best_of_n(self) -> tuple[Entry[BestOfNMetrics], Path]:
        """Best-of-N of the reward model at the evaluation preset, and the entry's file."""
        candidates, _ = sample_split(
            self.build, self.policy_folder, "test", self.sizes.reranked, self.sizes.candidates, EVALUATION
        )
        found = rerank(
            self.reward_model,
            [candidates],
            name="IPVRM",
            output=self.build.folder() / f"demo-best-of-n-{digest(self.sizes.__dict__)[:8]}",
            n_resamples=1_000,
            batch_tokens=BATCH_TOKENS,
            miniature=True,
        )
        assert found is not None  # nothing is shared between processes
        return found

    def scored(self, n: int = 10) -> list[tuple[Trace, Scored]]:
        """Score the steps of some tagged traces, right and wrong ones in turn.

        The threshold is the one at which the F1 of all tagged traces is highest.

        Args:
            n: How many.

        Returns:
            Each trace with its scores and its predicted first error.
        """
        entry, _ = self.ipvrm
        tagged = [one for one in self.traces if one.subset == "tagged"]
        right, wrong = ([one for one in tagged if (one.label < 0) == is_right] for is_right in (True, False))
        chosen = [one for pair in zip(wrong, right, strict=False) for one in pair][:n]
        rule = entry.metrics.protocols["prefix"].subsets["tagged"].rules["oracle"]
        threshold = Threshold(rule.thresholds[0], "prefix", "best for the tagged traces")
        solutions = [Solution(one.id, one.problem, one.steps) for one in chosen]
        return list(zip(chosen, score_solutions(self.reward_model, solutions, threshold=threshold), strict=True))
