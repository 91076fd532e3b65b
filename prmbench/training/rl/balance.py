"""Updating a reward model on the rollouts of a step: adaptive difficulty boundary and dynamic loss weights (Eq. 15)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prmbench.errors import UserError
from prmbench.reward_models.objectives import Objective
from prmbench.training.rl.outcome import group_mean, group_size
from prmbench.training.rm.losses import find_loss

Update = Literal["frozen", "naive", "dlw", "adb", "dlw+adb"]


def clamped_accuracy(correct: Tensor, groups: Tensor, dtype: torch.dtype) -> Tensor:
    """mu(x), kept half a rollout away from 0 and 1, where its logit is infinite: in [1/2n, 1 - 1/2n]. Shape [b]."""
    n = group_size(groups, dtype)
    return torch.minimum(torch.maximum(group_mean(correct.to(dtype), groups), 0.5 / n), 1 - 0.5 / n)


def boundary(accuracy: Tensor) -> Tensor:
    """ADB: V(x) = logit(mu(x)), added to a value inside both terms of the loss. Shape [b]."""
    return torch.logit(accuracy)


def loss_weights(accuracy: Tensor, correct: Tensor) -> Tensor:
    """DLW: 1 - mu(x) for a correct response, mu(x) for an incorrect one. Shape [b]."""
    return torch.where(correct, 1 - accuracy, accuracy)


def outcome_pairs(correct: Tensor, groups: Tensor) -> Tensor:
    """Every (correct, incorrect) pair of rows of one prompt. int64, shape [p, 2]."""
    same = groups[:, None] == groups[None, :]
    return (same & correct[:, None] & ~correct[None, :]).nonzero()


def online_loss(
    spec: Objective,
    values: Tensor,
    mask: Tensor,
    correct: Tensor,
    groups: Tensor,
    *,
    beta: float,
    margin: float,
    update: Update,
    unit_mean: bool = False,
) -> Tensor:
    """The loss of an online update: Eq. 15 for IPVRM, the same two changes to Eq. 4 for Implicit PRM, and DPO-RM's own (Eq. 2)
    over every (correct, incorrect) pair, mean over a prompt's pairs, then over prompts.

    Args:
        values: float, shape [b, t], with gradient. mask, correct, groups: as in `prmbench.training.rm.losses` and `td`.
        unit_mean: scale the weights of each prompt to mean 1 (the released code).

    Returns:
        A scalar: the mean over responses (DPO-RM: prompts that have pairs; 0 where none has).

    Raises:
        UserError: see `check_update`.
    """
    check_update(spec, update)
    if not spec.is_logit:
        pairs = outcome_pairs(correct, groups)
        if not len(pairs):
            return (values.masked_fill(~mask, 0.0) * 0).sum()
        rows = pairs.flatten()
        losses = find_loss(spec)(values[rows], mask[rows], correct[rows], beta, margin)
        of_prompt = groups[pairs[:, 0]]
        _, index = of_prompt.unique(return_inverse=True)
        counts = torch.bincount(index).to(losses.dtype)
        return (losses / counts[index]).sum() / len(counts)
    accuracy = clamped_accuracy(correct, groups, values.dtype)
    shift = boundary(accuracy) if "adb" in update else None
    losses = find_loss(spec)(values, mask, correct, beta, margin, shift=shift)
    if "dlw" in update:
        weights = loss_weights(accuracy, correct)
        if unit_mean:
            weights = weights / group_mean(weights, groups)
        losses = losses * weights
    return losses.mean()


def check_update(spec: Objective, update: Update) -> None:
    """Raise UserError where an objective cannot be updated so.

    A pair holds both outcomes once, so there is no imbalance to correct, and a shift of both values cancels.
    """
    if spec.kind != "implicit" and update != "frozen":
        raise UserError(f"reward_model.update {update}: only implicit reward models are updated online; set frozen")
    if not spec.is_logit and update not in ("frozen", "naive"):
        raise UserError(
            f"reward_model.update {update}: a loss over (correct, incorrect) pairs is balanced as it is; set naive or frozen"
        )
