"""The methods of policy optimisation. A method is one object: what it needs, what it refuses, what it makes of a batch.

Our own stand at the end of this file. A package adds one by an entry point in the group ``prmbench.rl_methods``:

    [project.entry-points."prmbench.rl_methods"]
    mine = "my_package:MINE"            # MINE = Method("mine", my_advantages)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from prmbench.errors import UserError
from prmbench.plugins import Registry
from prmbench.training.rl.advantages import (
    gae,
    last_token,
    normalise_by_group,
    outcome_advantage,
    prime_advantage,
    reinforce_reward,
    scaled_td,
    spro_advantage,
    value_spread,
    whiten,
)

VariantName = Literal["paper", "released"]
Aggregation = Literal["sequence", "token"]


@dataclass(frozen=True)
class Clip:
    """Bounds of an importance ratio.

    Attributes:
        low: A ratio is clipped below 1 minus this.
        high: A ratio is clipped above 1 plus this.
        dual: Largest ratio that counts where the advantage is negative (dual clip); None sets no bound.
    """

    low: float = 0.20
    high: float = 0.28
    dual: float | None = None


@dataclass(frozen=True)
class Variant:
    """Where the paper and its released code differ (docs/protocols.md, "Where the released code differs").

    Attributes:
        recipe: Values of recipe keys that the recipe does not give.
        reward: The same of the keys of ``reward_model``.
        aggregation: ``sequence`` for the mean over rows of each row's mean, ``token`` for the mean over all tokens.
        td_by_prompt: True standardises TD advantages over a prompt's tokens (Eqs. 27, 28). False sets the last token's to 0
            before the spread of V is measured, centres them by the batch's mean, and whitens their GAE.
        all_likely: True makes candidates of all tokens with pi_old >= P_min, weighted by pi_old. False takes five tokens, the
            sampled one and the likeliest above P_min, with weights that sum to 1 over a minibatch; the last token of a rollout
            has none, even where the rollout was cut.
        clip: Bounds of sampled tokens' ratios.
        candidate_clip: Bounds of candidates' ratios.
        released_loss: Whether online updates use the released code's loss (`prmbench.training.rl.balance.OnlineObjective`).
        reject_truncated: Whether a prompt with a truncated rollout is rejected.
        fill: Whether rejected prompts fill a batch that is too short.
    """

    recipe: Mapping[str, Any] = field(default_factory=dict)
    reward: Mapping[str, Any] = field(default_factory=dict)
    aggregation: Aggregation = "sequence"
    td_by_prompt: bool = True
    all_likely: bool = True
    clip: Clip = Clip()
    candidate_clip: Clip = Clip()
    released_loss: bool = False
    reject_truncated: bool = False
    fill: bool = False


VARIANTS: dict[VariantName, Variant] = {
    "paper": Variant(),
    "released": Variant(
        recipe={
            "samples": 16,
            "batch_size": 512,
            "minibatches": 4,
            "learning_rate": 2e-5,
            "weight_decay": 0.01,
            "lora": None,
            "gae_weight": 0.05,
        },
        reward={"learning_rate": 2e-6, "minibatch": 128, "max_grad_norm": 10.0, "lora": None},
        aggregation="token",
        td_by_prompt=False,
        all_likely=False,
        clip=Clip(0.20, 0.28, dual=3.0),
        candidate_clip=Clip(0.20, 0.20, dual=3.0),
        released_loss=True,
        reject_truncated=True,
        fill=True,
    ),
}


class Algorithm(BaseModel):
    """The method and its numbers. The preset says the rest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = Field(
        "grpo", description="method by name: grpo, distrl, prime, spro, reinforce, or one that a package adds"
    )
    preset: VariantName = Field("paper", description="paper, or released for what the paper's code does instead")
    alpha: float = Field(0.1, ge=0, description="weight of Dist-PPO (Eq. 14)")
    p_min: float = Field(0.1, gt=0, le=1, description="smallest probability of a candidate under pi_old")
    gae_weight: float = Field(1.0, ge=0, description="weight of GAE beside the outcome advantage; released: 0.05")
    gamma: float = Field(1.0, ge=0, le=1, description="discount of GAE")
    lam: float = Field(1.0, ge=0, le=1, description="lambda of GAE")
    spro_beta: float = Field(0.05, gt=0, description="scale of SPRO's log-ratio; the default is PRIME's beta")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, fields: Any) -> Any:
        """Take what the recipe does not give from the preset."""
        if not isinstance(fields, dict):
            return fields
        variant = VARIANTS.get(fields.get("preset", "paper"), Variant())
        return {**{name: value for name, value in variant.recipe.items() if name in cls.model_fields}, **fields}

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            METHODS.find(name)
        except UserError as error:
            raise ValueError(str(error)) from None
        return name

    @property
    def rules(self) -> Method:
        """The method itself."""
        return METHODS.find(self.method)

    @property
    def details(self) -> Variant:
        """What the preset says."""
        return VARIANTS[self.preset]


@dataclass(frozen=True)
class ScoredBatch:
    """What a method makes advantages of: every rollout of every kept prompt, from all processes.

    Attributes:
        rewards: 1 for a verified answer, else 0. Float, shape [b].
        groups: Number of each row's prompt. int64, shape [b].
        mask: Response tokens. Bool, shape [b, t].
        values: Token values of the reward model before beta, or, for a method with `Method.from_start`, log pi_old - log
            pi_start. Shape [b, t]; None where there is neither.
        beta: Scale of the reward model's token values.
    """

    rewards: Tensor
    groups: Tensor
    mask: Tensor
    values: Tensor | None
    beta: float


