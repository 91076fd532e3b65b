"""All kinds of reward models by name. A kind is a file of its own and one line here, or an entry point of a package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from prmbench.plugins import Registry
from prmbench.reward_models.base import RewardModel

Kind = TypeVar("Kind", bound=type[RewardModel])

KINDS: Registry[type[RewardModel]] = Registry(
    "kind",
    "prmbench.reward_models",
    {
        "implicit": "prmbench.reward_models.implicit:ImplicitRewardModel",
        "endo": "prmbench.reward_models.endo:EndoRewardModel",
        "q_rm": "prmbench.reward_models.q_rm:QRewardModel",
        "classifier": "prmbench.reward_models.classifier:ClassifierRewardModel",
        "token_pair": "prmbench.reward_models.token_pair:TokenPairRewardModel",
        "value_head": "prmbench.reward_models.value_head:ValueHeadRewardModel",
        "critic": "prmbench.reward_models.critic:CriticRewardModel",
        "judge": "prmbench.reward_models.judge:JudgeRewardModel",
    },
)
"""A package adds a kind by an entry point ``prmbench.reward_models`` whose name is the kind and whose value is its class."""


def register(name: str) -> Callable[[Kind], Kind]:
    """Make a kind known, as a class decorator in a file that `load_reward_model` is given as ``plugin``.

    Args:
        name: What cards and `load_reward_model` call the kind.

    Returns:
        The decorator, which gives the class back.

    Examples:
        >>> from prmbench.reward_models.endo import EndoRewardModel
        >>> @prmbench.register("mine")
        ... class Mine(EndoRewardModel):
        ...     kind = "mine"
        >>> prmbench.load_reward_model("SFT", kind="mine").kind
        'mine'
    """

    def add(cls: Kind) -> Kind:
        KINDS.add(name, cls)
        return cls

    return add


def find_kind(name: str) -> type[RewardModel]:
    """Find the class of a kind.

    Args:
        name: What cards and `load_reward_model` call the kind.

    Returns:
        The class, whose `kind` is the name.

    Raises:
        UserError: There is no such kind; the nearest name is given.
    """
    found = KINDS.find(name)
    found.kind = name
    return found
