"""Updating a reward model on the rollouts of a step: adaptive difficulty boundary and dynamic loss weights (Eq. 15)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prmbench.errors import UserError
from prmbench.reward_models.card import Card
from prmbench.reward_models.objectives import OBJECTIVES, Objective
from prmbench.training.rl.advantages import group_mean, group_size
from prmbench.training.rm.losses import find_loss

Update = Literal["frozen", "naive", "dlw", "adb", "dlw+adb"]


def clamped_accuracy(correct: Tensor, groups: Tensor, dtype: torch.dtype) -> Tensor:
    """Give mu(x), kept half a rollout away from 0 and 1, where its logit is infinite.

    Args:
        correct: Verified outcomes. Bool, shape [b].
        groups: Group numbers. int64, shape [b].
        dtype: Type of the result.

    Returns:
        Shape [b], between 1/2n and 1 - 1/2n for a prompt of n rollouts.
    """
    n = group_size(groups, dtype)
    return torch.minimum(torch.maximum(group_mean(correct.to(dtype), groups), 0.5 / n), 1 - 0.5 / n)


def loss_weights(accuracy: Tensor, correct: Tensor) -> Tensor:
    """Give the weights of DLW: 1 - mu(x) for a correct response, mu(x) for an incorrect one.

    Args:
        accuracy: mu(x). Float, shape [b].
        correct: Verified outcomes. Bool, shape [b].

    Returns:
        Shape [b].
    """
    return torch.where(correct, 1 - accuracy, accuracy)


def outcome_pairs(correct: Tensor, groups: Tensor) -> Tensor:
    """List every (correct, incorrect) pair of rows of one prompt.

    Args:
        correct: Verified outcomes. Bool, shape [b].
        groups: Group numbers. int64, shape [b].

    Returns:
        int64, shape [p, 2].
    """
    same = groups[:, None] == groups[None, :]
    return (same & correct[:, None] & ~correct[None, :]).nonzero()


def zipped_pairs(correct: Tensor, groups: Tensor) -> Tensor:
    """Pair each prompt's first correct row with its first incorrect one, the second with the second, while there are both.

    Args:
        correct: Verified outcomes. Bool, shape [b].
        groups: Group numbers. int64, shape [b].

    Returns:
        int64, shape [p, 2].
    """
    pairs: list[tuple[int, int]] = []
    for group in groups.unique():
        right, wrong = ((groups == group) & (correct == outcome) for outcome in (True, False))
        pairs += zip(right.nonzero()[:, 0].tolist(), wrong.nonzero()[:, 0].tolist(), strict=False)
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)


def minibatch_rows(groups: Tensor, size: int | None) -> list[list[int]]:
    """Split the rows of a step into those of each update of the reward model.

    Args:
        groups: Number of each row's prompt, prompt after prompt. int64, shape [b].
        size: Rows of one update; they are whole prompts, at least one. None makes one update of all rows.

    Returns:
        Rows of each update, in order.
    """
    largest = int(torch.bincount(groups).max())
    part = groups // max(1, (len(groups) if size is None else size) // largest)
    return [(part == k).nonzero()[:, 0].tolist() for k in range(int(part.max()) + 1)]


@dataclass(frozen=True)
class OnlineObjective:
    """How an implicit reward model is updated on a step's rollouts.

    Attributes:
        meaning: The objective that it was trained with.
        beta: Scale of its token values.
        margin: Margin of the objective.
        update: Which of the two changes of Eq. 15 are made, or ``frozen`` for no update.
        released: Whether the loss is that of the released code: weights of DLW have mean 1 over a prompt, a prompt whose
            rollouts are all right or all wrong weighs 0, and DPO-RM is updated on `zipped_pairs`, all weighing the same.
        minibatch: Rollouts of one update; None updates once on all.
    """

    meaning: Objective
    beta: float
    margin: float
    update: Update = "frozen"
    released: bool = False
    minibatch: int | None = None

    @classmethod
    def of_card(
        cls, card: Card, update: Update, *, released: bool = False, minibatch: int | None = None
    ) -> OnlineObjective:
        """Read the objective from a reward model's card.

        Args:
            card: The card.
            update: See the attribute.
            released: See the attribute.
            minibatch: See the attribute.

        Returns:
            The objective.

        Raises:
            UserError: The card names no objective, or one that cannot be updated so.
        """
        if card.objective is None:
            raise UserError(
                "the reward model's card names no objective, so its final value is not known: set reward_model.objective"
            )
        meaning = OBJECTIVES.find(card.objective)
        if meaning.kind != "implicit":
            raise UserError(f"objective {card.objective} makes no implicit reward model; expected one that does")
        check_update(update, pairwise=not meaning.is_logit)
        margin = meaning.margin if card.margin is None else card.margin
        return cls(meaning, card.scale(), margin or 0.0, update, released, minibatch)

    def loss(self, values: Tensor, mask: Tensor, correct: Tensor, groups: Tensor) -> Tensor:
        """Give the loss of one update.

        For IPVRM it is Eq. 15, for Implicit PRM Eq. 4 with the same two changes. For DPO-RM it is Eq. 2 over every (correct,
        incorrect) pair: the mean over a prompt's pairs, then over the prompts that have pairs.

        Args:
            values: Token values before beta, with gradient. Float, shape [b, t].
            mask: Response tokens. Bool, shape [b, t].
            correct: Verified outcomes. Bool, shape [b].
            groups: Group numbers. int64, shape [b].

        Returns:
            A scalar: the mean over responses (DPO-RM: over prompts; 0 where none has pairs).
        """
        loss = find_loss(self.meaning)
        if not self.meaning.is_logit:
            pairs = (zipped_pairs if self.released else outcome_pairs)(correct, groups)
            if not len(pairs):
                return (values.masked_fill(~mask, 0.0) * 0).sum()
            rows = pairs.flatten()
            losses = loss(values[rows], mask[rows], correct[rows], self.beta, self.margin)
            if self.released:
                return losses.mean()
            _, prompts = groups[pairs[:, 0]].unique(return_inverse=True)
            return (losses / group_size(prompts, losses.dtype)).sum() / (prompts.max() + 1)
        accuracy = clamped_accuracy(correct, groups, values.dtype)
        shift = torch.logit(accuracy) if "adb" in self.update else None
        losses = loss(values, mask, correct, self.beta, self.margin, shift=shift)
        weights = loss_weights(accuracy, correct) if "dlw" in self.update else torch.ones_like(accuracy)
        if self.released:
            share = group_mean(correct.to(values.dtype), groups)
            weights = weights / group_mean(weights, groups) * ((share > 0) & (share < 1))
        return (losses * weights).mean()


def check_update(update: Update, *, pairwise: bool = False, kind: str | None = "implicit") -> None:
    """Refuse an update that a reward model does not allow.

    A pair holds both outcomes once, so that there is no imbalance to correct, and a shift of both values cancels.

    Args:
        update: The update.
        pairwise: Whether its loss is over (correct, incorrect) pairs.
        kind: Kind of the reward model.

    Raises:
        UserError: The kind is not updated online, or the update does not fit the loss.
    """
    if kind != "implicit" and update != "frozen":
        raise UserError(f"reward_model.update {update}: only implicit reward models are updated online; set frozen")
    if pairwise and update not in ("frozen", "naive"):
        raise UserError(
            f"reward_model.update {update}: a loss over (correct, incorrect) pairs is balanced as it is; set naive or frozen"
        )
