"""From verified outcomes and token values to one advantage a sampled token: pure functions, a few lines each.

The functions take what is known of every rollout of a step, in these forms:

    rewards  float, shape [b]: 1 for a rollout whose answer was verified, else 0
    groups   int64, shape [b]: number of the row's prompt, 0 to g - 1
    values   float, shape [b, t]: token values before beta. An implicit model's are r_t = log pi_phi - log pi_ref. What
    stands in
             padding is ignored, NaN included
    mask     bool, shape [b, t]: True on response tokens, which come first in a row
    beta     the scale of the token values

Standard deviations are those of the population, and are divided by as they are. The small constant that the paper adds to
them would only keep beta from cancelling exactly. Where all values are equal, the result is 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PRIME_COEFFICIENT = 5.0
"""Weight of PRIME's process rewards, and of its outcome reward."""


def group_size(groups: Tensor, dtype: torch.dtype) -> Tensor:
    """Count the rows of each row's group.

    Args:
        groups: Group numbers. int64, shape [b].
        dtype: Type of the result.

    Returns:
        Shape [b].
    """
    return torch.bincount(groups)[groups].to(dtype)


def group_mean(values: Tensor, groups: Tensor) -> Tensor:
    """Take the mean of each row's group. Of rewards it is mu(x), the accuracy of the prompt.

    Args:
        values: One number a row. Float, shape [b].
        groups: Group numbers. int64, shape [b].

    Returns:
        Shape [b].
    """
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    sums = values.new_zeros(n_groups).index_add(0, groups, values)[groups]
    return sums / group_size(groups, values.dtype)


def outcome_advantage(rewards: Tensor, groups: Tensor) -> Tensor:
    """Compare each rollout with the others of its prompt: (r_o - mu(x)) / s(x), the first term of Eq. 13.

    s is the standard deviation over the prompt's rollouts. A prompt whose rollouts all have the same reward gives 0.

    Args:
        rewards: Verified outcomes. Float, shape [b].
        groups: Group numbers. int64, shape [b].

    Returns:
        Shape [b].
    """
    centred = rewards - group_mean(rewards, groups)
    std = group_mean(centred.square(), groups).sqrt()
    return torch.where(std > 0, centred / std.where(std > 0, 1.0), 0.0)


def leave_one_out(values: Tensor, groups: Tensor) -> Tensor:
    """Subtract from each row the mean of the other rows of its group (RLOO).

    Args:
        values: One number a row. Float, shape [b].
        groups: Group numbers. int64, shape [b].

    Returns:
        Shape [b]; 0 for a group of one row.
    """
    return _loo_factor(groups, values.dtype) * (values - group_mean(values, groups))


def _loo_factor(groups: Tensor, dtype: torch.dtype) -> Tensor:
    """Give n / (n - 1), which turns a deviation from the mean of n into one from the mean of the others; 0 for n = 1. Shape [b]."""
    n = group_size(groups, dtype)
    return torch.where(n > 1, n / (n - 1).clamp(min=1), 0.0)


