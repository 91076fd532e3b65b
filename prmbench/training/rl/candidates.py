"""Which tokens besides the sampled one the policy is updated on: those it finds likely itself (Section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prmbench.training.model.logprobs import Find
from prmbench.training.rl.methods import Algorithm

RELEASED_TOP = 5


def likely_tokens(logprobs: Tensor, p_min: float) -> tuple[Tensor, Tensor]:
    """Choose C = {y' : pi_old(y' given s_t) >= P_min} over the whole vocabulary.

    Args:
        logprobs: Log-probs under pi_old. Float, shape [n, vocabulary].
        p_min: Smallest probability of a candidate, above 0.

    Returns:
        (states, tokens): int64, shape [m] each, sorted by state. A state has 1 / p_min candidates at most, perhaps none.
    """
    found = (logprobs >= math.log(p_min)).nonzero()
    return found[:, 0], found[:, 1]


def released_candidates(logprobs: Tensor, sampled: Tensor, p_min: float) -> tuple[Tensor, Tensor]:
    """Choose as the released code does: the sampled token, and the likeliest tokens with pi_old > P_min, five in all.

    Args:
        logprobs: Log-probs under pi_old. Float, shape [n, vocabulary].
        sampled: Sampled tokens. int64, shape [n].
        p_min: Probability that a candidate must exceed, unless it was sampled.

    Returns:
        (states, tokens): int64, shape [m] each, sorted by state, no token twice.
    """
    others = logprobs.scatter(1, sampled[:, None], -torch.inf)
    best = others.topk(min(RELEASED_TOP, logprobs.shape[1]) - 1, dim=1)
    chosen = torch.zeros_like(logprobs, dtype=torch.bool)
    chosen.scatter_(1, best.indices, best.values > math.log(p_min))
    chosen.scatter_(1, sampled[:, None], True)
    found = chosen.nonzero()
    return found[:, 0], found[:, 1]


def candidate_finder(algorithm: Algorithm) -> Find:
    """Return the function that chooses candidates at every state.

    Args:
        algorithm: The method, which may have no candidates, and its numbers.

    Returns:
        A function of log-probs [n, vocabulary] and sampled tokens [n] that gives (states, tokens).
    """

    def find(logprobs: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
        if not algorithm.rules.candidates:
            return (sampled.new_zeros(0),) * 2
        if algorithm.details.all_likely:
            return likely_tokens(logprobs, algorithm.p_min)
        return released_candidates(logprobs, sampled, algorithm.p_min)

    return find
