"""What a verified outcome says of a whole rollout, against the other rollouts of its prompt."""

from __future__ import annotations

import torch
from torch import Tensor


def group_size(groups: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of each row's group. groups: int64, shape [b]: 0 to g - 1, equal for rollouts of one prompt. Shape [b]."""
    return torch.bincount(groups)[groups].to(dtype)


def group_mean(values: Tensor, groups: Tensor) -> Tensor:
    """mu(x): the mean of each row's group.

    Args:
        values: float, shape [b]. groups: as for `group_size`.

    Returns:
        Shape [b].
    """
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    sums = values.new_zeros(n_groups).index_add(0, groups, values)[groups]
    return sums / group_size(groups, values.dtype)


def outcome_advantage(rewards: Tensor, groups: Tensor) -> Tensor:
    """(r_o - mu(x)) / s(x), s the population standard deviation over the prompt's n rollouts (first term of Eq. 13).

    A prompt whose rollouts all have the same reward gives 0.

    Args:
        rewards: float, shape [b]. groups: int64, shape [b].

    Returns:
        Shape [b].
    """
    centred = rewards - group_mean(rewards, groups)
    std = group_mean(centred.square(), groups).sqrt()
    return torch.where(std > 0, centred / std.where(std > 0, 1.0), 0.0)


def leave_one_out(values: Tensor, groups: Tensor) -> Tensor:
    """Each row minus the mean of the other rows of its group (RLOO). A group of one row gives 0. Shape [b]."""
    return loo_factor(groups, values.dtype) * (values - group_mean(values, groups))


def loo_factor(groups: Tensor, dtype: torch.dtype) -> Tensor:
    """n / (n - 1), by which a deviation from the mean of n becomes one from the mean of the others; 0 for n = 1. Shape [b]."""
    n = group_size(groups, dtype)
    return torch.where(n > 1, n / (n - 1).clamp(min=1), 0.0)
