"""What the study of step labels trains: explicit PRMs and implicit reward models, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from prmbench.studies.settings import RATE

Labels = Literal["exact", "rollouts", "outcomes"]
Budget = Literal["data", "tokens"]
CONTINUATIONS = (1, 4, 16)
"""Continuations from the end of each step."""


@dataclass(frozen=True)
class StepLabelSettings:
    """How a reward model of the study is trained.

    Attributes:
        objective: ``step_ce`` for an explicit PRM, else the objective of an implicit reward model.
        labels: ``exact``: the checker's, up to the first wrong step. ``rollouts``: by continuations from the end of each step.
            ``outcomes``: the verdict of each whole solution.
        k: Continuations from the end of each step; None where labels are others.
        budget: ``data``: the solutions of the first `prmbench.studies.step_label_data.N_EQUAL` problems of the pool. ``tokens``: as
            many problems as can be sampled and labelled with the sampled tokens of the whole pool.
        learning_rate: Peak learning rate.
    """

    objective: str
    labels: Labels
    k: int | None = None
    budget: Budget = "data"
    learning_rate: float = RATE

    @property
    def explicit(self) -> bool:
        """Whether it is trained on labels of steps."""
        return self.labels != "outcomes"

    @property
    def model(self) -> str:
        """The reward model whatever its budget: the objective, and where labels are by rollouts their number."""
        if not self.explicit:
            return self.objective
        return "exact" if self.k is None else f"k={self.k}"

    @property
    def name(self) -> str:
        """The reward model and its budget."""
        return f"{self.model}, equal {self.budget}"


_EXACT = StepLabelSettings("step_ce", "exact")
_SAMPLED = (
    *(replace(_EXACT, labels="rollouts", k=k) for k in CONTINUATIONS),
    *(StepLabelSettings(objective, "outcomes") for objective in ("implicit_prm", "ipvrm")),
)

STEP_LABEL_MODELS: dict[str, StepLabelSettings] = {
    settings.name: settings for settings in (_EXACT, *_SAMPLED, *(replace(one, budget="tokens") for one in _SAMPLED))
}
"""Reward models of the tables. Exact labels cost no tokens, so they stand at equal data alone."""

MODEL_LABELS = {
    "exact": "explicit, exact labels",
    **{f"k={k}": f"explicit, K = {k}" for k in CONTINUATIONS},
    "implicit_prm": "Implicit PRM",
    "ipvrm": "IPVRM",
}
"""What the page calls the reward models, in its order."""
