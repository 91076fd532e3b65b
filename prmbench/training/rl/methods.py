"""The methods, and what they make of a batch: one advantage a sampled token, and for DistRL the scale of candidates' advantages.

grpo       outcome advantage (Eq. 13's first term); with a reward model, its GAE added (GRPO w/ VR, GRPO w/ any reward model)
distrl     the same, and Dist-PPO over candidate tokens (Eq. 14); the reward model is implicit
prime      PRIME: leave-one-out process and outcome returns; an implicit reward model that is updated online
spro       SPRO: outcome advantage plus masked step advantage of the policy's own log-ratio to where it started
reinforce  REINFORCE with Q-RM: the value head's outputs as token rewards
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from prmbench.training.rl.advantages import gae, normalise_by_group, scaled_td, value_spread, whiten
from prmbench.training.rl.outcome import outcome_advantage
from prmbench.training.rl.rivals import last_token, prime_advantage, reinforce_reward, spro_advantage
from prmbench.training.rl.surrogate import Aggregation, Clip

MethodName = Literal["grpo", "distrl", "prime", "spro", "reinforce"]
PresetName = Literal["paper", "released"]


@dataclass(frozen=True)
class Method:
    """What a method needs.

    Attributes:
        rewards: kinds of reward model it takes; empty: none. optional: whether it also works without one.
        keep: prompts are kept whose accuracy is at least and at most this; None: any mix of outcomes.
        ratio: whether the loss has importance ratios and a clip.
    """

    rewards: tuple[str, ...]
    optional: bool = False
    keep: tuple[float, float] | None = None
    ratio: bool = True


METHODS: dict[MethodName, Method] = {
    "grpo": Method(("implicit", "q_rm", "endo"), optional=True),
    "distrl": Method(("implicit",)),
    "prime": Method(("implicit",), keep=(0.2, 0.8)),
    "spro": Method(()),
    "reinforce": Method(("q_rm",), ratio=False),
}


@dataclass(frozen=True)
class Preset:
    """Where the paper and its released code differ (DESIGN 4.8, 4.9).

    Attributes:
        samples: rollouts of a prompt. gae_weight: of GAE beside the outcome advantage. aggregation: of token losses.
        td_by_prompt: TD advantages standardised over a prompt's tokens (Eqs. 27, 28); else centred by the batch's mean, scaled by
            the spread of V, 0 at the last token, and GAE whitened.
        all_likely: candidates are all tokens with pi_old >= P_min, weighted by pi_old; else the 5 likeliest above it and the
            sampled token, weights summing to 1 over a minibatch.
        clip, candidate_clip: of ratios. unit_mean: DLW weights have mean 1 over a prompt.
        reject_truncated: a prompt with a truncated rollout is not kept. fill: a short batch is filled with rejected prompts.
    """

    samples: int
    gae_weight: float
    aggregation: Aggregation
    td_by_prompt: bool
    all_likely: bool
    clip: Clip
    candidate_clip: Clip
    unit_mean: bool
    reject_truncated: bool
    fill: bool


PRESETS: dict[PresetName, Preset] = {
    "paper": Preset(
        samples=4,
        gae_weight=1.0,
        aggregation="sequence",
        td_by_prompt=True,
        all_likely=True,
        clip=Clip(0.20, 0.28),
        candidate_clip=Clip(0.20, 0.28),
        unit_mean=False,
        reject_truncated=False,
        fill=False,
    ),
    "released": Preset(
        samples=16,
        gae_weight=0.05,
        aggregation="token",
        td_by_prompt=False,
        all_likely=False,
        clip=Clip(0.20, 0.28, dual=3.0),
        candidate_clip=Clip(0.20, 0.20, dual=3.0),
        unit_mean=True,
        reject_truncated=True,
        fill=True,
    ),
}


class Algorithm(BaseModel):
    """Numbers of the method; a preset says the rest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: MethodName = Field("grpo", description="grpo, distrl, prime, spro or reinforce")
    preset: PresetName = Field("paper", description="paper, or released: as the paper's code has it")
    alpha: float = Field(0.1, ge=0, description="weight of Dist-PPO (Eq. 14)")
    p_min: float = Field(0.1, gt=0, le=1, description="candidates have at least this probability under pi_old")
    gae_weight: float | None = Field(
        None, ge=0, description="of GAE beside the outcome advantage; null: the preset's, 1 (paper) or 0.05 (released)"
    )
    gamma: float = Field(1.0, ge=0, le=1, description="discount of GAE")
    lam: float = Field(1.0, ge=0, le=1, description="lambda of GAE")
    spro_beta: float = Field(0.05, gt=0, description="scale of SPRO's log-ratio; here PRIME's beta")

    @property
    def details(self) -> Preset:
        """What the preset says."""
        return PRESETS[self.preset]

    @property
    def needs(self) -> Method:
        """What the method needs."""
        return METHODS[self.method]


@dataclass(frozen=True)
class Advantages:
    """Of every sampled token of a batch, without gradient.

    Attributes:
        total: what the policy is updated with, shape [b, t], 0 in padding.
        outcome: shape [b], and gae: shape [b, t]: its two parts, where the method has them.
        sigma: sigma_V, a scalar, where there is a reward model's prefix value.
    """

    total: Tensor
    outcome: Tensor | None = None
    gae: Tensor | None = None
    sigma: Tensor | None = None


@torch.no_grad()
def compute_advantages(
    algorithm: Algorithm, rewards: Tensor, groups: Tensor, mask: Tensor, values: Tensor | None, beta: float
) -> Advantages:
    """Advantages of a whole batch: every rollout of every prompt, from all processes.

    Args:
        rewards: float, shape [b]: 1 for a verified answer, else 0. groups: int64, shape [b]. mask: bool, shape [b, t].
        values: the reward model's token values before beta, shape [b, t] (``spro``: log pi_old - log pi_ref); None: there is none.
        beta: their scale; ``spro`` has its own.

    Raises:
        ValueError: values are missing, or there and not used.
    """
    needs = algorithm.needs
    if values is None and ((needs.rewards and not needs.optional) or algorithm.method == "spro"):
        raise ValueError(f"{algorithm.method} needs token values")
    if algorithm.method == "reinforce":
        assert values is not None
        return Advantages(reinforce_reward(values, mask))
    if algorithm.method == "prime":
        assert values is not None
        return Advantages(prime_advantage(values, mask, rewards, groups, beta))
    outcome = outcome_advantage(rewards, groups)
    if algorithm.method == "spro":
        assert values is not None
        return Advantages(spro_advantage(values, mask, rewards, groups, algorithm.spro_beta), outcome)
    spread = outcome[:, None] * mask
    if values is None:
        return Advantages(spread, outcome)
    details = algorithm.details
    sigma = value_spread(values, mask, beta)
    td = scaled_td(values, sigma, beta)
    if details.td_by_prompt:
        summed = gae(normalise_by_group(td, mask, groups), mask, algorithm.gamma, algorithm.lam)
    else:
        centred = td - td.masked_fill(~mask, 0.0).sum() / mask.sum()
        summed = whiten(gae(centred.masked_fill(last_token(mask), 0.0), mask, algorithm.gamma, algorithm.lam), mask)
    weight = details.gae_weight if algorithm.gae_weight is None else algorithm.gae_weight
    summed = weight * summed
    return Advantages(spread + summed, outcome, summed, sigma)
