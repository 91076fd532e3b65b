"""Token advantages of the rivals, as their sources give them. Arguments as in `prmbench.training.rl.advantages`."""

from __future__ import annotations

import torch
from torch import Tensor

from prmbench.training.rl.advantages import gae, whiten
from prmbench.training.rl.outcome import group_mean, leave_one_out, loo_factor, outcome_advantage

PRIME_COEFFICIENT = 5.0
"""Weight of PRIME's process rewards, and of its outcome reward."""


def last_token(mask: Tensor) -> Tensor:
    """True at each row's last response token. bool, shape [b, t]."""
    t = torch.arange(mask.shape[1], device=mask.device)
    return mask & (t[None, :] == mask.sum(dim=1, keepdim=True) - 1)


def prime_advantage(values: Tensor, mask: Tensor, rewards: Tensor, groups: Tensor, beta: float) -> Tensor:
    """PRIME: process and outcome rewards, each with a leave-one-out baseline, as returns, whitened.

    A token's process reward is beta * r_t, 0 at the last token, divided by the largest absolute suffix sum in the batch. Its
    baseline is made of sequence means: with n rollouts of the prompt, n / (n - 1) * reward - (sum of the n means) / (n - 1).
    The outcome reward sits at the last token. A prompt with one rollout gives 0.

    Args:
        rewards: float, shape [b]: 1 for a verified answer.

    Returns:
        Shape [b, t], 0 in padding.
    """
    at_end = last_token(mask)
    process = (beta * values).masked_fill(~mask | at_end, 0.0)
    largest = gae(process, mask).abs().max()
    if float(largest) > 0:
        process = process / largest
    lengths = mask.sum(dim=1).clamp(min=1).to(values.dtype)
    means = process.sum(dim=1) / lengths
    process = loo_factor(groups, values.dtype)[:, None] * (process - group_mean(means, groups)[:, None])
    outcome = at_end.to(values.dtype) * leave_one_out(rewards, groups)[:, None]
    return whiten(gae(PRIME_COEFFICIENT * process + PRIME_COEFFICIENT * outcome, mask), mask)


def spro_advantage(values: Tensor, mask: Tensor, rewards: Tensor, groups: Tensor, beta: float) -> Tensor:
    """SPRO: the outcome advantage plus the masked step advantage, R_{i,t} minus its mean over the prompt's rollouts that are
    still going at t, R_{i,t} = beta * sum_{j <= t} log(pi_theta / pi_ref) of the policy itself.

    Args:
        values: log pi_old - log pi_ref of sampled tokens, shape [b, t].

    Returns:
        Shape [b, t], 0 in padding.
    """
    cumulative = (beta * values.masked_fill(~mask, 0.0)).cumsum(dim=1).masked_fill(~mask, 0.0)
    n_groups = int(groups.max()) + 1
    sums = cumulative.new_zeros(n_groups, mask.shape[1]).index_add(0, groups, cumulative)
    alive = cumulative.new_zeros(n_groups, mask.shape[1]).index_add(0, groups, mask.to(cumulative.dtype))
    step = cumulative - (sums / alive.clamp(min=1))[groups]
    return (outcome_advantage(rewards, groups)[:, None] + step).masked_fill(~mask, 0.0)


def reinforce_reward(values: Tensor, mask: Tensor) -> Tensor:
    """REINFORCE with Q-RM: the head's output at each token, the sequence's mean at the last; divided by the batch's standard
    deviation, not centred. Shape [b, t], 0 in padding; 0 everywhere when there is no spread.
    """
    kept = values.masked_fill(~mask, 0.0)
    mean = kept.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    rewards = torch.where(last_token(mask), mean[:, None], kept)
    inside = rewards[mask]
    if not len(inside) or not bool(inside.max() > inside.min()):
        return torch.zeros_like(kept)
    return rewards / inside.std(correction=0)
