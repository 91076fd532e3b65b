"""What the studies train: the settings of every reward model and every policy, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class RewardModelSettings:
    """How a reward model of the studies is trained.

    Attributes:
        objective: Name of the training objective; ``endo`` scores with the policy itself and trains nothing.
        learning_rate: Peak learning rate; it means nothing for ``endo``.
        epochs: Passes over the pairs.
        margin: Margin of the objective; None takes the paper's.
    """

    objective: str
    learning_rate: float = 0.0
    epochs: float = 2.0
    margin: float | None = None

    @property
    def name(self) -> str:
        """The objective, with the margin where it is not the paper's."""
        return self.objective if self.margin is None else f"{self.objective} m={self.margin:g}"


@dataclass(frozen=True)
class PolicySettings:
    """How a policy of the studies is trained.

    Attributes:
        method: Method of policy optimisation; ``sft`` trains nothing and measures the policy that all others start from.
        objective: Name of the reward model, in `REWARD_MODELS` or in `SEARCHED_REWARD_MODELS`; None uses none.
        update: How the reward model is updated during training.
        reference: Reference of the reward model: ``old`` for the behaviour policy, ``start`` for the SFT policy.
        alpha: Weight of the loss over candidate sets.
        gae_weight: Weight of the advantages that GAE gives.
        learning_rate: Learning rate of the policy.
        reward_learning_rate: Learning rate of the reward model while it is updated.
        steps: Number of rollout batches.
    """

    method: str
    objective: str | None = None
    update: str = "frozen"
    reference: str = "old"
    alpha: float = 0.1
    gae_weight: float = 1.0
    learning_rate: float = 1e-4
    reward_learning_rate: float = 1e-4
    steps: int = 30

    @property
    def name(self) -> str:
        """The method, with the objective where there is one, whatever its rate."""
        return self.method if self.objective is None else f"{self.method} {self.objective.partition(' rate=')[0]}"

    @property
    def reward(self) -> RewardModelSettings | None:
        """The reward model that training starts from."""
        return None if self.objective is None else (REWARD_MODELS | SEARCHED_REWARD_MODELS)[self.objective]


RATES = {"q_rm": 3e-4, "dpo": 3e-4, "implicit_prm": 1e-3, "ipvrm": 1e-3}
"""Learning rate by objective, as docs/studies/settings.md chose it; the variants of IPVRM take its rate."""

REWARD_MODELS: dict[str, RewardModelSettings] = {
    settings.name: settings
    for settings in (
        RewardModelSettings("endo"),
        *(RewardModelSettings(name, rate) for name, rate in RATES.items()),
        *(RewardModelSettings(name, RATES["ipvrm"]) for name in ("ipvrm_late", "ipvrm_early")),
        *(RewardModelSettings("ipvrm", RATES["ipvrm"], margin=margin) for margin in (0.0, 10.0)),
    )
}
"""Reward models of the tables."""

SEARCHED_RATES = {
    # 3e-4 and 1e-3 first; then on from the better of the two, until the best one lies between two others.
    "ipvrm": (3e-4, 1e-3, 3e-3),
    "implicit_prm": (3e-4, 1e-3, 3e-3, 1e-2),
    "dpo": (1e-4, 3e-4, 1e-3),
    "q_rm": (1e-4, 3e-4, 1e-3),
}
"""Learning rates that were tried, by objective."""

SEARCHED_REWARD_MODELS: dict[str, RewardModelSettings] = {
    f"{objective} rate={rate:g}": RewardModelSettings(objective, rate)
    for objective, rates in SEARCHED_RATES.items()
    for rate in rates
}
"""Reward models among which `RATES` were chosen."""

STEPS = 20
"""Rollout batches of every policy's training."""

BASE = PolicySettings("grpo", steps=STEPS, learning_rate=1e-4, gae_weight=1.0, reward_learning_rate=1e-4)
"""What all policies of the tables share; docs/studies/settings.md says how it was chosen."""

_DISTRL_IPVRM = replace(BASE, method="distrl", objective="ipvrm", update="dlw+adb")

UPDATES = ("frozen", "naive", "dlw", "adb")

POLICIES: dict[str, PolicySettings] = {
    "sft": replace(BASE, method="sft"),
    "grpo": BASE,
    "distrl ipvrm": _DISTRL_IPVRM,
    "grpo ipvrm": replace(_DISTRL_IPVRM, method="grpo"),
    "grpo dpo": replace(BASE, objective="dpo", update="naive"),
    "prime": replace(BASE, method="prime", objective="implicit_prm", update="naive", reference="start"),
    "spro": replace(BASE, method="spro"),
    "reinforce q_rm": replace(BASE, method="reinforce", objective="q_rm"),
    "distrl dpo": replace(BASE, method="distrl", objective="dpo", update="naive"),
    "grpo implicit_prm": replace(BASE, objective="implicit_prm", update="naive"),
    "distrl implicit_prm": replace(BASE, method="distrl", objective="implicit_prm", update="naive"),
    "distrl ipvrm start": replace(_DISTRL_IPVRM, reference="start"),
    **{f"distrl ipvrm {update}": replace(_DISTRL_IPVRM, update=update) for update in UPDATES},
}
"""Policies of the tables. ``distrl ipvrm`` has both online corrections, and the behaviour policy as its reference."""

SEARCHED_POLICIES: dict[str, PolicySettings] = {
    "sft search": PolicySettings("sft", steps=STEPS),
    **{f"grpo rate={rate:g}": PolicySettings("grpo", learning_rate=rate, steps=STEPS) for rate in (1e-4, 2e-4, 4e-4)},
    **{
        f"grpo ipvrm gae={weight:g}": PolicySettings(
            "grpo", "ipvrm rate=0.0003", "dlw+adb", gae_weight=weight, steps=STEPS
        )
        for weight in (1.0, 0.3, 0.1)
    },
}
"""Policies among which `BASE` was chosen: first the learning rate, then the weight of what the reward model says."""

BEST = "distrl ipvrm"
"""The paper's own method, by its name in `POLICIES`."""

LABELS = {
    "endo": "EndoRM",
    "q_rm": "Q-RM",
    "dpo": "DPO-RM",
    "implicit_prm": "Implicit PRM",
    "ipvrm": "IPVRM",
    "ipvrm_late": "IPVRM late",
    "ipvrm_early": "IPVRM early",
    "ipvrm m=0": "IPVRM, m = 0",
    "ipvrm m=10": "IPVRM, m = 10",
    "sft": "SFT",
    "prime": "PRIME",
    "spro": "SPRO",
    "reinforce q_rm": "REINFORCE w/ Q-RM",
    "grpo": "GRPO w/ VR",
    "grpo dpo": "GRPO w/ DPO-RM",
    "grpo implicit_prm": "GRPO w/ Implicit PRM",
    "grpo ipvrm": "GRPO w/ IPVRM",
    "distrl dpo": "DistRL w/ DPO-RM",
    "distrl implicit_prm": "DistRL w/ Implicit PRM",
    "distrl ipvrm": "DistRL w/ IPVRM",
    "distrl ipvrm start": "DistRL w/ IPVRM, reference SFT",
    "distrl ipvrm frozen": "DistRL w/ IPVRM, frozen",
    "distrl ipvrm naive": "DistRL w/ IPVRM, naive",
    "distrl ipvrm dlw": "DistRL w/ IPVRM, DLW",
    "distrl ipvrm adb": "DistRL w/ IPVRM, ADB",
}
"""What pages call the entries of `REWARD_MODELS` and `POLICIES`, in the order of the pages."""
