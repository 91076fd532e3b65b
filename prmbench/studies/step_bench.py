"""The step benchmark: what a step of GRPO or DistRL with an online IPVRM costs, after sampling, on random models and rollouts.

A step is what the trainer does: pi_old's log-probs and candidates, the reward model's update and scores, advantages, and two
updates of the policy, in float32. Weights are random, and sharpened until a state has about as many candidates as Table 11 says.
Sampling is left out, because it is the same for both. Ways are timed in turns, and the fastest step counts, so that whatever else
the machine does changes little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from prmbench.data.rollouts import Rollout
from prmbench.data.verdicts import Verdict
from prmbench.reward_models.card import Card
from prmbench.training.model.forward import give_logprobs
from prmbench.training.rl.balance import OnlineObjective
from prmbench.training.rl.batch import PromptGroup, RolloutBatch, make_batch
from prmbench.training.rl.loss import policy_loss
from prmbench.training.rl.methods import Algorithm
from prmbench.training.rl.micro import MicroBatch
from prmbench.training.rl.reward import ImplicitReward
from prmbench.training.rl.step import Preparation

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

SAMPLES = 4
"""Rollouts of a prompt."""
LEARNING_RATE = 1e-6
"""Of both models: their weights hardly move, so that every step does the same work."""
FLOAT32_BYTES, KEPT_COPIES = 4, 3
"""Bytes of a number, and what is kept of a model between steps: its weights and AdamW's two moments."""


def random_llama(vocabulary: int, width: int, layers: int, seed: int) -> LlamaForCausalLM:
    """Make a Llama with random weights and tied embeddings, in eval mode.

    Args:
        vocabulary: Number of tokens.
        width: Size of a hidden state; a multiple of 8.
        layers: Number of layers.
        seed: Seed of the weights.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **shape, **heads)).eval()


def allocated(run: Callable[[], object]) -> int:
    """Return the most bytes that a call's allocations hold at once, from the allocator's events; resident memory is noisy.

    Args:
        run: The call.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.max())


