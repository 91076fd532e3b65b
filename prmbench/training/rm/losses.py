"""The losses that reward models are trained with: small pure functions of token values, each with its equation.

What an objective means (its beta, margin, final value and link) is said in `prmbench.reward_models.objectives`; here is what it
minimises. The loss of an objective of ours is the function of the same name in this module; a package that brings an objective
names its own. All losses have one signature (`Loss`), so that one trainer serves them all.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Literal, Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prmbench.errors import UserError, first_line
from prmbench.reward_models.objectives import OBJECTIVES, Objective

Weighting = Literal["uniform", "late", "early"]


class Loss(Protocol):
    """A loss over a batch of responses.

    A loss of sequences returns one number a response. A loss of pairs returns one number a pair: rows 2i and 2i + 1 are the
    correct and the incorrect response of one prompt. The training loss is the mean of these numbers. A row without tokens has
    loss 0, and a pair of two such rows has the loss of two equal responses. Extreme values give large finite losses. A loss has
    the dtype of its values, which should be float32 or better.
    """

    def __call__(
        self,
        values: Tensor,
        mask: Tensor,
        correct: Tensor,
        beta: float,
        margin: float,
        shift: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            values: Token values before beta: log-ratios log pi_phi - log pi_ref, or the outputs Z_t of Q-RM's head. Float, shape
                [b, t]. What stands in padding is ignored, NaN included.
            mask: True on response tokens, which come first in a row. Bool, shape [b, t].
            correct: Verified outcomes. Bool, shape [b].
            beta: Scale of the token values.
            margin: Margin m.
            shift: What is added to the value of each response (Eq. 15's V(x)). Float, shape [b]. None adds nothing. Losses of
                pairs do not take it, because it would cancel.

        Returns:
            Losses. Shape [b], or [b / 2] for a loss of pairs.

        Raises:
            ValueError: A margin or a shift is given to a loss that has none, or rows are not in pairs.
        """


def find_loss(objective: Objective) -> Loss:
    """Return the loss of an objective.

    Args:
        objective: The objective.

    Raises:
        UserError: The objective is not trained, or the package that brings its loss cannot be imported.
    """
    where = objective.loss or f"{__name__}:{objective.name}"
    try:
        return cast(Loss, EntryPoint(objective.name, where, OBJECTIVES.group).load())
    except AttributeError:
        raise UserError(f"objective '{objective.name}': has no loss, so it cannot be trained") from None
    except ImportError as error:
        raise UserError(
            f"objective '{objective.name}': its loss cannot be imported from {where} ({first_line(error)})"
        ) from None


def softplus(x: Tensor) -> Tensor:
    """Compute log(1 + exp(x)) exactly for all x; torch's own is linear above 20.

    Args:
        x: Any shape.
    """
    return -logsigmoid(-x)