def prefix_values(values: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Sum token values to the value of each prefix: V(s_{t+1}) = beta * (r_1 + ... + r_t) (Eq. 5).

    Args:
        values: Token values before beta. Float, shape [b, t].
        mask: Response tokens. Bool, shape [b, t].
        beta: Scale of token values.

    Returns:
        Shape [b, t], 0 in padding.
    """
    return (beta * values.masked_fill(~mask, 0.0).cumsum(dim=1)).masked_fill(~mask, 0.0)


def value_spread(values: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Measure sigma_V, the standard deviation of V(s_2), ..., V(s_{T+1}) over all rows (Eq. 23).

    Args:
        values: Token values before beta. Float, shape [b, t].
        mask: Response tokens. Bool, shape [b, t].
        beta: Scale of token values.

    Returns:
        A scalar without gradient; 0 where all prefix values are equal.
    """
    v = prefix_values(values, mask, beta)[mask].detach()
    return v.std(correction=0) if len(v) and bool(v.max() > v.min()) else v.new_zeros(())


def scaled_td(values: Tensor, sigma: Tensor, beta: float) -> Tensor:
    """Scale token values to TD advantages: A_TD = beta * r / sigma_V (Eq. 25).

    Args:
        values: Values of sampled tokens or of candidates, before beta. Float, any shape.
        sigma: sigma_V, a scalar.
        beta: Scale of token values.

    Returns:
        The shape of `values`; 0 where sigma_V is 0.
    """
    return beta * values / sigma if float(sigma) > 0 else torch.zeros_like(values)


def normalise_by_group(td: Tensor, mask: Tensor, groups: Tensor) -> Tensor:
    """Standardise TD advantages over all tokens of a prompt's rollouts (Eqs. 26 to 28).

    Args:
        td: TD advantages. Float, shape [b, t].
        mask: Response tokens. Bool, shape [b, t].
        groups: Group numbers. int64, shape [b].

    Returns:
        Shape [b, t], 0 in padding.
    """
    kept = td.masked_fill(~mask, 0.0)
    tokens = group_mean(mask.sum(dim=1).to(td.dtype), groups)
    mean = group_mean(kept.sum(dim=1), groups) / tokens
    centred = (td - mean[:, None]).masked_fill(~mask, 0.0)
    std = (group_mean(centred.square().sum(dim=1), groups) / tokens).sqrt()[:, None]
    # Equal values may have a standard deviation of rounding errors: compare the extremes instead.
    n_groups = int(groups.max()) + 1
    highest = td.masked_fill(~mask, -torch.inf).amax(dim=1)
    lowest = td.masked_fill(~mask, torch.inf).amin(dim=1)
    high = highest.new_full((n_groups,), -torch.inf).scatter_reduce(0, groups, highest, "amax")[groups]
    low = lowest.new_full((n_groups,), torch.inf).scatter_reduce(0, groups, lowest, "amin")[groups]
    spread = (high > low)[:, None] & (std > 0)
    return torch.where(spread, centred / std.where(spread, 1.0), 0.0)


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Standardise advantages over all response tokens of the batch.

    Args:
        advantages: Float, shape [b, t].
        mask: Response tokens. Bool, shape [b, t].

    Returns:
        Shape [b, t], 0 in padding.
    """
    return normalise_by_group(advantages, mask, torch.zeros(len(mask), dtype=torch.long, device=mask.device))


def gae(td: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 1.0) -> Tensor:
    """Sum TD advantages to the end of the response: sum_{i >= t} (gamma * lambda)^(i - t) * td_i (Eqs. 8 and 29).

    Args:
        td: TD advantages. Float, shape [b, t].
        mask: Response tokens. Bool, shape [b, t].
        gamma: Discount, between 0 and 1.
        lam: Lambda of GAE, between 0 and 1.

    Returns:
        Shape [b, t], 0 in padding.
    """
    kept = td.masked_fill(~mask, 0.0)
    decay = gamma * lam
    if decay == 1:
        return kept.flip(1).cumsum(1).flip(1).masked_fill(~mask, 0.0)
    found = torch.zeros_like(kept)
    after = kept.new_zeros(len(kept))
    for t in reversed(range(kept.shape[1])):
        after = kept[:, t] + decay * after
        found[:, t] = after
    return found.masked_fill(~mask, 0.0)


def gae_size(tokens: int) -> float:
    """Estimate the mean |GAE| of standardised TD advantages that do not depend on each other, gamma = lambda = 1.

    A sum of k such numbers has a mean size of sqrt(2 k / pi), and k is anything up to the length.

    Args:
        tokens: Length of the responses.

    Returns:
        The mean over positions: 16 at 900 tokens.
    """
    return 2 / 3 * math.sqrt(2 * tokens / math.pi)


def last_token(mask: Tensor) -> Tensor:
    """Mark each row's last response token.

    Args:
        mask: Response tokens. Bool, shape [b, t].

    Returns:
        Bool, shape [b, t].
    """
    t = torch.arange(mask.shape[1], device=mask.device)
    return mask & (t[None, :] == mask.sum(dim=1, keepdim=True) - 1)


def prime_advantage(values: Tensor, mask: Tensor, rewards: Tensor, groups: Tensor, beta: float) -> Tensor:
    """Give PRIME's advantages: process and outcome rewards, each with a leave-one-out baseline, as returns, whitened.

    The process reward of a token is beta * r_t, and 0 at the last token. It is divided by the largest absolute sum to the
    end in the batch. Its baseline is made of sequence means: with n rollouts of the prompt, the reward becomes n / (n - 1) *
    reward - (sum of the n means) / (n - 1). The outcome reward sits at the last token. A prompt with one rollout gives 0.

    Args:
        values: Token values before beta. Float, shape [b, t].
        mask: Response tokens. Bool, shape [b, t].
        rewards: Verified outcomes. Float, shape [b].
        groups: Group numbers. int64, shape [b].
        beta: Scale of token values.

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
    process = _loo_factor(groups, values.dtype)[:, None] * (process - group_mean(means, groups)[:, None])
    outcome = at_end.to(values.dtype) * leave_one_out(rewards, groups)[:, None]
    return whiten(gae(PRIME_COEFFICIENT * process + PRIME_COEFFICIENT * outcome, mask), mask)


def spro_advantage(values: Tensor, mask: Tensor, rewards: Tensor, groups: Tensor, beta: float) -> Tensor:
    """Give SPRO's advantages: the outcome advantage plus the masked step advantage.

    With R_{i,t} = beta * sum_{j <= t} log(pi_theta / pi_ref) of the policy itself, the masked step advantage is R_{i,t}
    minus its mean over those rollouts of the prompt that are still going at t.

    Args:
        values: log pi_old - log pi_ref of sampled tokens. Float, shape [b, t].
        mask: Response tokens. Bool, shape [b, t].
        rewards: Verified outcomes. Float, shape [b].
        groups: Group numbers. int64, shape [b].
        beta: Scale of the log-ratio.

    Returns:
        Shape [b, t], 0 in padding.
    """
    cumulative = prefix_values(values, mask, beta)
    n_groups = int(groups.max()) + 1
    sums = cumulative.new_zeros(n_groups, mask.shape[1]).index_add(0, groups, cumulative)
    alive = cumulative.new_zeros(n_groups, mask.shape[1]).index_add(0, groups, mask.to(cumulative.dtype))
    step = cumulative - (sums / alive.clamp(min=1))[groups]
    return (outcome_advantage(rewards, groups)[:, None] + step).masked_fill(~mask, 0.0)


def reinforce_reward(values: Tensor, mask: Tensor) -> Tensor:
    """Give the token rewards of REINFORCE with Q-RM: the head's output at each token, the sequence's mean at the last one.

    They are divided by the standard deviation of the head's outputs over the batch, and not centred (the authors' code, which
    takes the standard deviation before it replaces the last token's).

    Args:
        values: Outputs of the value head. Float, shape [b, t].
        mask: Response tokens. Bool, shape [b, t].

    Returns:
        Shape [b, t], 0 in padding; 0 everywhere where all outputs are equal.
    """
    kept = values.masked_fill(~mask, 0.0)
    mean = kept.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    rewards = torch.where(last_token(mask), mean[:, None], kept)
    inside = kept[mask]
    if not len(inside) or not bool(inside.max() > inside.min()):
        return torch.zeros_like(kept)
    return rewards / inside.std(correction=0)
