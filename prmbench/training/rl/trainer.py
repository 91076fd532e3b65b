"""The policy trainer: TRL's GRPOTrainer with our batches, advantages and loss.

Of TRL stay: its loader of whole steps, generation with vLLM and its weight sync, adapters, and the training loop of
transformers below it (accelerate, FSDP, DeepSpeed, resume). Ours are the methods it is subclassed for: the order of prompts
(`_get_train_sampler`; TRL's is another one after a kill), what becomes of them (`_prepare_inputs`), the loss of a micro-batch
(`_compute_loss`).
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
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation

from prmbench.data.problems import Problem
from prmbench.data.prompts import PromptTemplate
from prmbench.data.rollouts import Rollout
from prmbench.data.tokens import TraceEncoder
from prmbench.data.verdicts import Verdict
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import sample
from prmbench.training.rl.balance import Update
from prmbench.training.rl.batch import Group, PromptSampler, keep_groups, make_batch
from prmbench.training.rl.loss import policy_loss
from prmbench.training.rl.methods import Algorithm
from prmbench.training.rl.micro import MicroBatch, Model
from prmbench.training.rl.reward import ImplicitReward, Reward
from prmbench.training.rl.step import Processes, Step
from prmbench.verify import Verifier

REWARD_STATE = "reward_model"


@dataclass
class Setup:
    """What a run is made of, beside what TRL is told.

    Attributes:
        algorithm: method and numbers. problems, prompts: to train on, and their token ids. template: how they are asked.
        encoder: the policy's tokenizer. stop: ids that end a rollout. params: of sampling. n: rollouts of a prompt.
        kept: prompts of a step. minibatches: updates of a step. micro_batches: of a process in one minibatch.
        batch_tokens: of a sampling batch. seed: of sampling and of dealing prompts to minibatches.
        reward, update: the reward model and how it is updated. start: where the policy started from, for ``spro``.
        before_last: called with the trainer before the last step's updates of the policy.
    """

    algorithm: Algorithm
    problems: Sequence[Problem]
    prompts: Sequence[NDArray[np.int64]]
    template: PromptTemplate
    encoder: TraceEncoder
    stop: frozenset[int]
    params: SamplingParams
    n: int
    kept: int
    minibatches: int
    micro_batches: int
    batch_tokens: int
    seed: int
    reward: Reward | None = None
    update: Update = "frozen"
    start: Model | None = None
    before_last: Callable[[PolicyTrainer], None] | None = None


class PolicyTrainer(GRPOTrainer):
    """Args: setup: see `Setup`; all others are TRL's."""

    def __init__(self, setup: Setup, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.setup = setup
        self.verifier = Verifier()
        accelerator = self.accelerator
        self.step = Step(
            setup.algorithm,
            torch.tensor(sorted(setup.stop), device=accelerator.device),
            Processes(
                accelerator.process_index,
                accelerator.num_processes,
                gather_object,
                lambda one: accelerator.reduce(one, reduction="sum"),
            ),
            setup.micro_batches,
            accelerator.autocast,
            self._metric,
            setup.reward,
            setup.update,
            setup.start,
        )
        self._last_began: float | None = None
        self._teaches = True
        self.add_callback(_SkipEmpty(self))
        self._buffered_inputs: list[MicroBatch] | None = None

    @property
    def rollout_step(self) -> int:
        """Steps (rollout batches) finished."""
        return self.state.global_step // self.setup.minibatches

    def _get_train_sampler(self, dataset: Any = None) -> PromptSampler:
        setup = self.setup
        per_step = self.args.generation_batch_size // setup.n
        return PromptSampler(len(setup.problems), per_step, setup.n, self.args.steps_per_generation, setup.seed)

    def _prepare_inputs(self, generation_batch: list[dict[str, Any]]) -> Any:
        parts = self.args.steps_per_generation
        if self._step % parts == 0 or self._buffered_inputs is None:
            self._buffered_inputs = self._make_inputs(generation_batch)
        return self._buffered_inputs[self._step % parts]

    def _make_inputs(self, generation_batch: list[dict[str, Any]]) -> list[MicroBatch]:
        """One step's rollouts, and what follows from them."""
        setup, began = self.setup, time.monotonic()
        groups: list[Group] = gather_object(self._sample([row["index"] for row in generation_batch[:: setup.n]]))
        sampled = time.monotonic()
        kept = keep_groups(groups, setup.kept, setup.algorithm)
        self._log_rollouts(groups, kept)
        if setup.before_last is not None and self.state.global_step + setup.minibatches >= self.state.max_steps:
            setup.before_last(self)
        batch = make_batch(kept or groups[:1], setup.minibatches, [setup.seed, self.rollout_step])
        with self._no_dropout():
            micros = self.step.prepare(self.model_wrapped, batch, learn=bool(kept))
        self._metric("seconds/sampling", sampled - began)
        self._metric("seconds/scoring", time.monotonic() - sampled)
        if self._last_began is not None:
            self._metric("seconds/step_before", began - self._last_began)
        self._last_began = began
        self._metric("peak_memory_gib", _peak_memory() / 2**30)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        return micros

    def _sample(self, indices: Sequence[int]) -> list[Group]:
        """Rollouts of these problems, verified."""
        setup = self.setup
        problems, prompts = [setup.problems[i] for i in indices], [setup.prompts[i] for i in indices]
        found = self._sample_with_vllm(problems, prompts) if self.use_vllm else self._sample_here(problems, prompts)
        by_id: dict[str, list[Rollout]] = {}
        for rollout in sorted(found, key=lambda one: one.sample):
            by_id.setdefault(rollout.id, []).append(rollout)
        return [Group(ids, tuple(by_id[p.id])) for p, ids in zip(problems, prompts, strict=True)]

    def _sample_here(self, problems: Sequence[Problem], prompts: Sequence[NDArray[np.int64]]) -> list[Rollout]:
        setup = self.setup
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
            ) as model,
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
            self._no_dropout(),
            self.accelerator.autocast(),
        ):
            base = model.get_base_model() if hasattr(model, "peft_config") else model
            policy = Policy(HFEngine(base), setup.encoder, "the policy in training", "")
            batches = sample(
                policy,
                problems,
                prompts,
                self.verifier,
                style=setup.template.style,
                n=setup.n,
                params=setup.params,
                seed=setup.seed * 1_000_003 + self.rollout_step,
                batch_tokens=setup.batch_tokens,
            )
            return [rollout for batch in batches for rollout in batch]

    def _sample_with_vllm(self, problems: Sequence[Problem], prompts: Sequence[NDArray[np.int64]]) -> list[Rollout]:
        setup = self.setup
        repeated = [ids.tolist() for ids in prompts for _ in range(setup.n)]
        completions, _ = self._generate_single_turn(repeated, None, {}, setup.n)
        jobs = [(p, k) for p in problems for k in range(setup.n)]
        texts = [setup.encoder.tokenizer.decode(ids, skip_special_tokens=True) for ids in completions]
        verdicts = self.verifier.verify(texts, [p.answer for p, _ in jobs], style=setup.template.style)
        out = []
        for (p, k), ids, text, verdict in zip(jobs, completions, texts, verdicts, strict=True):
            done = bool(ids) and ids[-1] in setup.stop
            out.append(
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
        return out

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        """The policy loss of one micro-batch: its part of a sum over the minibatch."""
        micro: MicroBatch = inputs
        assert micro.sampled is not None
        self._teaches = micro.teaches
        found = model(**micro.call, **micro.pick())
        loss = policy_loss(self.setup.algorithm, found["values"], micro.sampled, found.get("picked"), micro.candidates)
        if not bool(loss.loss.isfinite()):
            raise UserError(
                f"the loss is {float(loss.loss.detach())} at step {self.rollout_step}; lower learning_rate, and check the "
                "checkpoint (what was saved before is kept)"
            )
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
            self._metric(name, value * self.setup.micro_batches)
        return loss.loss

    def _log_rollouts(self, groups: Sequence[Group], kept: Sequence[Group]) -> None:
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
        """None: what a checkpoint is, its own files say."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Before TRL's own, whose last file marks a state as whole.
        reward = self.setup.reward
        if isinstance(reward, ImplicitReward) and reward.optimizer is not None and self.is_world_process_zero():
            folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            reward.save_state(folder / REWARD_STATE)
        super()._save_checkpoint(model, trial)


class _SkipEmpty(TrainerCallback):
    """A minibatch without rows updates nothing: on a gradient of zeros AdamW would go on by its momentum."""

    def __init__(self, trainer: PolicyTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Called between clipping and the optimizer's step."""
        if not self.trainer._teaches:
            for parameter in model.parameters():
                parameter.grad = None


def _peak_memory() -> int:
    """Bytes: of the device since the last call's reset, where there is one; else of the process so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
