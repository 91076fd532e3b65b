"""The policy loss of some rows of a minibatch (Eqs. 11, 12, 14), from log-probs and what was fixed when the batch was sampled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prmbench.training.rl.methods import Algorithm
from prmbench.training.rl.surrogate import candidate_surrogate, is_clipped, surrogate


@dataclass(frozen=True)
class Tokens:
    """Tokens with their targets, float32, shape [n] each: sampled ones, or candidates.

    Attributes:
        old: log pi_old. advantages: of the policy's objective. weights: that make a sum over a minibatch's tokens its loss.
    """

    old: Tensor
    advantages: Tensor
    weights: Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """loss: of these rows, a scalar with gradient. sampled, candidates: its two parts, alpha left out; clipped: weighted shares
    of tokens whose gradient the clip holds back; kl: weighted mean of (rho - 1) - log rho, an estimate of KL(pi_old, pi_theta).
    All but `loss` are detached scalars."""

    loss: Tensor
    sampled: Tensor
    candidates: Tensor
    clipped: Tensor
    clipped_candidates: Tensor
    kl: Tensor


def policy_loss(
    algorithm: Algorithm, logprobs: Tensor, sampled: Tokens, picked: Tensor | None, candidates: Tokens | None
) -> PolicyLoss:
    """Tok-PPO + alpha * Dist-PPO (Eq. 14); for ``reinforce`` -sum of weight * A * log pi.

    Args:
        logprobs: of sampled tokens, with gradient, shape [n]. picked: of candidates, shape [m]; None: the method has none.
    """
    none = logprobs.new_zeros(())
    ratio = (logprobs - sampled.old).detach()
    kl = (sampled.weights * (ratio.expm1() - ratio)).sum()
    if not algorithm.needs.ratio:
        loss = -(sampled.weights * sampled.advantages * logprobs).sum()
        return PolicyLoss(loss, loss.detach(), none, none, none, kl)
    details = algorithm.details
    loss = (sampled.weights * surrogate(logprobs, sampled.old, sampled.advantages, details.clip)).sum()
    parts = [loss.detach(), none]
    clipped = (sampled.weights * is_clipped(logprobs, sampled.old, sampled.advantages, details.clip)).sum()
    clipped_candidates = none
    if picked is not None and candidates is not None:
        clip = details.candidate_clip
        terms = candidate_surrogate(picked, candidates.old, candidates.advantages, clip)
        dist = (candidates.weights * terms).sum()
        loss = loss + algorithm.alpha * dist
        parts[1] = dist.detach()
        held = is_clipped(picked, candidates.old, candidates.advantages, clip)
        clipped_candidates = (candidates.weights * candidates.old.exp() * held).sum()
    return PolicyLoss(loss, parts[0], parts[1], clipped.detach(), clipped_candidates.detach(), kl)


def candidate_weights(algorithm: Algorithm, of_token: Tensor, where: Tensor, total_mass: Tensor) -> Tensor:
    """Weights of candidates: of the token in whose place they are (Eq. 11); preset ``released``: equal, over the minibatch's sum of
    pi_old, so that pi_old times weight sums to 1.

    Args:
        of_token: weights of sampled tokens, shape [n]. where: int64, shape [m].
        total_mass: sum of pi_old over the minibatch's candidates.
    """
    if algorithm.details.all_likely:
        return of_token[where]
    return torch.ones_like(where, dtype=of_token.dtype) / total_mass.clamp(min=torch.finfo(of_token.dtype).tiny)
