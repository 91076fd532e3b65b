"""What a study needs of the world that it is made in: where policies, data and problems come from. One of them is the miniature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prmbench.miniature.solutions import FORMATS
from prmbench.studies.figures import Results
from prmbench.studies.lab import Lab
from prmbench.studies.layout import Layout
from prmbench.studies.our_tables import OUR_TABLES
from prmbench.studies.paper_tables import ABSENT, MINIATURE_NOTES
from prmbench.studies.runs import StudyRun
from prmbench.studies.shared_rows import perform_shared
from prmbench.studies.work import perform_runs


@dataclass(frozen=True)
class WorldFacts:
    """What pages say of a world.

    Attributes:
        title: Title of the page.
        about: A sentence on what its figures are worth.
        subsets: Subsets of its labelled traces.
        notes: How its tables differ from the paper's, by their number.
        absent: Tables without a counterpart of their own, and why.
        seeds: Number of seeds where none is asked for.
        ours: Tables that the paper does not have.
    """

    title: str
    about: str
    subsets: Sequence[str]
    notes: Mapping[str, str]
    absent: Mapping[str, str]
    seeds: int
    ours: Sequence[Layout] = ()


class StudyWorld(Protocol):
    """A world: it makes what a run measures, and keeps the figures."""

    @property
    def facts(self) -> WorldFacts:
        """What pages say of it."""

    def perform(self, runs: Sequence[StudyRun], seeds: Sequence[int], workers: int | None = None) -> Results:
        """Return the rows of every run, and compute them first where they are not kept yet.

        Args:
            runs: The runs.
            seeds: The seeds that each run is made for.
            workers: Number of processes; None lets the world choose.

        Returns:
            Rows by run, in the order of the seeds.
        """

    def place(self, run: StudyRun, seed: int) -> Path:
        """Return the file that holds a run's figures, once it is done.

        Args:
            run: The run.
            seed: The seed.
        """

    def describe(self, run: StudyRun, seeds: Sequence[int]) -> dict[str, Any]:
        """Say how what is measured was made, for JSON.

        Args:
            run: The run.
            seeds: The seeds that it was made for.
        """


class MiniatureWorld:
    """The synthetic world, in which everything is trained from nothing.

    Attributes:
        rows: Folder of figures that are shared between machines; None shares nothing.
    """

    facts = WorldFacts(
        "The paper's tables in the miniature",
        "A synthetic world and tiny models: only orderings compare with the paper's.",
        FORMATS,
        MINIATURE_NOTES,
        ABSENT,
        6,
        OUR_TABLES,
    )

    def __init__(self, rows: Path | None = None) -> None:
        """Take the folder of shared figures.

        Args:
            rows: Folder that finished runs are taken from and given to (`prmbench.studies.shared_rows`); None shares nothing.
        """
        self.rows = rows

    def perform(self, runs: Sequence[StudyRun], seeds: Sequence[int], workers: int | None = None) -> Results:
        """Return the rows of every run; see `prmbench.studies.work.perform_runs`.

        Args:
            runs: The runs.
            seeds: The seeds that each run is made for.
            workers: Number of processes; None takes one a core.
        """
        if self.rows is None:
            return perform_runs(runs, seeds, workers)
        return perform_shared(self.rows, runs, seeds, workers)

    def place(self, run: StudyRun, seed: int) -> Path:
        """Return the file that holds a run's figures, which its content names.

        Args:
            run: The run.
            seed: The seed.
        """
        return run.place(Lab(seed).folder)

    def describe(self, run: StudyRun, seeds: Sequence[int]) -> dict[str, Any]:
        """Return a run's settings, which are those of every seed.

        Args:
            run: The run.
            seeds: The seeds that it was made for.
        """
        return run.facts
