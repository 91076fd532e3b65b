"""Policy losses, a number a token: clipped surrogates for sampled tokens and candidates, and the weights that sum them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["sequence", "token"]


@dataclass(frozen=True)
class Clip:
    """Ratios are clipped to [1 - low, 1 + high]. dual: bound on a ratio where the advantage is negative; None: no bound."""

    low: float = 0.20
    high: float = 0.28
    dual: float | None = None


def surrogate(logprobs: Tensor, old: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """-min(rho * A, CLIP(rho) * A), rho = pi_theta / pi_old: the inside of Eq. 12 (and of Eq. 11 before its weight).

    With `Clip.dual` = c, at least c * A where A < 0.

    Args:
        logprobs: of the policy, with gradient. old: of pi_old. advantages: without gradient. All of one shape.

    Returns:
        Losses of that shape.
    """
    ratio = (logprobs - old).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip.low, 1 + clip.high) * advantages)
    if clip.dual is not None:
        gain = torch.where(advantages < 0, torch.maximum(gain, clip.dual * advantages), gain)
    return -gain


def candidate_surrogate(logprobs: Tensor, old: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """pi_old(y') times `surrogate`: a candidate's term of Dist-PPO (Eq. 11)."""
    return old.exp() * surrogate(logprobs, old, advantages, clip)


def is_clipped(logprobs: Tensor, old: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """Where the clip holds the gradient back. bool."""
    ratio = (logprobs - old).exp()
    bound = torch.inf if clip.dual is None else clip.dual
    return (
        ((ratio > bound) & (advantages < 0))
        | ((ratio > 1 + clip.high) & (advantages > 0))
        | ((ratio < 1 - clip.low) & (advantages < 0))
    )


def token_weights(mask: Tensor, aggregation: Aggregation, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights that make a sum over tokens the loss of a minibatch; they sum to 1.

    ``sequence``: 1/T of a row, mean over rows (Eqs. 11, 12); a row without tokens is a row. ``token``: mean over tokens.

    Returns:
        Shape [b, t], 0 in padding.
    """
    inside = mask.to(dtype)
    if aggregation == "token":
        return inside / inside.sum().clamp(min=1)
    return inside / inside.sum(dim=1, keepdim=True).clamp(min=1) / max(len(mask), 1)
