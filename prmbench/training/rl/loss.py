"""The policy loss of some rows of a minibatch (Eqs. 11, 12, 14), from log-probs and what was fixed when the batch was sampled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prmbench.training.rl.methods import Aggregation, Algorithm, Clip


def surrogate(logprobs: Tensor, old: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """Give each token's clipped loss: -min(rho * A, CLIP(rho) * A), rho = pi_theta / pi_old.

    This is the inside of Eq. 12, and of Eq. 11 before its weight. With `Clip.dual` = c the gain is at least c * A where A <
    0.

    Args:
        logprobs: Log-probs under the policy, with gradient. Any shape.
        old: Log-probs under pi_old. The same shape.
        advantages: Advantages, without gradient. The same shape.
        clip: Bounds of the ratio.

    Returns:
        Losses of that shape.
    """
    ratio = (logprobs - old).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip.low, 1 + clip.high) * advantages)
    if clip.dual is not None:
        gain = torch.where(advantages < 0, torch.maximum(gain, clip.dual * advantages), gain)
    return -gain


def is_clipped(logprobs: Tensor, old: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """Mark the tokens whose gradient the clip holds back.

    Args:
        logprobs: Log-probs under the policy. Any shape.
        old: Log-probs under pi_old. The same shape.
        advantages: Advantages. The same shape.
        clip: Bounds of the ratio.

    Returns:
        Bool, of that shape.
    """
    ratio = (logprobs - old).exp()
    bound = torch.inf if clip.dual is None else clip.dual
    return (
        ((ratio > bound) & (advantages < 0))
        | ((ratio > 1 + clip.high) & (advantages > 0))
        | ((ratio < 1 - clip.low) & (advantages < 0))
    )


def token_weights(mask: Tensor, aggregation: Aggregation, dtype: torch.dtype = torch.float32) -> Tensor:
    """Give the weights that make a sum over tokens the loss of a minibatch.

    Args:
        mask: Response tokens of the minibatch's rows. Bool, shape [b, t].
        aggregation: ``sequence`` weighs a token by 1/T of its row and takes the mean over rows (Eqs. 11, 12); a row without
            tokens counts as a row. ``token`` takes the mean over tokens.
        dtype: Type of the result.

    Returns:
        Shape [b, t], 0 in padding, with sum 1.
    """
    inside = mask.to(dtype)
    if aggregation == "token":
        return inside / inside.sum().clamp(min=1)
    return inside / inside.sum(dim=1, keepdim=True).clamp(min=1) / max(len(mask), 1)


def candidate_weights(algorithm: Algorithm, of_token: Tensor, where: Tensor, total_mass: Tensor) -> Tensor:
    """Give the weights of candidates, which their pi_old is multiplied with.

    Args:
        algorithm: The preset ``paper`` gives a candidate the weight of the token in whose place it is (Eq. 11). ``released``
            gives all the same weight, so that pi_old times weight sums to 1 over the minibatch.
        of_token: Weights of sampled tokens. Float, shape [n].
        where: Sampled token in whose place each candidate is. int64, shape [m].
        total_mass: Sum of pi_old over the minibatch's candidates. A scalar.

    Returns:
        Shape [m].
    """
    if algorithm.details.all_likely:
        return of_token[where]
    return torch.ones_like(where, dtype=of_token.dtype) / total_mass.clamp(min=torch.finfo(of_token.dtype).tiny)


@dataclass(frozen=True)
class Tokens:
    """Sampled tokens, or candidates, with what they are updated towards.

    Attributes:
        old: Log-probs under pi_old. float32, shape [n].
        advantages: Advantages of the policy's objective. float32, shape [n].
        weights: Weights that make a sum over a minibatch's tokens its loss. float32, shape [n].
        correction: Factors of the loss for who sampled the tokens (`prmbench.training.rl.sampler`). float32, shape [n]; None: 1.
    """

    old: Tensor
    advantages: Tensor
    weights: Tensor
    correction: Tensor | None = None

    @property
    def corrected(self) -> Tensor:
        """The weights times the correction. Shape [n]."""
        return self.weights if self.correction is None else self.weights * self.correction


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of some rows, and figures to log. Everything but `loss` is a detached scalar.

    Attributes:
        loss: The loss. A scalar with gradient.
        sampled: Its part from sampled tokens.
        candidates: Its part from candidates, before alpha.
        clipped: Weighted share of sampled tokens whose gradient the clip holds back.
        clipped_candidates: The same share of candidates.
        kl: Weighted mean of (rho - 1) - log rho over sampled tokens, an estimate of KL(pi_old, pi_theta).
    """

    loss: Tensor
    sampled: Tensor
    candidates: Tensor
    clipped: Tensor
    clipped_candidates: Tensor
    kl: Tensor


def policy_loss(
    algorithm: Algorithm, logprobs: Tensor, sampled: Tokens, picked: Tensor | None, candidates: Tokens | None
) -> PolicyLoss:
    """Give Tok-PPO + alpha * Dist-PPO (Eq. 14); for a method without ratios, the sum of -weight * A * log pi.

    Args:
        algorithm: The method and its numbers.
        logprobs: Log-probs of the sampled tokens under the policy, with gradient. Shape [n].
        sampled: What is fixed of the sampled tokens.
        picked: Log-probs of the candidates under the policy, with gradient. Shape [m]; None where the method has none.
        candidates: What is fixed of the candidates; None where the method has none.

    Returns:
        The loss and its parts.
    """
    none = logprobs.new_zeros(())
    ratio = (logprobs - sampled.old).detach()
    kl = (sampled.weights * (ratio.expm1() - ratio)).sum()
    if not algorithm.rules.ratio:
        loss = -(sampled.corrected * sampled.advantages * logprobs).sum()
        return PolicyLoss(loss, loss.detach(), none, none, none, kl)

    def part(new: Tensor, fixed: Tokens, mass: Tensor | float, clip: Clip) -> tuple[Tensor, Tensor]:
        loss = (fixed.corrected * mass * surrogate(new, fixed.old, fixed.advantages, clip)).sum()
        return loss, (fixed.weights * mass * is_clipped(new, fixed.old, fixed.advantages, clip)).sum().detach()

    of_sampled, clipped = part(logprobs, sampled, 1.0, algorithm.details.clip)
    if picked is None or candidates is None:
        return PolicyLoss(of_sampled, of_sampled.detach(), none, clipped, none, kl)
    of_candidates, clipped_candidates = part(picked, candidates, candidates.old.exp(), algorithm.details.candidate_clip)
    loss = of_sampled + algorithm.alpha * of_candidates
    return PolicyLoss(loss, of_sampled.detach(), of_candidates.detach(), clipped, clipped_candidates, kl)
