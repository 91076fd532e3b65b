"""From token rewards to advantages: TD differences of prefix values, their scale, and their sums (Section 3.2, Appendix C).

All take, of every sampled response:

    values   float, shape [b, t]: r_t = log pi_phi - log pi_ref before beta (Q-RM, EndoRM: their token value); whatever is in
             padding is ignored
    mask     bool, shape [b, t]: True on response tokens, which come first in a row
    groups   int64, shape [b]: which prompt a row belongs to

Standard deviations are of the population, and divided by as they are: the paper's epsilon would only keep beta from cancelling
exactly. Values without any spread give 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prmbench.training.rl.outcome import group_mean


def prefix_values(values: Tensor, mask: Tensor, beta: float) -> Tensor:
    """V(s_{t+1}) = beta * (r_1 + ... + r_t) (Eq. 5). Shape [b, t], 0 in padding."""
    return (beta * values.masked_fill(~mask, 0.0).cumsum(dim=1)).masked_fill(~mask, 0.0)


def value_spread(values: Tensor, mask: Tensor, beta: float) -> Tensor:
    """sigma_V: standard deviation of V(s_2), ..., V(s_{T+1}) over all rows (Eq. 23). A scalar, 0 where all are equal."""
    v = prefix_values(values, mask, beta)[mask].detach()
    return v.std(correction=0) if len(v) and bool(v.max() > v.min()) else v.new_zeros(())


def scaled_td(values: Tensor, sigma: Tensor, beta: float) -> Tensor:
    """A_TD = beta * r / sigma_V (Eq. 25), of sampled tokens or candidates, any shape; 0 when sigma_V is."""
    return beta * values / sigma if float(sigma) > 0 else torch.zeros_like(values)


def normalise_by_group(td: Tensor, mask: Tensor, groups: Tensor) -> Tensor:
    """TD advantages standardised over all tokens of a prompt's rollouts (Eqs. 26 to 28). Shape [b, t], 0 in padding."""
    kept = td.masked_fill(~mask, 0.0)
    tokens = group_mean(mask.sum(dim=1).to(td.dtype), groups)
    mean = group_mean(kept.sum(dim=1), groups) / tokens
    centred = (td - mean[:, None]).masked_fill(~mask, 0.0)
    std = (group_mean(centred.square().sum(dim=1), groups) / tokens).sqrt()[:, None]
    n_groups = int(groups.max()) + 1
    highest = td.masked_fill(~mask, -torch.inf).amax(dim=1)
    lowest = td.masked_fill(~mask, torch.inf).amin(dim=1)
    high = highest.new_full((n_groups,), -torch.inf).scatter_reduce(0, groups, highest, "amax")[groups]
    low = lowest.new_full((n_groups,), torch.inf).scatter_reduce(0, groups, lowest, "amin")[groups]
    spread = (high > low)[:, None] & (std > 0)
    return torch.where(spread, centred / std.where(spread, 1.0), 0.0)


def gae(td: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 1.0) -> Tensor:
    """sum_{i >= t} (gamma * lambda)^(i - t) * td_i (Eqs. 8 and 29). Shape [b, t], 0 in padding."""
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


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages standardised over all response tokens. Shape [b, t], 0 in padding."""
    return normalise_by_group(advantages, mask, torch.zeros(len(mask), dtype=torch.long, device=mask.device))
