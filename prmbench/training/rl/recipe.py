"""The recipe of a policy-optimisation run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prmbench.benchmarks.policy.run import PRESETS as SAMPLING
from prmbench.data.problems import load_problems
from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TokenOptions
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError, nearest
from prmbench.results.schema import MAX_RESAMPLES
from prmbench.reward_models.remote import is_url
from prmbench.training.plan import Memory, MemoryItem, TrainingPlan, trained_count
from prmbench.training.recipes.optimisation import Optimisation
from prmbench.training.recipes.shapes import Expected
from prmbench.training.rl.advantages import gae_size
from prmbench.training.rl.balance import check_update
from prmbench.training.rl.methods import VARIANTS, Algorithm, Variant, outcome_and_gae
from prmbench.training.rl.reward import FULL_RATE, RewardOptions, reward_kind
from prmbench.training.rl.sampler import VLLMOptions
from prmbench.training.rl.served import check_served
from prmbench.verify.options import VerifierOptions


class EvaluateOptions(BaseModel):
    """How the policy is measured, as ``prmbench eval --policy`` does it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problems: list[str] = Field(min_length=1, description="problem sets by name, or files")
    every: int | None = Field(None, ge=1, description="steps between two measurements; null measures at the end only")
    n: int = Field(8, ge=1, description="completions of a problem")
    limit: int | None = Field(None, ge=1, description="number of problems of each set that are used, from its start")
    preset: str = Field("paper", description="sampling: paper (0.6, 0.95) or released (0.7, 0.8, top-k 20)")
    max_new_tokens: int = Field(2048, ge=1, description="tokens after which a completion is cut, which makes it wrong")
    resamples: int = Field(10_000, ge=1, le=MAX_RESAMPLES, description="bootstrap resamples of the intervals")

    @model_validator(mode="after")
    def _known(self) -> EvaluateOptions:
        if self.preset not in SAMPLING:
            raise ValueError(
                f"evaluate.preset '{self.preset}'{nearest(self.preset, SAMPLING)}: expected paper or released"
            )
        return self

    def params(self) -> SamplingParams:
        """Return the sampling parameters."""
        return SAMPLING[self.preset].model_copy(update={"max_new_tokens": self.max_new_tokens})