def prefix_means(values: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Compute v_bar(t) = V(s_{t+1}) / t = beta * (r_1 + ... + r_t) / t (Eq. 5, normalised as in Eq. 9).

    Args:
        values: See `Loss`.
        mask: See `Loss`.
        beta: See `Loss`.

    Returns:
        Shape [b, t]. Entries in padding mean nothing and must be masked.
    """
    kept = values.masked_fill(~mask, 0.0)
    t = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=values.dtype)
    return beta * kept.cumsum(dim=1) / t


def ipvrm_prefix_losses(v_bar: Tensor, correct: Tensor, margin: float) -> Tensor:
    """Compute Eq. 16: -log s(v_bar - m) of a correct response's prefix, -log(1 - s(v_bar + m)) of an incorrect one's.

    Args:
        v_bar: Values of prefixes. Shape [b, t].
        correct: See `Loss`.
        margin: See `Loss`.

    Returns:
        Shape [b, t].
    """
    return torch.where(correct[:, None], softplus(margin - v_bar), softplus(v_bar + margin))


def prefix_weights(mask: Tensor, weighting: Weighting, dtype: torch.dtype) -> Tensor:
    """Compute the weights of a sequence's prefixes, which sum to 1 (to 0 for a row without tokens).

    Args:
        mask: See `Loss`.
        weighting: ``uniform`` (Eq. 9); ``late``, t/T (Eq. 17); ``early``, 1 - t/T (Eq. 18), which is uniform for T = 1, where the
            equation is 0/0.
        dtype: Type of the weights.

    Returns:
        Shape [b, t].
    """
    inside = mask.to(dtype)
    length = inside.sum(dim=1, keepdim=True)
    raw = inside
    if weighting != "uniform":
        t = torch.arange(1, mask.shape[1] + 1, device=mask.device, dtype=dtype)
        share = t / length.clamp(min=1)
        raw = inside * (share if weighting == "late" else (1 - share))
        raw = torch.where(length > 1, raw, inside)
    return raw / raw.sum(dim=1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)


def _weighted(weighting: Weighting) -> Loss:
    def loss(
        values: Tensor, mask: Tensor, correct: Tensor, beta: float, margin: float, shift: Tensor | None = None
    ) -> Tensor:
        v_bar = prefix_means(values, mask, beta)
        if shift is not None:
            v_bar = v_bar + shift[:, None]
        losses = ipvrm_prefix_losses(v_bar, correct, margin)
        return (losses * prefix_weights(mask, weighting, values.dtype)).sum(dim=1)

    return loss


ipvrm = _weighted("uniform")
"""Eq. 9: cross-entropy of every prefix's v_bar(t) against the outcome, with a margin, mean over a sequence's tokens."""

ipvrm_late = _weighted("late")
"""Eq. 17: `ipvrm` with weight t/T."""

ipvrm_early = _weighted("early")
"""Eq. 18: `ipvrm` with weight 1 - t/T; a response of one token has weight 1."""


def implicit_prm(
    values: Tensor, mask: Tensor, correct: Tensor, beta: float, margin: float, shift: Tensor | None = None
) -> Tensor:
    """Compute Eq. 4: cross-entropy of the whole response's beta * sum of r against the outcome. The equation has no margin.

    Args:
        values: See `Loss`.
        mask: See `Loss`.
        correct: See `Loss`.
        beta: See `Loss`.
        margin: See `Loss`.
        shift: See `Loss`.
    """
    _check_margin("implicit_prm", margin)
    total = beta * values.masked_fill(~mask, 0.0).sum(dim=1)
    if shift is not None:
        total = total + shift
    losses = torch.where(correct, softplus(-total), softplus(total))
    return losses.masked_fill(~mask.any(dim=1), 0.0)


def dpo(
    values: Tensor, mask: Tensor, correct: Tensor, beta: float, margin: float, shift: Tensor | None = None
) -> Tensor:
    """Compute Eq. 2: -log s(r(x, y_w) - r(x, y_l)), r the response's beta * sum of log-ratios. The equation has no margin.

    Args:
        values: See `Loss`.
        mask: See `Loss`.
        correct: See `Loss`.
        beta: See `Loss`.
        margin: See `Loss`.
        shift: See `Loss`.
    """
    _check_margin("dpo", margin)
    _check_pairs(correct, shift)
    total = beta * values.masked_fill(~mask, 0.0).sum(dim=1)
    return softplus(total[1::2] - total[0::2])


def q_rm(
    values: Tensor, mask: Tensor, correct: Tensor, beta: float, margin: float, shift: Tensor | None = None
) -> Tensor:
    """Compute Q-RM's loss: -log s(beta * (mean Z_w - mean Z_l) - m), means over a response's tokens.

    Args:
        values: See `Loss`.
        mask: See `Loss`.
        correct: See `Loss`.
        beta: See `Loss`.
        margin: See `Loss`.
        shift: See `Loss`.
    """
    _check_pairs(correct, shift)
    mean = values.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return softplus(margin - beta * (mean[0::2] - mean[1::2]))


def _check_pairs(correct: Tensor, shift: Tensor | None) -> None:
    if len(correct) % 2 or not bool(correct[0::2].all()) or bool(correct[1::2].any()):
        raise ValueError("rows 2i and 2i + 1 must be a correct and an incorrect response")
    if shift is not None:
        raise ValueError("a loss of pairs takes no shift, because it would cancel")


def _check_margin(name: str, margin: float) -> None:
    if margin:
        raise ValueError(f"{name} has no margin")
