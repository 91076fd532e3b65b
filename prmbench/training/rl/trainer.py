"""The policy trainer: TRL's GRPOTrainer with our batches, advantages and loss.

Of TRL stay its loader of whole steps, generation with vLLM and its weight sync, adapters, and the training loop of
transformers below it (accelerate, FSDP, DeepSpeed, resume). Ours are the methods it is subclassed for: the order of prompts
(`_get_train_sampler`; TRL's is another one after a kill), what becomes of them (`_prepare_inputs`), the loss of a
micro-batch (`_compute_loss`).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import unwrap_model_for_generation

from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import Rollout
from prmbench.data.tokens import TraceEncoder
from prmbench.data.verdicts import Verdict
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.processes import WAIT
from prmbench.engines.sampling import SamplingParams
from prmbench.engines.tokenizer import token_ids
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import sample
from prmbench.training.model.forward import Model
from prmbench.training.model.sharding import gathered
from prmbench.training.model.trainer import GuardedTrainer
from prmbench.training.recipes.optimisation import shared_arguments
from prmbench.training.rl.batch import PromptGroup, PromptSampler, keep_groups, make_batch
from prmbench.training.rl.loss import policy_loss
from prmbench.training.rl.micro import MicroBatch
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rl.reward import ImplicitReward, Reward
from prmbench.training.rl.step import Preparation, Processes
from prmbench.training.watch.samples import SamplesFile
from prmbench.verify import Verifier

REWARD_STATE = "reward_model"


@dataclass(frozen=True)
class Setup:
    """What a trainer is made of.

    Models beside the policy are made by functions of the trainer, since only the trainer knows the device.

    Attributes:
        recipe: The recipe.
        problems: Problems to train on, each with the token ids of its prompt.
        encoder: The policy's tokenizer.
        stop: Ids that end a rollout.
        processes: Number of processes.
        states: Folder of saved states.
        log: Called with a line of warning.
        make_reward: Makes the reward model; None for none.
        make_start: Makes the model that the policy started from; None where the method does not compare with it.
        after_step: Called with the trainer and the number of steps done, after every step but the last.
        before_last: Called with the trainer before the last step's updates of the policy.
        samples: Keeps rollouts to look at; None keeps none.
    """

    recipe: RLRecipe
    problems: Sequence[tuple[Problem, NDArray[np.int64]]]
    encoder: TraceEncoder
    stop: frozenset[int]
    processes: int
    states: Path
    log: Callable[[str], None] = lambda _: None
    make_reward: Callable[[PolicyTrainer], Reward] | None = None
    make_start: Callable[[PolicyTrainer], Model] | None = None
    after_step: Callable[[PolicyTrainer, int], None] = lambda *_: None
    before_last: Callable[[PolicyTrainer], None] = lambda _: None
    samples: SamplesFile | None = None


class PolicyTrainer(GuardedTrainer, GRPOTrainer):
    """TRL's trainer with our batches, advantages and loss."""

    def __init__(self, setup: Setup, model: Any, callbacks: Sequence[TrainerCallback] = ()) -> None:
        """Make a trainer, with its reward model and all else that it needs.

        Args:
            setup: What it is made of.
            model: The policy to train, with its adapter where there is one.
            callbacks: Called by the training loop, beside the trainer's own.
        """
        from datasets import Dataset

        recipe = setup.recipe
        # `gather_object` and the accelerator exist only once the base class is made.
        super().__init__(
            model=model,
            args=_config(setup),
            reward_funcs=[_unused],
            train_dataset=Dataset.from_list([{"prompt": "", "index": i} for i in range(len(setup.problems))]),
            processing_class=setup.encoder.tokenizer,
            callbacks=[*callbacks, _StepCallback(self)],
        )
        self.updates_of_step = recipe.minibatches
        self.setup, self.verifier, accelerator = setup, Verifier(recipe.conventions), self.accelerator
        self.preparation = Preparation(
            algorithm=recipe,
            stop=torch.tensor(sorted(setup.stop), device=accelerator.device),
            micro_batches=recipe.micro_batches(setup.processes),
            autocast=accelerator.autocast,
            log=self._metric,
            warn=setup.log,
            processes=Processes(
                accelerator.process_index,
                accelerator.num_processes,
                gather_object,
                lambda one: accelerator.reduce(one, reduction="sum"),
            ),
            reward=setup.make_reward(self) if setup.make_reward else None,
            start=setup.make_start(self) if setup.make_start else None,
            vllm=recipe.vllm if recipe.engine == "vllm" else None,
        )
        self._last_began: float | None = None
        self._teaches = True
        self._buffered_inputs: list[MicroBatch] | None = None

    @property
    def learning_reward(self) -> ImplicitReward | None:
        """The reward model, where it is updated."""
        reward = self.preparation.reward
        return reward if isinstance(reward, ImplicitReward) and reward.optimizer is not None else None

    @property
    def rollout_step(self) -> int:
        """Steps (rollout batches) finished."""
        return self.state.global_step // self.setup.recipe.minibatches

    def _get_train_sampler(self, dataset: Any = None) -> PromptSampler:
        recipe = self.setup.recipe
        per_step = self.args.generation_batch_size // recipe.samples
        return PromptSampler(
            len(self.setup.problems), per_step, recipe.samples, self.args.steps_per_generation, recipe.seed
        )

    def _prepare_inputs(self, generation_batch: list[dict[str, Any]]) -> Any:
        parts = self.args.steps_per_generation
        if self._step % parts == 0 or self._buffered_inputs is None:
            self._buffered_inputs = self._make_inputs(generation_batch)
        return self._buffered_inputs[self._step % parts]

    def _make_inputs(self, generation_batch: list[dict[str, Any]]) -> list[MicroBatch]:
        """Sample one step's rollouts, and prepare what follows from them."""
        recipe, began = self.setup.recipe, time.monotonic()
        indices = [row["index"] for row in generation_batch[:: recipe.samples]]
        groups: list[PromptGroup] = gather_object(self._sample(indices))
        sampled = time.monotonic()
        kept = keep_groups(groups, recipe.batch_size, recipe)
        self._log_rollouts(groups, kept)
        if self.setup.samples is not None and self.is_world_process_zero():
            self.setup.samples.write(self.rollout_step + 1, (kept or groups)[0].rollouts)
        if self.state.global_step + recipe.minibatches >= self.state.max_steps:
            self.setup.before_last(self)
        batch = make_batch(kept or groups[:1], recipe.minibatches, [recipe.seed, self.rollout_step])
        with self._no_dropout():
            micros = self.preparation.run(self.model_wrapped, batch, learn=bool(kept))
        self._metric("seconds/sampling", sampled - began)
        self._metric("seconds/scoring", time.monotonic() - sampled)
        if self._last_began is not None:
            self._metric("seconds/step_before", began - self._last_began)
        self._last_began = began
        self._metric("peak_memory_gib", _peak_memory() / 2**30)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        return micros

    def _sample(self, indices: Sequence[int]) -> list[PromptGroup]:
        """Sample and verify rollouts of these problems."""
        asked = [self.setup.problems[i] for i in indices]
        problems, prompts = [problem for problem, _ in asked], [ids for _, ids in asked]
        if self.use_vllm:
            return self._sample_with_vllm(problems, prompts)
        by_id: dict[str, list[Rollout]] = {}
        for rollout in sorted(self._sample_here(problems, prompts), key=lambda one: one.sample):
            by_id.setdefault(rollout.id, []).append(rollout)
        return [PromptGroup(ids, tuple(by_id[p.id])) for p, ids in asked]

    def _sample_here(self, problems: Sequence[Problem], prompts: Sequence[NDArray[np.int64]]) -> list[Rollout]:
        recipe = self.setup.recipe
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
            ) as model,
            self._no_dropout(),
            self.accelerator.autocast(),
            torch.no_grad(),
            gathered(self.model_wrapped, self.accelerator),
        ):
            base = model.get_base_model() if hasattr(model, "peft_config") else model
            engine = HFEngine(base, allowed=token_ids(self.setup.encoder.tokenizer))
            policy = Policy(engine, self.setup.encoder, "the policy in training", "")
            batches = sample(
                policy,
                problems,
                prompts,
                self.verifier,
                style=find_prompt(recipe.prompt).style,
                n=recipe.samples,
                params=SamplingParams(max_new_tokens=recipe.max_new_tokens),
                seed=recipe.seed * 1_000_003 + self.rollout_step,
                batch_tokens=recipe.rollout_tokens,
            )
            return [rollout for batch in batches for rollout in batch]

    def _sample_with_vllm(self, problems: Sequence[Problem], prompts: Sequence[NDArray[np.int64]]) -> list[PromptGroup]:
        recipe, setup = self.setup.recipe, self.setup
        repeated = [ids.tolist() for ids in prompts for _ in range(recipe.samples)]
        completions, logprobs = self._generate_single_turn(repeated, None, {}, recipe.samples)
        jobs = [(p, k) for p in problems for k in range(recipe.samples)]
        texts = [setup.encoder.tokenizer.decode(ids, skip_special_tokens=True) for ids in completions]
        style = find_prompt(recipe.prompt).style
        verdicts = self.verifier.verify(texts, [p.answer for p, _ in jobs], style=style)
        found = []
        for (p, k), ids, text, verdict in zip(jobs, completions, texts, verdicts, strict=True):
            done = bool(ids) and ids[-1] in setup.stop
            found.append(
                Rollout(
                    id=p.id,
                    sample=k,
                    problem=p.problem,
                    answer=p.answer,
                    completion=text,
                    ids=np.array(ids, dtype=np.int64),
                    finish_reason="stop" if done else "length",
                    verdict=verdict if done else Verdict.WRONG,
                )
            )
        # vLLM gives None for a log-prob that is no number. NumPy makes NaN of it.
        sampled = None if logprobs is None else [np.array(one, dtype=np.float32) for one in logprobs]
        n = recipe.samples
        parts = [slice(start, start + n) for start in range(0, len(found), n)]
        return [
            PromptGroup(ids, tuple(found[part]), None if sampled is None else tuple(sampled[part]))
            for ids, part in zip(prompts, parts, strict=True)
        ]

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        """Give the policy loss of one micro-batch: its part of a sum over the minibatch."""
        micro: MicroBatch = inputs
        assert micro.sampled is not None
        self._teaches = micro.teaches
        found = model(**micro.call, **micro.pick())
        loss = policy_loss(self.setup.recipe, found["values"], micro.sampled, found.get("picked"), micro.candidates)
        parts = {
            "loss/sampled": loss.sampled,
            "loss/candidates": loss.candidates,
            "clip_share/sampled": loss.clipped,
            "clip_share/candidates": loss.clipped_candidates,
            "kl_old": loss.kl,
        }
        means = self.accelerator.reduce(torch.stack([one.detach().float() for one in parts.values()]), reduction="mean")
        for name, value in zip(parts, means.tolist(), strict=True):
            # Of a part of a minibatch: TRL logs the mean over micro-batches, so that this is the mean over minibatches.
            self._metric(name, value * self.preparation.micro_batches)
        return loss.loss

    def _log_rollouts(self, groups: Sequence[PromptGroup], kept: Sequence[PromptGroup]) -> None:
        rollouts = [r for group in groups for r in group.rollouts]
        self._metric("rollouts/accuracy", float(np.mean([r.correct for r in rollouts])))
        self._metric("rollouts/truncated", float(np.mean([r.finish_reason == "length" for r in rollouts])))
        self._metric("rollouts/mean_tokens", float(np.mean([len(r.ids) for r in rollouts])))
        self._metric("rollouts/kept_prompts", float(len(kept)))
        self._metric("rollouts/mixed_prompts", float(sum(0 < g.accuracy < 1 for g in groups)))

    def _metric(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)

    @contextmanager
    def _no_dropout(self) -> Iterator[None]:
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no model card: a checkpoint's own files say what it is.

        Args:
            *_: Not used.
            **__: Not used.
        """

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.learning_reward is not None:
            self.learning_reward.save_state(Path(output_dir) / REWARD_STATE, write=self.is_world_process_zero())


class _StepCallback(TrainerCallback):
    """Calls `Setup.after_step`, and keeps a minibatch without rows from updating anything."""

    def __init__(self, trainer: PolicyTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Called between clipping and the optimizer's step. On a gradient of zeros AdamW would go on by its momentum."""
        if not self.trainer._teaches:
            for parameter in model.parameters():
                parameter.grad = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called after every update."""
        step, rest = divmod(state.global_step, self.trainer.setup.recipe.minibatches)
        if rest == 0 and state.global_step < state.max_steps:
            self.trainer.setup.after_step(self.trainer, step)


def _config(setup: Setup) -> GRPOConfig:
    """Tell TRL what the recipe says."""
    recipe, processes = setup.recipe, setup.processes
    per_update = recipe.micro_batches(processes)
    parts = per_update * recipe.minibatches
    updates = recipe.updates(len(setup.problems))
    return GRPOConfig(
        **shared_arguments(recipe, setup.states, updates),
        max_steps=updates,
        per_device_train_batch_size=recipe.batch_size * recipe.oversample * recipe.samples // (processes * parts),
        gradient_accumulation_steps=per_update,
        steps_per_generation=parts,
        num_generations=recipe.samples,
        max_completion_length=recipe.max_new_tokens,
        temperature=recipe.temperature,
        beta=0.0,
        loss_type="grpo",
        disable_dropout=True,
        remove_unused_columns=False,
        save_steps=recipe.save_every * recipe.minibatches,
        logging_steps=recipe.minibatches,
        ddp_find_unused_parameters=False,
        ddp_timeout=int(WAIT.total_seconds()),
        generation_kwargs={"stop_token_ids": sorted(setup.stop)} if recipe.engine == "vllm" else None,
        use_vllm=recipe.engine == "vllm",
        **recipe.vllm.arguments(recipe.max_length),
    )


def _unused(**_: Any) -> list[float]:
    """TRL wants a reward function; ours come from the verifier, in the batch."""
    raise AssertionError("TRL's own scoring was called")


def _peak_memory() -> int:
    """Return bytes: of the device since the last call's reset, where there is one; else of the process so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