@dataclass(frozen=True)
class Advantages:
    """What the policy is updated with, without gradient.

    Attributes:
        total: Advantage of every sampled token. Shape [b, t], 0 in padding.
        outcome: Its part from verified outcomes, where the method has one. Shape [b].
        gae: Its part from token values, where the method has one. Shape [b, t].
        sigma: sigma_V, a scalar, which candidates' TD advantages are divided by; needed where `Method.candidates` is set.
    """

    total: Tensor
    outcome: Tensor | None = None
    gae: Tensor | None = None
    sigma: Tensor | None = None


@dataclass(frozen=True)
class Method:
    """A way to optimise a policy.

    Attributes:
        name: What recipes call it.
        advantages: Function that makes the advantages of a scored batch.
        rewards: Kinds of reward model that it takes; empty for none.
        optional: Whether it also works without a reward model.
        keep: Smallest and largest share of right rollouts of a prompt that is kept. A prompt with one outcome only never is.
        candidates: Whether the policy is also updated on candidate tokens (Eq. 14). Only an implicit reward model scores
            them.
        from_start: Whether its token values are the policy's own log-ratio to where it started.
        ratio: Whether the loss has importance ratios and a clip. Otherwise it is -A * log pi.
    """

    name: str
    advantages: Callable[[ScoredBatch, Algorithm], Advantages]
    rewards: tuple[str, ...] = ()
    optional: bool = False
    keep: tuple[float, float] = (0.0, 1.0)
    candidates: bool = False
    from_start: bool = False
    ratio: bool = True

    @property
    def needs_values(self) -> bool:
        """Whether it cannot do without token values."""
        return self.from_start or bool(self.rewards and not self.optional)

    def check_reward(self, model: str | None, kind: str | None) -> None:
        """Refuse a reward model that the method cannot use.

        Args:
            model: The reward model as the recipe names it; None where there is none.
            kind: Its kind.

        Raises:
            UserError: It is missing, not wanted, or of a kind that the method does not take.
        """
        kinds = ", ".join(self.rewards)
        if model is None:
            if self.rewards and not self.optional:
                raise UserError(f"method {self.name}: needs a reward_model ({kinds})")
        elif not self.rewards:
            raise UserError(f"method {self.name}: takes no reward_model; leave it out")
        elif kind not in self.rewards:
            raise UserError(f"method {self.name}: takes a reward model of kind {kinds}; {model} is {kind}")


@torch.no_grad()
def compute_advantages(algorithm: Algorithm, batch: ScoredBatch) -> Advantages:
    """Make the advantages of a whole batch.

    Args:
        algorithm: The method and its numbers.
        batch: Every rollout with its outcome and token values.

    Returns:
        The advantages.

    Raises:
        ValueError: The method needs token values, and there are none.
    """
    if batch.values is None and algorithm.rules.needs_values:
        raise ValueError(f"{algorithm.method} needs token values")
    return algorithm.rules.advantages(batch, algorithm)


def outcome_and_gae(batch: ScoredBatch, algorithm: Algorithm) -> Advantages:
    """Give the outcome advantage; with a reward model, GAE of its TD advantages is added (Eq. 13).

    Args:
        batch: The scored batch.
        algorithm: The numbers.

    Returns:
        The advantages, with their parts and sigma_V.
    """
    outcome = outcome_advantage(batch.rewards, batch.groups)
    spread = outcome[:, None] * batch.mask
    if batch.values is None:
        return Advantages(spread, outcome)
    details, mask = algorithm.details, batch.mask
    values = batch.values if details.td_by_prompt else batch.values.masked_fill(last_token(mask) | ~mask, 0.0)
    sigma = value_spread(values, mask, batch.beta)
    td = scaled_td(values, sigma, batch.beta)
    if details.td_by_prompt:
        summed = gae(normalise_by_group(td, mask, batch.groups), mask, algorithm.gamma, algorithm.lam)
    else:
        summed = whiten(gae(td - td.sum() / mask.sum(), mask, algorithm.gamma, algorithm.lam), mask)
    summed = algorithm.gae_weight * summed
    return Advantages(spread + summed, outcome, summed, sigma)


def _prime(batch: ScoredBatch, algorithm: Algorithm) -> Advantages:
    assert batch.values is not None
    return Advantages(prime_advantage(batch.values, batch.mask, batch.rewards, batch.groups, batch.beta))


def _spro(batch: ScoredBatch, algorithm: Algorithm) -> Advantages:
    assert batch.values is not None
    total = spro_advantage(batch.values, batch.mask, batch.rewards, batch.groups, algorithm.spro_beta)
    return Advantages(total, outcome_advantage(batch.rewards, batch.groups))


def _reinforce(batch: ScoredBatch, algorithm: Algorithm) -> Advantages:
    assert batch.values is not None
    return Advantages(reinforce_reward(batch.values, batch.mask))


METHODS: Registry[Method] = Registry(
    "method",
    "prmbench.rl_methods",
    {
        one.name: one
        for one in (
            Method("grpo", outcome_and_gae, rewards=("implicit", "q_rm", "endo"), optional=True),
            Method("distrl", outcome_and_gae, rewards=("implicit",), candidates=True),
            Method("prime", _prime, rewards=("implicit",), keep=(0.2, 0.8)),
            Method("spro", _spro, from_start=True),
            Method("reinforce", _reinforce, rewards=("q_rm",), ratio=False),
        )
    },
)
"""All methods. A package adds one by an entry point ``prmbench.rl_methods`` that gives a `Method`."""
