"""Which tokens besides the sampled one the policy is updated on: those it finds likely itself (Section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RELEASED_TOP = 5


def likely_tokens(logprobs: Tensor, p_min: float) -> tuple[Tensor, Tensor]:
    """C = {y' : pi_old(y' given s_t) >= P_min}, over the whole vocabulary. At most 1 / P_min tokens a state; none, perhaps.

    Args:
        logprobs: of pi_old, float, shape [n, vocabulary].

    Returns:
        (states, tokens): int64, shape [m] each, by state.
    """
    found = (logprobs >= math.log(p_min)).nonzero()
    return found[:, 0], found[:, 1]


def released_candidates(logprobs: Tensor, sampled: Tensor, p_min: float) -> tuple[Tensor, Tensor]:
    """As the released code has it: among the 5 likeliest, those with pi_old > P_min, and the sampled token always.

    Args:
        logprobs: shape [n, vocabulary]. sampled: int64, shape [n].

    Returns:
        (states, tokens), by state, no token twice.
    """
    best = logprobs.topk(min(RELEASED_TOP, logprobs.shape[1]), dim=1)
    chosen = torch.zeros_like(logprobs, dtype=torch.bool)
    chosen.scatter_(1, best.indices, best.values > math.log(p_min))
    chosen.scatter_(1, sampled[:, None], True)
    found = chosen.nonzero()
    return found[:, 0], found[:, 1]
