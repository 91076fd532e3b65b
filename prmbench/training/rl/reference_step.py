"""One step of policy optimisation, as plainly as it can be written: the oracle that the trainer is held to.

It is also the place to read what a step is. One sequence at a time, whole-vocabulary distributions, any dtype; no padding,
no blocks, no processes.

    groups = sample_groups(policy, prompts, n=4, is_right=..., stop={end}, max_new_tokens=80, generator=generator)
    reference_step(policy, optimizer, groups, [[0, 1], [2, 3]], algorithm, stop={end}, reward=reward)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prmbench.data.rollouts import Rollout
from prmbench.data.verdicts import Verdict
from prmbench.training.rl.advantages import scaled_td
from prmbench.training.rl.balance import OnlineObjective, minibatch_rows
from prmbench.training.rl.batch import PromptGroup
from prmbench.training.rl.candidates import likely_tokens, released_candidates
from prmbench.training.rl.loss import Tokens, candidate_weights, policy_loss, token_weights
from prmbench.training.rl.methods import Advantages, Algorithm, ScoredBatch, compute_advantages

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = NDArray[np.int64]
Row = tuple[Ids, Ids]
"""A prompt and a response to it."""

MAX_GRAD_NORM = 1.0


@dataclass
class PlainReward:
    """An implicit reward model.

    Attributes:
        model: pi_phi.
        reference: pi_ref; None for pi_old.
        objective: How it is updated.
        optimizer: Optimizer of its updates; None where it is frozen.
        max_grad_norm: Norm that its gradients are clipped to.
    """

    model: PreTrainedModel
    reference: PreTrainedModel | None
    objective: OnlineObjective
    optimizer: torch.optim.Optimizer | None = None
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class StepRecord:
    """What a step computed.

    Attributes:
        advantages: Advantages of all rollouts.
        losses: Loss of each minibatch, at its turn.
        reward_loss: Loss of the reward model before its update, the mean over its updates; None where it is frozen.
    """

    advantages: Advantages
    losses: list[float]
    reward_loss: float | None


def distributions(model: PreTrainedModel, prompt: Ids, response: Ids) -> Tensor:
    """Compute log pi(. given s_t) at every response token's state.

    Args:
        model: The model.
        prompt: Token ids of the prompt.
        response: Token ids of the response. Shape [t].

    Returns:
        Shape [t, vocabulary].
    """
    ids = torch.from_numpy(np.concatenate([prompt, response]))[None]
    return model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)


def of_tokens(model: PreTrainedModel, prompt: Ids, response: Ids) -> Tensor:
    """Compute log pi(y_t given s_t) of every response token.

    Args:
        model: The model.
        prompt: Token ids of the prompt.
        response: Token ids of the response. Shape [t].

    Returns:
        Shape [t].
    """
    return distributions(model, prompt, response).gather(1, torch.from_numpy(response)[:, None])[:, 0]


@torch.no_grad()
def sample_groups(
    policy: PreTrainedModel,
    prompts: Sequence[tuple[str, Ids]],
    n: int,
    is_right: Callable[[str, Ids], bool],
    stop: set[int],
    max_new_tokens: int,
    generator: torch.Generator,
) -> list[PromptGroup]:
    """Sample rollouts from the untempered policy.

    Args:
        policy: The policy.
        prompts: Id and token ids of each prompt.
        n: Rollouts of a prompt.
        is_right: Says of a prompt's id and a response whether it is right. A truncated rollout is wrong.
        stop: Ids that end a rollout.
        max_new_tokens: Tokens after which a rollout is cut.
        generator: Source of random numbers.

    Returns:
        The rollouts of each prompt.
    """
    groups = []
    for name, prompt in prompts:
        rollouts = []
        for k in range(n):
            ids: list[int] = []
            while len(ids) < max_new_tokens and not (ids and ids[-1] in stop):
                whole = torch.tensor([[*prompt.tolist(), *ids]])
                p = policy(input_ids=whole).logits[0, -1].softmax(dim=-1)
                ids.append(int(torch.multinomial(p, 1, generator=generator)))
            done, response = ids[-1] in stop, np.array(ids, dtype=np.int64)
            verdict = Verdict.CORRECT if done and is_right(name, response) else Verdict.WRONG
            rollouts.append(Rollout(name, k, "", "", "", response, "stop" if done else "length", verdict))
        groups.append(PromptGroup(prompt, tuple(rollouts)))
    return groups


def reference_step(
    policy: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[PromptGroup],
    minibatches: Sequence[Sequence[int]],
    algorithm: Algorithm,
    *,
    stop: set[int],
    reward: PlainReward | None = None,
    start: PreTrainedModel | None = None,
) -> StepRecord:
    """Update the reward model once and the policy once a minibatch, on rollouts of the policy as it is.

    Args:
        policy: The policy, which is changed.
        optimizer: Optimizer of the policy.
        groups: Kept prompts with their rollouts.
        minibatches: Rollouts of each minibatch, counted through all groups.
        algorithm: The method and its numbers.
        stop: Ids that end a rollout.
        reward: The reward model, which is changed where it has an optimizer; None where there is none.
        start: Where the policy started from, for a method that compares with it.

    Returns:
        What was computed.
    """
    rows = [(group.prompt, rollout.ids) for group in groups for rollout in group.rollouts]
    rewards = torch.tensor([float(r.correct) for group in groups for r in group.rollouts], dtype=torch.float64)
    of_group = torch.tensor([g for g, group in enumerate(groups) for _ in group.rollouts])

    # pi_old, and its candidates at every state but that of the end of turn.
    old, candidates = [], []
    for prompt, y in rows:
        with torch.no_grad():
            log_old = distributions(policy, prompt, y)
        sampled = torch.from_numpy(y)
        old.append(log_old.gather(1, sampled[:, None])[:, 0])
        likely = likely_tokens(log_old, algorithm.p_min)
        if not algorithm.details.all_likely:
            likely = released_candidates(log_old, sampled, algorithm.p_min)
        goes_on = [int(y[t]) not in stop for t in likely[0]]
        if not algorithm.details.all_likely:
            goes_on = [int(t) < len(y) - 1 for t in likely[0]]
        where, tokens = likely[0][goes_on], likely[1][goes_on]
        candidates.append((where, tokens, log_old[where, tokens]))

    # The reward model's update, and what it then says of sampled tokens and candidates.
    values, picked, reward_loss = None, [], None
    if reward is not None:
        if reward.optimizer is not None:
            parts = []
            for part in minibatch_rows(of_group, reward.objective.minibatch):
                references = _references(reward, [rows[i] for i in part], [old[i] for i in part])
                padded, mask = pad(
                    [of_tokens(reward.model, *rows[i]) - r for i, r in zip(part, references, strict=True)]
                )
                loss = reward.objective.loss(padded, mask, rewards[part] > 0, of_group[part])
                parts.append(_update(reward.model, reward.optimizer, loss, reward.max_grad_norm))
            reward_loss = sum(parts) / len(parts)
        with torch.no_grad():
            references = _references(reward, rows, old)
            values = [of_tokens(reward.model, *row) - ref for row, ref in zip(rows, references, strict=True)]
            for row, (where, tokens, log_old) in zip(rows, candidates, strict=True):
                ref = log_old if reward.reference is None else distributions(reward.reference, *row)[where, tokens]
                picked.append(distributions(reward.model, *row)[where, tokens] - ref)
    elif start is not None:
        with torch.no_grad():
            values = [log_old - of_tokens(start, *row) for row, log_old in zip(rows, old, strict=True)]

    # Advantages of sampled tokens.
    _, mask = pad(old)
    beta = reward.objective.beta if reward is not None else 1.0
    padded_values = None if values is None else pad(values)[0].double()
    advantages = compute_advantages(algorithm, ScoredBatch(rewards, of_group, mask, padded_values, beta))

    # One update of the policy a minibatch.
    losses = []
    for minibatch in minibatches:
        weights = token_weights(mask[list(minibatch)], algorithm.details.aggregation, old[0].dtype)
        mass = torch.stack([candidates[i][2].exp().sum() for i in minibatch]).sum()
        loss = old[0].new_zeros(())
        for i, weight in zip(minibatch, weights, strict=True):
            now = distributions(policy, *rows[i])
            t = len(old[i])
            sampled = Tokens(old[i], advantages.total[i, :t].to(now), weight[:t])
            log_now = now.gather(1, torch.from_numpy(rows[i][1])[:, None])[:, 0]
            if not algorithm.rules.candidates:
                loss = loss + policy_loss(algorithm, log_now, sampled, None, None).loss
                continue
            where, tokens, log_old = candidates[i]
            assert advantages.sigma is not None
            td = scaled_td(picked[i], advantages.sigma, beta).to(now)
            others = Tokens(log_old, td, candidate_weights(algorithm, weight[:t], where, mass))
            loss = loss + policy_loss(algorithm, log_now, sampled, now[where, tokens], others).loss
        losses.append(_update(policy, optimizer, loss))
    return StepRecord(advantages, losses, reward_loss)


def _update(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float = MAX_GRAD_NORM
) -> float:
    """Make one update, and return the loss before it."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    return float(loss.detach())


def _references(reward: PlainReward, rows: Sequence[Row], old: Sequence[Tensor]) -> list[Tensor]:
    if reward.reference is None:
        return list(old)
    with torch.no_grad():
        return [of_tokens(reward.reference, *row) for row in rows]


def pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Put rows of different lengths into one tensor.

    Args:
        rows: The rows, of t numbers at most.

    Returns:
        The rows as one tensor, 0 in padding, and the mask of what is not padding. Shapes [b, t].
    """
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    counts = torch.tensor([len(row) for row in rows])
    return padded, torch.arange(padded.shape[1])[None, :] < counts[:, None]
