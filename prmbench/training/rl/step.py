"""What happens to a step's rollouts before the policy is updated on them (docs/protocols.md, "Policy optimisation").

In this order: measure pi_old; measure the reward model's accuracy, update it, score with it; make advantages; make what every
token's loss needs. Every process holds the whole batch's outcomes and token values, and the micro-batches of its own rows. So
statistics are those of the whole batch, however many processes there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prmbench.errors import UserError
from prmbench.training.model.forward import Model
from prmbench.training.rl.advantages import scaled_td
from prmbench.training.rl.balance import clamped_accuracy, minibatch_rows, outcome_pairs
from prmbench.training.rl.batch import RolloutBatch, share_rows
from prmbench.training.rl.loss import Tokens, candidate_weights, token_weights
from prmbench.training.rl.methods import Advantages, Algorithm, ScoredBatch, compute_advantages
from prmbench.training.rl.micro import MicroBatch, make_micro, measure_old
from prmbench.training.rl.reward import ImplicitReward, Reward
from prmbench.training.rl.sampler import LARGE_RATIO, VLLMOptions, importance_weights, mismatch

LARGEST_RATIO = 3.0
"""Of the mean |GAE| to the mean |outcome advantage|, past which a run warns."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run. The defaults are those of a run with one.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
        gather: Joins the lists of all processes, in order.
        total: Sums a tensor over processes.
    """

    rank: int = 0
    count: int = 1
    gather: Callable[[list[Any]], list[Any]] = lambda own: own
    total: Callable[[Tensor], Tensor] = lambda own: own


@dataclass
class Preparation:
    """Makes micro-batches that are ready for the policy loss of a step's rollouts.

    Attributes:
        algorithm: The method and its numbers.
        stop: Ids that end a rollout. int64, on the device.
        micro_batches: Micro-batches of a process in one minibatch.
        autocast: Makes the context that models compute in.
        log: Called with a figure's name and value.
        warn: Called with a line of warning.
        processes: The processes of the run.
        reward: The reward model; None where there is none.
        start: Where the policy started from, for a method that compares with it.
        vllm: How rollouts of another sampler than the trainer are corrected; None where the trainer itself samples.
    """

    algorithm: Algorithm
    stop: Tensor
    micro_batches: int
    autocast: Callable[[], AbstractContextManager[Any]]
    log: Callable[[str, float], None]
    warn: Callable[[str], None] = lambda _: None
    processes: Processes = Processes()
    reward: Reward | None = None
    start: Model | None = None
    vllm: VLLMOptions | None = None
    _warned: bool = field(init=False, default=False)

    def run(self, policy: Model, batch: RolloutBatch, *, learn: bool) -> list[MicroBatch]:
        """Prepare this process's micro-batches.

        Args:
            policy: pi_old, as it is trained.
            batch: The kept rollouts.
            learn: False where no prompt was kept; then nothing counts.

        Returns:
            Those of the first minibatch, then those of the second, and so on.
        """
        micros = self._share(batch, learn)
        with self.autocast():
            for micro in micros:
                measure_old(policy, micro, self.algorithm, self.stop)
        values, picked, beta = self._token_values(batch, micros, learn)
        scored = ScoredBatch(batch.rewards.double(), batch.groups, batch.mask, values, beta)
        advantages = compute_advantages(self.algorithm, scored)
        if learn:
            self._log_advantages(batch, advantages)
        correction = self._correction(batch, micros) if learn else None
        self._set_targets(batch, micros, advantages, correction)
        if self.algorithm.rules.candidates:
            assert advantages.sigma is not None
            self._set_candidates(micros, picked, advantages.sigma, beta)
        if learn:
            self._log_tokens(micros)
        return micros

    def _share(self, batch: RolloutBatch, real: bool) -> list[MicroBatch]:
        return [micro for rows in batch.minibatches for micro in self._micros(batch, rows, self.micro_batches, real)]

    def _micros(self, batch: RolloutBatch, rows: Sequence[int], count: int, real: bool = True) -> list[MicroBatch]:
        """Make this process's micro-batches of some rows."""
        lengths, processes = [len(r) for r in batch.responses], self.processes
        return [
            make_micro(
                part if real else [],
                batch.responses,
                teaches=real and bool(rows),
                dist=self.algorithm.rules.candidates,
                device=self.stop.device,
            )
            for part in share_rows(rows, lengths, processes.rank, processes.count, count)
        ]

    def _token_values(
        self, batch: RolloutBatch, micros: list[MicroBatch], learn: bool
    ) -> tuple[Tensor | None, list[Tensor | None], float]:
        """Return token values of the whole batch after the reward model's update, those of each micro-batch's candidates, beta."""
        if self.algorithm.rules.from_start:
            assert self.start is not None
            with torch.no_grad(), self.autocast():
                found = [micro.old - self.start(**micro.call)["values"] for micro in micros]
            values = self._whole(batch, micros, found)
            self.log("kl_start", float(values[batch.mask].mean()))
            return values, [], 1.0
        reward = self.reward
        if reward is None:
            return None, [], 1.0
        values, picked = self._score(reward, batch, micros)
        if not learn:
            return values, picked, reward.beta
        self._log_accuracy(reward, values, batch)
        if isinstance(reward, ImplicitReward) and reward.optimizer is not None:
            self._update(reward, values, batch, micros)
            values, picked = self._score(reward, batch, micros)
        self.log("reward_model/score", float((values.sum(dim=1) / batch.mask.sum(dim=1)).mean()))
        return values, picked, reward.beta

    def _score(
        self, reward: Reward, batch: RolloutBatch, micros: list[MicroBatch]
    ) -> tuple[Tensor, list[Tensor | None]]:
        scored = [reward.values(micro, batch.responses) for micro in micros]
        return self._whole(batch, micros, [one for one, _ in scored]), [picked for _, picked in scored]

    def _update(
        self, reward: ImplicitReward, values: Tensor, batch: RolloutBatch, micros: Sequence[MicroBatch]
    ) -> None:
        """Update the reward model, once or once a minibatch of its own."""
        parts = minibatch_rows(batch.groups, reward.objective.minibatch)
        old = self._whole(batch, micros, [micro.old for micro in micros]).float() if len(parts) > 1 else None
        for rows in parts:
            if (
                old is not None
            ):  # other rows together than the policy's minibatches, and another model than measured `values`
                micros = self._micros(batch, rows, math.ceil(len(micros) * len(rows) / len(old)))
                for micro in micros:
                    micro.old, micro.dist = micro.flat(old), False
                values, _ = self._score(reward, batch, micros)
            leaf = values.clone().requires_grad_()
            correct = batch.rewards[rows] > 0
            loss = reward.objective.loss(leaf[rows], batch.mask[rows], correct, batch.groups[rows])
            (gradient,) = torch.autograd.grad(loss, leaf)
            _check_finite(loss, "the reward model's online loss")
            norm = reward.learn(micros, gradient.float(), self.processes.total)
            self.log("reward_model/loss", float(loss.detach()))
            self.log("reward_model/grad_norm", norm)

    def _correction(self, batch: RolloutBatch, micros: list[MicroBatch]) -> Tensor | None:
        """Compare the sampler's log-probs with the trainer's. Returns the factors of the loss; None where nothing is corrected."""
        if self.vllm is None or batch.sampled is None:
            return None
        old = self._whole(batch, micros, [micro.old for micro in micros])
        found = mismatch(old, batch.sampled, batch.mask)
        self.log("sampling/sampling_logp_difference/mean", found.mean)
        self.log("sampling/sampling_logp_difference/p99", found.p99)
        self.log(f"sampling/ratio_beyond_{LARGE_RATIO}", found.beyond)
        if not self.vllm.importance_sampling_correction:
            return None
        factors = importance_weights(old, batch.sampled.double(), batch.mask, self.vllm)
        self.log("sampling/importance_sampling_ratio/mean", float(factors[batch.mask].mean()))
        return factors.float()

    def _set_targets(
        self, batch: RolloutBatch, micros: list[MicroBatch], advantages: Advantages, correction: Tensor | None
    ) -> None:
        # DDP averages gradients over processes; the weights are made for their sum.
        weights = torch.zeros(batch.mask.shape)
        for rows in batch.minibatches:
            if rows:
                own = token_weights(batch.mask[rows], self.algorithm.details.aggregation)
                weights[rows] = self.processes.count * own
        total = advantages.total.float()
        for micro in micros:
            of_token = micro.flat(weights) if micro.real else torch.zeros_like(micro.old)
            factors = micro.flat(correction) if correction is not None and micro.real else None
            micro.sampled = Tokens(micro.old, micro.flat(total), of_token, factors)

    def _set_candidates(
        self, micros: list[MicroBatch], picked: Sequence[Tensor | None], sigma: Tensor, beta: float
    ) -> None:
        for start in range(0, len(micros), self.micro_batches):
            minibatch = range(start, start + self.micro_batches)
            own = [micros[i].old_picked.exp().sum() for i in minibatch if micros[i].real]
            mass = torch.stack([*own, self.stop.new_zeros((), dtype=torch.float32)]).sum()
            mass = self.processes.total(mass) / self.processes.count
            for i in minibatch:
                micro, values = micros[i], picked[i]
                assert micro.sampled is not None
                assert values is not None
                weights = candidate_weights(self.algorithm, micro.sampled.weights, micro.where, mass)
                td = scaled_td(values, sigma.to(values), beta)
                weights = weights if micro.real else torch.zeros_like(weights)
                # Candidates are all there, whoever sampled; only that their rollout was sampled is to be corrected.
                of_rollout = self.vllm is not None and self.vllm.of_sequence
                factors = micro.sampled.correction if of_rollout else None
                micro.candidates = Tokens(
                    micro.old_picked, td, weights, factors[micro.where] if factors is not None else None
                )

    def _whole(self, batch: RolloutBatch, micros: Sequence[MicroBatch], flat: Sequence[Tensor]) -> Tensor:
        """Return the values of all rows, from all processes. float64, shape [b, t], 0 in padding."""
        own: list[tuple[int, NDArray[np.float64]]] = []
        for micro, values in zip(micros, flat, strict=True):
            if micro.real:
                counts = micro.mask.sum(dim=1).tolist()
                own += zip(micro.rows, (v.double().cpu().numpy() for v in values.split(counts)), strict=True)
        out = torch.zeros(batch.mask.shape, dtype=torch.float64)
        for row, values in self.processes.gather(own):
            out[row, : len(values)] = torch.from_numpy(values)
        _check_finite(out, "a token value")
        return out

    def _log_accuracy(self, reward: Reward, values: Tensor, batch: RolloutBatch) -> None:
        """Log how good the reward model is before its update.

        ``pair_accuracy``, of every kind: of a right and a wrong rollout of one prompt, does the right one have the higher final
        value? ``accuracy``, of implicit models: is the final value on the outcome's side of 0? With ADB: of the prompt's
        boundary, which knows how many of its rollouts are right.
        """
        correct = batch.rewards > 0
        final = torch.from_numpy(reward.final([v[m].numpy() for v, m in zip(values, batch.mask, strict=True)]))
        right, wrong = outcome_pairs(correct, batch.groups).T
        if len(right):
            higher = (final[right] > final[wrong]).double() + 0.5 * (final[right] == final[wrong]).double()
            self.log("reward_model/pair_accuracy", float(higher.mean()))
        if not isinstance(reward, ImplicitReward):
            return
        if "adb" in reward.objective.update:
            final = final + torch.logit(clamped_accuracy(correct, batch.groups, torch.float64))
        self.log("reward_model/accuracy", float(((final > 0) == correct).double().mean()))

    def _log_advantages(self, batch: RolloutBatch, advantages: Advantages) -> None:
        """Log how large the two parts of the advantage are, and say once where GAE swamps the outcome."""
        if advantages.gae is None or advantages.outcome is None:
            return
        gae, outcome = float(advantages.gae[batch.mask].abs().mean()), float(advantages.outcome.abs().mean())
        self.log("advantage/gae", gae)
        self.log("advantage/outcome", outcome)
        if outcome > 0:
            ratio = gae / outcome
            self.log("advantage/gae_to_outcome", ratio)
            if ratio > LARGEST_RATIO and not self._warned:
                self._warned = True
                self.warn(
                    f"warning: the mean |GAE| is {ratio:.1f} times the mean |outcome advantage|, which it swamps; lower "
                    f"gae_weight {self.algorithm.gae_weight:g}"
                )

    def _log_tokens(self, micros: Sequence[MicroBatch]) -> None:
        """Log the entropy of pi_old; how many candidates a state has, and how much of pi_old they hold."""
        real = [m for m in micros if m.real]
        ends = [m.ends(self.algorithm, self.stop) for m in real]
        sums = [
            sum(float(m.entropy.sum()) for m in real),
            sum(len(m.old) for m in real),
            sum(len(end) - int(end.sum()) for end in ends),
            sum(len(m.where) for m in real),
            sum(float(m.old_picked.exp().sum()) for m in real),
        ]
        found = self.processes.total(torch.tensor(sums, device=self.stop.device, dtype=torch.float64)).tolist()
        entropy, tokens, states, size, mass = found
        self.log("entropy", entropy / max(tokens, 1))
        if self.algorithm.rules.candidates:
            self.log("candidates/size", size / max(states, 1))
            self.log("candidates/mass", mass / max(states, 1))


def _check_finite(values: Tensor, what: str) -> None:
    """Raise UserError for NaN or infinity: comparisons with NaN are false, and would quietly leave the reward model out."""
    if not bool(values.isfinite().all()):
        raise UserError(
            f"{what} is not a finite number; lower reward_model.learning_rate, and check the reward model and its reference (what "
            "was saved before is kept)"
        )
