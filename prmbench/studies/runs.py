"""What is run: every measurement by its kind and its name. Each is made once a seed and kept by its content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from prmbench.miniature.world import Split
from prmbench.results.schema import digest
from prmbench.studies.lab import PRM_RECIPE, RL_RECIPE, RM_RECIPE, SIZES, Lab, kept, recipe_keys
from prmbench.studies.label_settings import LABELLED, SEARCHED_LABELLED, LabelSettings
from prmbench.studies.measure_decisions import measure_credit
from prmbench.studies.measure_labels import LABEL_SIZES, measure_labels
from prmbench.studies.measure_policies import measure_policy
from prmbench.studies.measure_probes import measure_candidate_sets, measure_td
from prmbench.studies.measure_reward_models import measure_best_of_n, measure_reward_model
from prmbench.studies.measure_search import SEARCH_SIZES, SEARCHES, SearchSettings, measure_searches
from prmbench.studies.settings import (
    POLICIES,
    REWARD_MODELS,
    SEARCHED_POLICIES,
    SEARCHED_REWARD_MODELS,
    PolicySettings,
    RewardModelSettings,
)

Row = dict[str, Any]
Kind = Literal["reward model", "best-of-n", "policy", "td", "candidates", "credit", "labels", "search"]

MEASURES: dict[Kind, tuple[Callable[[Lab, Any, Path], Row], int]] = {
    "reward model": (measure_reward_model, 60),
    "best-of-n": (measure_best_of_n, 30),
    "policy": (measure_policy, 50),
    "td": (measure_td, 60),
    "candidates": (measure_candidate_sets, 15),
    "credit": (measure_credit, 10),
    "labels": (measure_labels, 60),
    "search": (measure_searches, 300),
}
"""How each kind is measured, and about how many seconds it takes on one core, without what it stands on."""


SEARCHED = {*SEARCHED_POLICIES, *SEARCHED_REWARD_MODELS, *SEARCHED_LABELLED}
"""Names of runs that settings are chosen by."""


@dataclass(frozen=True)
class StudyRun:
    """One measurement.

    Attributes:
        kind: What is measured.
        name: Name of the reward model or the policy, in `prmbench.studies.settings`, of the study of labels, in
            `prmbench.studies.label_settings`, or of that of guided search; ``sft`` for ``candidates``.
    """

    kind: Kind
    name: str

    @property
    def settings(self) -> RewardModelSettings | PolicySettings | LabelSettings | SearchSettings | None:
        """How what is measured is trained; None for ``candidates``, which are of the SFT policy."""
        if self.kind == "labels":
            return (LABELLED | SEARCHED_LABELLED)[self.name]
        if self.kind == "search":
            return SEARCHES[self.name]
        if self.kind == "policy":
            return (POLICIES | SEARCHED_POLICIES)[self.name]
        return (REWARD_MODELS | SEARCHED_REWARD_MODELS).get(self.name)

    @property
    def seconds(self) -> int:
        """About how long it takes on one core, for the time left."""
        return MEASURES[self.kind][1]

    @property
    def split(self) -> Split:
        """Split that it is measured on: validation where settings are searched."""
        return "validation" if self.name in SEARCHED else "test"

    @property
    def facts(self) -> Row:
        """The settings, and those of the reward model that a policy's training or a search uses, for JSON."""
        settings = self.settings
        reward = settings.reward if isinstance(settings, PolicySettings | SearchSettings) else None
        return {"settings": settings and asdict(settings), "reward": reward and asdict(reward)}

    def place(self, folder: Path) -> Path:
        """Return the file that holds its figures, once it is done.

        Args:
            folder: Folder of a seed's build.
        """
        recipes = {
            "candidates": [],
            "policy": [RM_RECIPE, RL_RECIPE],
            "labels": [RM_RECIPE, PRM_RECIPE],
            "search": [RM_RECIPE, PRM_RECIPE],
        }.get(self.kind, [RM_RECIPE])
        own: dict[Kind, list[Any]] = {"labels": [LABEL_SIZES], "search": [LABEL_SIZES, SEARCH_SIZES]}
        sizes = [*SIZES, *own.get(self.kind, [])]
        key = digest([self.kind, self.facts, self.split, sizes, [recipe_keys(name) for name in recipes]])
        return folder / "runs" / f"{self.kind}-{self.name}-{key[:12]}.json".replace(" ", "-")


def perform(run: StudyRun, lab: Lab) -> Row:
    """Return a run's figures, and compute them first where they are not kept yet.

    Args:
        run: The run.
        lab: The seed's data and models, of the run's split.

    Returns:
        ``name``, ``settings``, ``reward``, ``seed``, ``split``, and what its measurement returns.
    """
    place = run.place(lab.folder)

    def make() -> Row:
        found = MEASURES[run.kind][0](lab, run.settings, place.with_suffix(""))
        return {"name": run.name, **run.facts, "seed": lab.build.seed, "split": run.split, **found}

    row: Row = kept(place, make)
    return row
