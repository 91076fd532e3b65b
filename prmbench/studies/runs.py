"""What is run: every measurement by its kind and its name. Each is made once a seed and kept by its content."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from prmbench.miniature.build import recipe_keys
from prmbench.miniature.world import Split
from prmbench.results.schema import digest
from prmbench.studies.lab import PRM_RECIPE, RL_RECIPE, RM_RECIPE, SIZES, Lab, kept
from prmbench.studies.label_settings import LABELLED, SEARCHED_LABELLED, LabelSettings
from prmbench.studies.measure_decisions import DECISION_SIZES, measure_credit
from prmbench.studies.measure_labels import LABEL_SIZES, measure_labels
from prmbench.studies.measure_policies import measure_policy
from prmbench.studies.measure_probes import PROBE_SIZES, measure_candidate_sets, measure_td
from prmbench.studies.measure_reward_models import BEST_OF, N_BINS, measure_best_of_n, measure_reward_model
from prmbench.studies.measure_search import SEARCH_SIZES, SEARCHES, SearchSettings, measure_searches
from prmbench.studies.measure_steps import N_TIMED, STEP_SIZES, measure_step
from prmbench.studies.prefix_values import PREFIX_SIZES
from prmbench.studies.settings import (
    POLICIES,
    REWARD_MODELS,
    SEARCHED_POLICIES,
    SEARCHED_REWARD_MODELS,
    PolicySettings,
    RewardModelSettings,
)

Row = dict[str, Any]
Kind = Literal["reward model", "best-of-n", "policy", "td", "candidates", "credit", "step", "labels", "search"]


@dataclass(frozen=True)
class RunKind:
    """A kind of run.

    Attributes:
        measure: Measures one run, with a folder for what it leaves.
        seconds: About how many seconds it takes on one core, without what it stands on.
        settings: How what is measured is trained, by the run's name; None for what needs no training.
        recipes: Recipes that its trainings are made from.
        sizes: Its sizes, beside those of the seed's data.
    """

    measure: Callable[[Lab, Any, Path], Row]
    seconds: int
    settings: Mapping[str, Any]
    recipes: Sequence[str] = (RM_RECIPE,)
    sizes: Sequence[Any] = ()


_REWARDS = ChainMap[str, Any](REWARD_MODELS, SEARCHED_REWARD_MODELS)
_WITH_EXPLICIT = (RM_RECIPE, PRM_RECIPE)

MEASURES: dict[Kind, RunKind] = {
    "reward model": RunKind(measure_reward_model, 160, _REWARDS, sizes=[*PREFIX_SIZES, N_BINS]),
    "best-of-n": RunKind(measure_best_of_n, 80, _REWARDS, sizes=[list(BEST_OF)]),
    "policy": RunKind(
        measure_policy,
        120,
        ChainMap[str, Any](POLICIES, SEARCHED_POLICIES),
        (RM_RECIPE, RL_RECIPE),
        DECISION_SIZES,
    ),
    "td": RunKind(measure_td, 30, _REWARDS, sizes=PROBE_SIZES),
    "candidates": RunKind(measure_candidate_sets, 15, {"sft": None}, (), PROBE_SIZES),
    "credit": RunKind(measure_credit, 5, _REWARDS, sizes=DECISION_SIZES),
    "step": RunKind(measure_step, 20, POLICIES, (), [STEP_SIZES, N_TIMED]),
    "labels": RunKind(
        measure_labels, 60, ChainMap[str, Any](LABELLED, SEARCHED_LABELLED), _WITH_EXPLICIT, [LABEL_SIZES]
    ),
    "search": RunKind(measure_searches, 300, SEARCHES, _WITH_EXPLICIT, [LABEL_SIZES, SEARCH_SIZES]),
}
"""Every kind of run."""

SEARCHED = {*SEARCHED_POLICIES, *SEARCHED_REWARD_MODELS, *SEARCHED_LABELLED}
"""Names of runs that settings are chosen by."""


@dataclass(frozen=True)
class StudyRun:
    """One measurement.

    Attributes:
        kind: What is measured.
        name: Name of the reward model or the policy, in `prmbench.studies.settings`, of the study of labels, in
            `prmbench.studies.label_settings`, or of that of guided search; ``sft`` for ``candidates``. For ``step``, the policy
            whose method it is.
    """

    kind: Kind
    name: str

    @property
    def settings(self) -> RewardModelSettings | PolicySettings | LabelSettings | SearchSettings | None:
        """How what is measured is trained; None for ``candidates``, which are of the SFT policy."""
        found: RewardModelSettings | PolicySettings | LabelSettings | SearchSettings | None
        found = MEASURES[self.kind].settings[self.name]
        return found

    @property
    def seconds(self) -> int:
        """About how long it takes on one core, for the time left."""
        return MEASURES[self.kind].seconds

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
        kind = MEASURES[self.kind]
        recipes = [recipe_keys(name) for name in kind.recipes]
        key = digest([self.kind, self.facts, self.split, [*SIZES, *kind.sizes], recipes])
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
        found = MEASURES[run.kind].measure(lab, run.settings, place.with_suffix(""))
        return {"name": run.name, **run.facts, "seed": lab.build.seed, "split": run.split, **found}

    row: Row = kept(place, make)
    return row
