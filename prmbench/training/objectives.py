"""What reward models are trained with: small pure functions of token values, each with its equation.

All take the same things, so that one trainer serves them all:

    values   float, shape [b, t]: log-ratios r_t = log pi_phi - log pi_ref of response tokens, before beta (Q-RM: the head's
             output Z_t); whatever is in padding is ignored, NaN included
    mask     bool, shape [b, t]: True on response tokens, which come first in a row
    correct  bool, shape [b]: verified outcomes
    beta, margin
    shift    where the value is a logit: float, shape [b], added to it (Eq. 15's V(x)); None: nothing

and return one loss a unit: a sequence for `ipvrm` and `implicit_prm`, shape [b]; a pair for `dpo` and `q_rm`, shape [b / 2],
whose rows 2i and 2i + 1 are the correct and the incorrect response of one prompt. A row without tokens has loss 0 (a pair
of two such rows: that of two equal responses). The training loss is the mean over units. Everything is a softplus of
its argument, so extreme values give large finite losses, never an overflow. Losses have the dtype of `values`; pass
float32 or better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prmbench.errors import UserError, nearest
from prmbench.reward_models.objectives import OBJECTIVES as MEANINGS

Weighting = Literal["uniform", "late", "early"]
Loss = Callable[..., Tensor]


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact for all x; torch's own is linear above 20."""
    return -logsigmoid(-x)


def prefix_means(values: Tensor, mask: Tensor, beta: float) -> Tensor:
    """v_bar(t) = V(s_{t+1}) / t = beta * (r_1 + ... + r_t) / t (Eq. 5, normalised as in Eq. 9).

    Returns:
        Shape [b, t]; entries in padding repeat no meaning and must be masked.
    """
    kept = values.masked_fill(~mask, 0.0)
    t = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=values.dtype)
    return beta * kept.cumsum(dim=1) / t


def ipvrm_prefix_losses(v_bar: Tensor, correct: Tensor, margin: float) -> Tensor:
    """Eq. 16: -log s(v_bar - m) of a correct response's prefix, -log(1 - s(v_bar + m)) of an incorrect one's. Shape [b, t]."""
    return torch.where(correct[:, None], softplus(margin - v_bar), softplus(v_bar + margin))


def prefix_weights(mask: Tensor, weighting: Weighting, dtype: torch.dtype) -> Tensor:
    """Weights of a sequence's prefixes, summing to 1 (0 for a row without tokens): uniform (Eq. 9), t/T (Eq. 17), 1 - t/T
    (Eq. 18; uniform for T = 1, where the equation is 0/0).

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


def _ipvrm(
    values: Tensor,
    mask: Tensor,
    correct: Tensor,
    beta: float,
    margin: float,
    shift: Tensor | None,
    weighting: Weighting,
) -> Tensor:
    v_bar = prefix_means(values, mask, beta)
    if shift is not None:
        v_bar = v_bar + shift[:, None]
    return (ipvrm_prefix_losses(v_bar, correct, margin) * prefix_weights(mask, weighting, values.dtype)).sum(dim=1)


def ipvrm(
    values: Tensor, mask: Tensor, correct: Tensor, beta: float, margin: float, shift: Tensor | None = None
) -> Tensor:
    """Eq. 9: cross-entropy of every prefix's v_bar(t) against the outcome, with a margin, mean over a sequence's tokens."""
    return _ipvrm(values, mask, correct, beta, margin, shift, "uniform")


def ipvrm_late(
    values: Tensor, mask: Tensor, correct: Tensor, beta: float, margin: float, shift: Tensor | None = None
) -> Tensor:
    """Eq. 17: `ipvrm` with weight t/T."""
    return _ipvrm(values, mask, correct, beta, margin, shift, "late")


def ipvrm_early(
    values: Tensor, mask: Tensor, correct: Tensor, beta: float, margin: float, shift: Tensor | None = None
) -> Tensor:
    """Eq. 18: `ipvrm` with weight 1 - t/T; a response of one token has weight 1."""
    return _ipvrm(values, mask, correct, beta, margin, shift, "early")


def implicit_prm(
    values: Tensor, mask: Tensor, correct: Tensor, beta: float, margin: float, shift: Tensor | None = None
) -> Tensor:
    """Eq. 4: cross-entropy of the whole response's beta * sum of r against the outcome. The equation has no margin.

    Raises:
        ValueError: a margin other than 0.
    """
    _no_margin("implicit_prm", margin)
    total = beta * values.masked_fill(~mask, 0.0).sum(dim=1)
    if shift is not None:
        total = total + shift
    losses = torch.where(correct, softplus(-total), softplus(total))
    return losses.masked_fill(~mask.any(dim=1), 0.0)


def dpo(values: Tensor, mask: Tensor, correct: Tensor, beta: float, margin: float) -> Tensor:
    """Eq. 2: -log s(r(x, y_w) - r(x, y_l)), r the response's beta * sum of log-ratios. The equation has no margin.

    Raises:
        ValueError: rows that are no (correct, incorrect) pairs, or a margin other than 0.
    """
    _no_margin("dpo", margin)
    _check_pairs(correct)
    total = beta * values.masked_fill(~mask, 0.0).sum(dim=1)
    return softplus(total[1::2] - total[0::2])


def q_rm(values: Tensor, mask: Tensor, correct: Tensor, beta: float, margin: float) -> Tensor:
    """Q-RM: -log s(beta * (mean Z_w - mean Z_l) - m), means over a response's tokens (DESIGN 4.7).

    Raises:
        ValueError: rows that are no (correct, incorrect) pairs.
    """
    _check_pairs(correct)
    mean = values.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return softplus(margin - beta * (mean[0::2] - mean[1::2]))


def _check_pairs(correct: Tensor) -> None:
    if len(correct) % 2 or not bool(correct[0::2].all()) or bool(correct[1::2].any()):
        raise ValueError("rows 2i and 2i + 1 must be a correct and an incorrect response")


def _no_margin(name: str, margin: float) -> None:
    if margin:
        raise ValueError(f"{name} has no margin")


FinalValue = Literal["mean", "sum"]


@dataclass(frozen=True)
class ObjectiveSpec:
    """An objective as the trainer needs it.

    Attributes:
        loss: the function. beta, margin: the paper's (Appendix C). kind: of the reward model it makes.
        final: a whole response's score, its own convention (DESIGN 4.4): beta times the sum or the mean of its token values.
        logit: whether that score is, up to the margin's link, the logit of a probability of correctness.
        has_margin: whether the equation has one.
    """

    loss: Loss
    beta: float
    margin: float
    kind: str
    final: FinalValue
    logit: bool
    has_margin: bool


LOSSES: dict[str, Loss] = {
    "ipvrm": ipvrm,
    "ipvrm_late": ipvrm_late,
    "ipvrm_early": ipvrm_early,
    "implicit_prm": implicit_prm,
    "dpo": dpo,
    "q_rm": q_rm,
}


def _spec(name: str) -> ObjectiveSpec:
    one = MEANINGS.find(name)
    return ObjectiveSpec(
        LOSSES[name],
        one.beta,
        one.margin or 0.0,
        one.kind,
        "mean" if one.final == "token_mean" else "sum",
        one.is_logit,
        one.margin is not None,
    )


OBJECTIVES = {name: _spec(name) for name in LOSSES}


def find_objective(name: str) -> ObjectiveSpec:
    """The objective of a name. Raises UserError, with the nearest name, when there is none."""
    if name not in OBJECTIVES:
        raise UserError(f"objective '{name}' is not known{nearest(name, OBJECTIVES)}; known: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