@dataclass(frozen=True)
class StepShape:
    """How large the models and the batch are.

    Attributes:
        vocabulary: Number of tokens.
        width: Size of a hidden state.
        layers: Number of layers.
        prompts: Prompts of a batch, with `SAMPLES` rollouts each.
        tokens: Tokens of a prompt and a rollout together; a quarter is the prompt's.
        micro: Rollouts of a micro-batch.
        sharpen: Weight of the last norm, which makes distributions narrower.
    """

    vocabulary: int
    width: int
    layers: int
    prompts: int
    tokens: int
    micro: int
    sharpen: float

    @property
    def prompt(self) -> int:
        """Tokens of a prompt."""
        return self.tokens // 4

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a minibatch, of which a batch has two."""
        return max(1, self.prompts * SAMPLES // 2 // self.micro)


@dataclass
class BenchStep:
    """A policy, its reward model and a batch, ready for steps.

    Attributes:
        method: ``grpo`` or ``distrl``.
        shape: Sizes.
        seed: Seed of the weights and the rollouts.
        logged: What the last step's preparation logged.
    """

    method: Literal["grpo", "distrl"]
    shape: StepShape
    seed: int
    logged: dict[str, float] = field(default_factory=dict)

    @cached_property
    def policy(self) -> LlamaForCausalLM:
        """The policy."""
        policy = random_llama(self.shape.vocabulary, self.shape.width, self.shape.layers, self.seed)
        with torch.no_grad():
            policy.model.norm.weight.fill_(self.shape.sharpen)
        return policy

    @cached_property
    def phi(self) -> LlamaForCausalLM:
        """The reward model: the policy, a little changed."""
        phi = random_llama(self.shape.vocabulary, self.shape.width, self.shape.layers, self.seed)
        with torch.no_grad():
            phi.load_state_dict(self.policy.state_dict())
            for parameter in phi.parameters():
                parameter += 1e-4 * torch.randn_like(parameter)
        return phi

    @cached_property
    def batch(self) -> RolloutBatch:
        """Rollouts of random tokens, right and wrong, in two minibatches."""
        shape, rng = self.shape, np.random.default_rng(self.seed + 1)
        groups = []
        for g in range(shape.prompts):
            ids = rng.integers(2, shape.vocabulary, size=(SAMPLES, shape.tokens - shape.prompt))
            rollouts = [
                Rollout(f"p{g}", k, "", "", "", row, "length", Verdict.CORRECT if k <= g % 3 else Verdict.WRONG)
                for k, row in enumerate(ids)
            ]
            groups.append(PromptGroup(rng.integers(2, shape.vocabulary, size=shape.prompt), tuple(rollouts)))
        return make_batch(groups, 2, [0])

    @cached_property
    def algorithm(self) -> Algorithm:
        """The method with the paper's numbers."""
        return Algorithm(method=self.method)

    @cached_property
    def online(self) -> OnlineObjective:
        """How the reward model is updated."""
        return OnlineObjective.of_card(Card(kind="implicit", objective="ipvrm"), "dlw+adb")

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """The policy's optimizer."""
        return torch.optim.AdamW(self.policy.parameters(), lr=LEARNING_RATE)

    @cached_property
    def phi_optimizer(self) -> torch.optim.Optimizer:
        """The reward model's optimizer."""
        return torch.optim.AdamW(self.phi.parameters(), lr=LEARNING_RATE)

    @property
    def kept_bytes(self) -> int:
        """Bytes of weights and moments of both models, which a step begins with."""
        return sum(
            KEPT_COPIES * FLOAT32_BYTES * p.numel() for model in (self.policy, self.phi) for p in model.parameters()
        )

    @cached_property
    def _preparation(self) -> Preparation:
        card = Card(kind="implicit", objective="ipvrm")
        reward = ImplicitReward(self.phi, card, self.online, None, nullcontext, self.phi_optimizer)
        give_logprobs(self.policy, "the policy")
        give_logprobs(self.phi, "the reward model")
        stop = torch.tensor([1])
        log = self.logged.__setitem__
        return Preparation(self.algorithm, stop, self.shape.micro_batches, nullcontext, log, reward=reward)

    def update(self, parts: list[Callable[[], Tensor]]) -> float:
        """Update the policy once, by the gradients of a minibatch's losses.

        Args:
            parts: Compute the losses of the micro-batches.

        Returns:
            The sum of the losses.
        """
        total = 0.0
        for part in parts:
            loss = part()
            loss.backward()
            total += float(loss.detach())
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def run(self) -> float:
        """Make one step as the trainer does.

        Returns:
            The loss of the first minibatch.
        """
        micros = self._preparation.run(self.policy, self.batch, learn=True)

        def loss_of(micro: MicroBatch) -> Tensor:
            assert micro.sampled is not None  # the preparation fills it
            found = self.policy(**micro.call, **micro.pick())
            return policy_loss(
                self.algorithm, found["values"], micro.sampled, found.get("picked"), micro.candidates
            ).loss

        size = self.shape.micro_batches
        losses = [
            self.update([partial(loss_of, micro) for micro in micros[start : start + size]])
            for start in range(0, len(micros), size)
        ]
        return losses[0]


def measure_in_turns(steps: Mapping[str, BenchStep], n_timed: int) -> dict[str, dict[str, float]]:
    """Time ways of a step in turns, and measure their memory.

    Args:
        steps: The ways, by name.
        n_timed: Timed steps of each; one more before them warms up, and one more behind them is for memory.

    Returns:
        By way: ``seconds`` of its fastest step; ``peak``, the most bytes that weights, moments and what a step allocates take
        together; ``size``, candidates of a state, 0 where there are none.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step.run()  # makes the gradients and AdamW's moments
    for _ in range(n_timed):
        for name, step in steps.items():
            start = time.perf_counter()
            step.run()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: {
            "seconds": min(seconds[name]),
            "peak": step.kept_bytes + allocated(step.run),
            "size": step.logged.get("candidates/size", 0.0),
        }
        for name, step in steps.items()
    }
