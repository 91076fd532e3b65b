"""The study of labels: what each reward model is trained on, by the name of its run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from prmbench.studies.settings import LABELS

Source = Literal["nothing", "outcomes", "exact labels", "true values", "rollouts"]

KS = (1, 4, 16)
"""Continuations of every state that rollout labels are made of."""
MOST = KS[-1]
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
"""Learning rates that were tried: three first, then one more beyond the edge that was best."""


@dataclass(frozen=True)
class LabelSettings:
    """How a reward model of the study of labels is trained.

    Attributes:
        objective: Name of the training objective; ``endo`` scores with the policy itself and trains nothing.
        source: What is known of the solutions that it is trained on: whether each is right (``outcomes``), which step is its first
            wrong one (``exact labels``), the demonstrator's true value after every step (``true values``), or how many
            continuations from the end of every step are right (``rollouts``).
        k: Continuations of every state, of ``rollouts``.
        budget: Number of continuations of the base solutions whose tokens, with those of the base solutions themselves, may be
            spent; 0 takes the base solutions.
        learning_rate: Peak learning rate.
    """

    objective: str
    source: Source
    k: int = 0
    budget: int = 0
    learning_rate: float = 0.0

    @property
    def is_explicit(self) -> bool:
        """Whether it is trained on something for every step."""
        return self.source in ("exact labels", "true values", "rollouts")


OUTCOME_RATE = 3e-4
"""Learning rate of every implicit model of this study."""
STEP_RATE = 1e-3
"""Learning rate of every explicit model. The study chose it on seed 100 and validation problems, with exact labels."""

LABELLED: dict[str, LabelSettings] = {
    "exact": LabelSettings("step_ce", "exact labels", learning_rate=STEP_RATE),
    "true values": LabelSettings("step_soft", "true values", learning_rate=STEP_RATE),
    **{f"k={k}": LabelSettings("step_soft", "rollouts", k, learning_rate=STEP_RATE) for k in KS},
    f"k={MOST} any": LabelSettings("step_ce", "rollouts", MOST, learning_rate=STEP_RATE),
    **{
        name: LabelSettings(name, "outcomes", learning_rate=OUTCOME_RATE)
        for name in ("ipvrm", "implicit_prm", "dpo", "q_rm")
    },
    "endo": LabelSettings("endo", "nothing"),
    **{f"ipvrm @{k}": LabelSettings("ipvrm", "outcomes", 0, k, OUTCOME_RATE) for k in KS},
    f"implicit_prm @{MOST}": LabelSettings("implicit_prm", "outcomes", 0, MOST, OUTCOME_RATE),
    "k=1 @4": LabelSettings("step_soft", "rollouts", 1, 4, STEP_RATE),
    f"exact @{MOST}": LabelSettings("step_ce", "exact labels", 0, MOST, STEP_RATE),
}
"""Reward models of the study. ``@16`` stands for the tokens of 16 continuations of the base solutions."""

EQUAL_DATA = tuple(name for name, settings in LABELLED.items() if settings.budget == 0)
"""Those that are trained on the base solutions."""

SEARCHED_LABELLED: dict[str, LabelSettings] = {
    f"exact rate={rate:g}": replace(LABELLED["exact"], learning_rate=rate) for rate in RATES
}
"""Reward models among which `STEP_RATE` was chosen."""

_SOURCES = {"exact": "explicit, exact labels", "true values": "explicit, true values"}
_SOURCES |= {f"k={k}": f"explicit, K = {k}" for k in KS} | LABELS
_SOURCES[f"k={MOST} any"] = f"explicit, K = {MOST}, hard labels"

TITLES = {
    name: ", solutions for the tokens of K = ".join(_SOURCES.get(part, part) for part in name.split(" @"))
    for name in LABELLED
}
"""What the page calls them."""