class RLRecipe(Algorithm, Optimisation):
    """A policy-optimisation run. A step is a rollout batch and its updates: epochs, max_steps and save_every count steps."""

    max_steps: int | None = Field(
        None,
        ge=1,
        description="number of steps, each of which keeps batch_size prompts and makes minibatches updates; goes over epochs",
    )
    problems: str = Field(
        description="problems to train on: a problem set by name, or a file of {id, problem, answer} records"
    )
    prompt: str = Field("boxed", description="prompt template, by name")
    tokens: TokenOptions = Field(
        default_factory=lambda: TokenOptions(), description="chat template arguments, system message, end of turn"
    )
    batch_size: int = Field(256, ge=1, description="prompts that a step keeps, over all processes; released: 512")
    oversample: int = Field(2, ge=1, description="prompts that are sampled for one that is kept")
    samples: int = Field(4, ge=2, description="rollouts of a prompt; released: 16")
    minibatches: int = Field(
        2, ge=2, description="updates of a step; with one no ratio leaves 1 and nothing is clipped; released: 4"
    )
    micro_batch_size: int = Field(8, ge=1, description="rollouts of one forward pass on one device")
    max_new_tokens: int = Field(2048, ge=1, description="tokens after which a rollout is cut, which makes it wrong")
    temperature: float = Field(
        1.0, description="temperature of rollouts; only 1, since pi_old is the untempered distribution"
    )
    rollout_tokens: int = Field(
        16_384, ge=1, description="tokens of a sampling batch with engine hf, rollouts counted at full length"
    )
    engine: str = Field("hf", description="what samples rollouts: hf, or vllm, whose weights are kept in step")
    vllm: VLLMOptions = Field(default_factory=lambda: VLLMOptions(), description="how vLLM samples, with engine vllm")
    reward_model: RewardOptions | None = Field(None, description="null trains on the verifier's outcomes alone")
    verifier: str = Field(
        "strict", description="what counts as right: strict, paper, or strict,tolerance=0.01,think=false"
    )
    samples_every: int | None = Field(
        None, ge=1, description="steps between two whose rollouts are shown in samples.jsonl; null shows none"
    )
    evaluate: EvaluateOptions | None = Field(None, description="how the policy is measured; null measures nothing")
    learning_rate: float = Field(
        3e-5, gt=0, allow_inf_nan=False, description="peak learning rate of AdamW; released: 2e-5"
    )
    schedule: str = Field("constant", description="learning-rate schedule: cosine, linear or constant")
    warmup_ratio: float = Field(0.0, ge=0, lt=1, description="share of the updates spent warming up")
    save_every: int = Field(10, ge=1, description="steps between two saved states, from which a killed run goes on")
    seed: int = Field(0, ge=0, lt=1 << 32, description="seed of prompt order, sampling and minibatches")

    @model_validator(mode="after")
    def _batches_fit(self) -> RLRecipe:
        if self.temperature != 1:
            raise ValueError(
                f"temperature {self.temperature:g}: rollouts are sampled at 1, because pi_old, which ratios are taken to, is the "
                "untempered distribution; leave it out"
            )
        if self.batch_size < self.minibatches:
            raise ValueError(
                f"minibatches {self.minibatches}: a step keeps batch_size {self.batch_size} prompts, fewer than that"
            )
        if self.lora is not None and not self.lora.merge:
            raise ValueError(
                "lora.merge false: a policy is measured and written as a checkpoint of its own; leave it out"
            )
        VerifierOptions.parse(self.verifier)  # a mistake is said here
        if self.engine not in ("hf", "vllm"):
            raise ValueError(f"engine '{self.engine}': expected hf or vllm")
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_in_reward(cls, fields: Any) -> Any:
        """Take what the recipe does not give of the reward model from the preset."""
        if not isinstance(fields, dict) or not isinstance(reward := fields.get("reward_model"), dict):
            return fields
        variant = VARIANTS.get(fields.get("preset", "paper"), Variant())
        return {**fields, "reward_model": {**variant.reward, **reward}}

    def departures(self) -> list[str]:
        """List the keys whose values are not those of the preset, each with both values."""
        wanted = {**self.details.recipe, **{f"reward_model.{k}": v for k, v in self.details.reward.items()}}
        own = {**dict(self), **{f"reward_model.{k}": v for k, v in dict(self.reward_model or {}).items()}}
        shown = {name: "an adapter" if name.endswith("lora") and own[name] else own[name] for name in own}
        return [
            f"{name} {shown[name]} (there {'all weights' if value is None else value})"
            for name, value in wanted.items()
            if name in own and own[name] != value
        ]

    @property
    def rendering(self) -> TokenOptions:
        """How problems become text: as `tokens` says, with the system message of the prompt template where it says none."""
        return self.tokens.with_system(find_prompt(self.prompt).system)

    @property
    def conventions(self) -> VerifierOptions:
        """What counts as a right answer."""
        return VerifierOptions.parse(self.verifier)

    @property
    def updates_of_step(self) -> int:
        """See `Optimisation.updates_of_step`."""
        return self.minibatches

    @property
    def learns_reward(self) -> bool:
        """Whether the reward model is updated."""
        return self.reward_model is not None and self.reward_model.update != "frozen"

    def remarks(self) -> list[str]:
        """List what someone should know of this recipe before it runs, a line each."""
        lines = []
        if departures := self.departures():
            lines.append(f"warning: preset {self.preset}, but the recipe gives {', '.join(departures)}")
        if self.reward_model is not None and self.rules.advantages is outcome_and_gae and self.details.td_by_prompt:
            tokens = self.expected.tokens if self.expected else self.max_new_tokens
            lines.append(
                f"GAE has gae_weight {self.gae_weight:g}: its mean size is about {self.gae_weight * gae_size(tokens):.1f} at "
                f"{tokens:,} tokens, and grows like the square root of the length; that of the outcome advantage is about 1"
            )
        reward = self.reward_model
        if reward is not None and self.learns_reward and reward.lora is None and reward.rate > FULL_RATE:
            lines.append(
                f"warning: all weights of the reward model are updated at reward_model.learning_rate {reward.rate:g}, which can "
                f"make it worse from its first update; set reward_model.lora, or lower the rate to {FULL_RATE:g}"
            )
        return lines

    def check_reward(self, kind: str | None) -> None:
        """Refuse a reward model that does not fit the method or its update.

        Args:
            kind: Kind of the reward model; None where there is none.

        Raises:
            UserError: It does not fit.
        """
        options = self.reward_model
        self.rules.check_reward(options.model if options else None, kind)
        if options is not None and is_url(options.model):
            check_served(options, candidates=self.rules.candidates, method=self.method)
        if options is not None:
            check_update(options.update, kind=kind)

    def updates(self, records: int) -> int:
        """Count the updates that a run makes.

        Args:
            records: Number of problems to train on.

        Returns:
            The number of updates.
        """
        steps = self.max_steps or max(1, math.floor(self.epochs * (records // (self.batch_size * self.oversample))))
        return steps * self.minibatches

    def micro_batches(self, processes: int) -> int:
        """Count the forward passes of a process in one update.

        They are as few as micro_batch_size allows, and such that TRL's loader can deal the sampled rollouts to them evenly.

        Args:
            processes: Number of processes.

        Returns:
            The number of forward passes.

        Raises:
            UserError: They cannot be dealt evenly, whatever their number.
        """
        sampled = self.batch_size * self.oversample
        if sampled % processes or sampled * self.samples % (processes * self.minibatches):
            raise UserError(
                f"batch_size {self.batch_size} x oversample {self.oversample} prompts of {self.samples} rollouts cannot be dealt "
                f"evenly to {processes} processes in {self.minibatches} minibatches; choose a multiple"
            )
        share = sampled * self.samples // (processes * self.minibatches)
        largest = math.ceil(math.ceil(self.batch_size / self.minibatches) * self.samples / processes)
        fewest = math.ceil(largest / self.micro_batch_size)
        return next((parts for parts in range(fewest, share + 1) if share % parts == 0), share)

    def plan(self) -> TrainingPlan:
        """Plan the run, as `Optimisation.plan` says.

        Records are problems, and rows the rollouts of one. Tokens are those of all rollouts, also of prompts that are rejected.
        """
        find_prompt(self.prompt)
        self.check_reward(self._planned_kind())
        shape = self.shape()
        data, source = self._planned_data()
        self.micro_batches(1)
        memory = Memory.of(self, shape)
        sampled = self.batch_size * self.oversample * self.samples
        kept = f"{self.batch_size * self.samples:,} kept, {self.minibatches} updates on them"
        tokens = self.micro_batch_size * self.max_length
        items = [*memory.weights(), *self._planned_models(memory), *memory.activations(tokens)]
        items += [*memory.blocks(tokens, gradient=not self.lora), *self._planned_cache(memory)]
        source = f"{source}; {sampled:,} rollouts a step, {kept}"
        sampler = None
        if self.engine == "vllm" and self.vllm.mode == "colocate":
            options = self.vllm
            sampler = memory.sampler(
                options.gpu_memory_utilization, options.tensor_parallel_size, sleeps=options.enable_sleep_mode
            )
        plan = memory.plan(data, source, self.samples, items, sampled / self.minibatches, sampler)
        if self.engine == "vllm":
            return plan
        how = f"all {plan.parameters:,} weights x {memory.compute_bytes}, to sample"
        return replace(plan, gathered=replace(plan.gathered, bytes=plan.parameters * memory.compute_bytes, how=how))

    def _planned_data(self) -> tuple[Expected, str]:
        if self.expected is not None:
            return self.expected, "expected, by the recipe"
        if not Path(self.problems).is_file():
            raise UserError(
                f"{self.problems}: no such file here, and the recipe has no 'expected' with its size to plan from"
            )
        size = Expected(records=len(load_problems(self.problems)), tokens=self.max_new_tokens)
        return size, f"counted in {self.problems}; rollouts at full length"

    def _planned_kind(self) -> str | None:
        """Return the reward model's kind: as recipe or card says; where neither is here, what the method takes."""
        if self.reward_model is None:
            return None
        if is_url(self.reward_model.model):  # a plan asks no server
            return self.reward_model.kind or next(iter(self.rules.rewards), "implicit")
        folder = Path(self.reward_model.model).expanduser()
        if self.reward_model.kind is None and not folder.is_dir():
            return next(iter(self.rules.rewards), "implicit")
        return reward_kind(self.reward_model, folder)

    def _planned_models(self, memory: Memory) -> list[MemoryItem]:
        """Return the reward model, and the reference that is neither pi_old nor the policy without its adapter."""
        reward, items = self.reward_model, []
        references = int(self.rules.from_start and not self.lora)
        if reward is not None and not is_url(reward.model):
            whole = self._planned_kind() != "implicit"
            items.append(memory.model("reward model", ", as large as the policy", whole=whole))
            if reward.update != "frozen":
                learns, width = trained_count(memory.shape, reward.lora), memory.learned_bytes(reward.lora)
                items.append(
                    MemoryItem(
                        "its gradients and moments", 3 * learns * width, f"{learns:,} x 3 x {width}", "other models"
                    )
                )
            origin = self.model if reward.reference == "start" else reward.reference
            shared = bool(reward.lora) and self.learns_reward and origin == reward.model
            references += not shared and reward.reference not in ("old", *(("start",) if self.lora else ()))
        return [*items, memory.model("reference")] if references else items

    def _planned_cache(self, memory: Memory) -> list[MemoryItem]:
        if self.engine != "hf":
            return []
        shape, tokens, width = memory.shape, self.rollout_tokens, memory.compute_bytes
        of_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * width
        how = f"{tokens:,} tokens x 2 x {shape.layers} layers x {shape.kv_heads} x {shape.head_dim} x {width}"
        return [MemoryItem("key-value cache", tokens * of_token, how)]
