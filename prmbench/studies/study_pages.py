"""The studies with a page of their own, in ``docs/studies/``: how settings were chosen, what replicates, labels, guided search.

A page has a hand-written part, and below it figures that are written from the rows of finished runs, which lie in ``rows/`` beside
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prmbench.errors import ArgumentError, nearest
from prmbench.results.store import write_atomically
from prmbench.studies import labels_page, power_page, search_page, settings_page, what_replicates
from prmbench.studies.figures import Results
from prmbench.studies.label_settings import LABELLED, SEARCHED_LABELLED
from prmbench.studies.replicate import PAIR, plan_runs
from prmbench.studies.runs import Kind, Row, StudyRun
from prmbench.studies.settings import SEARCHED_POLICIES, SEARCHED_REWARD_MODELS
from prmbench.studies.shared_rows import perform_shared, read_rows
from prmbench.studies.world import MiniatureWorld

MARK = "<!-- What follows is written by scripts/study.py. -->"
SEARCH_SEED = 100
"""The first seed that no table uses: settings are searched on it, and it is the first of the pilot seeds."""

UNFINISHED = "No seed has every run of this study yet."

Written = tuple[list[str], Mapping[str, str]]
"""Paragraphs of a page, and pictures by their file's name."""


@dataclass(frozen=True)
class StudyRows:
    """Rows of the seeds that are whole, by run, for the page of a study.

    Attributes:
        tables: Of the study's own seeds.
        searched: Of its search.
        pair: Of its pair.
        compared: Of the runs that it does not make itself.
    """

    tables: Results
    searched: Results
    pair: Results
    compared: Results


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        title: Title of its page.
        write: Writes the page's figures.
        runs: Runs of its tables.
        search_runs: Runs of its search, which are on `SEARCH_SEED` and validation problems.
        pair: Runs that may be made for more seeds than the others.
        compared: Runs of the seeds from 0 on, with which the page compares its own. The study does not make them.
        first: First seed of the tables.
    """

    title: str
    write: Callable[[StudyRows], Written]
    runs: Sequence[StudyRun] = field(default=())
    search_runs: Sequence[StudyRun] = field(default=())
    pair: Sequence[StudyRun] = field(default=())
    compared: Sequence[StudyRun] = field(default=())
    first: int = 0


def run_study(
    name: str, folder: Path, *, seeds: int = 10, pair_seeds: int | None = None, workers: int | None = None
) -> Path:
    """Run what is missing of a study, and write its page.

    Args:
        name: One of `STUDIES`.
        folder: Folder of the page. Rows that other machines have finished are taken from its folder ``rows``, and given to it.
        seeds: Number of seeds of the tables, from the study's first one on.
        pair_seeds: Number of seeds of the study's pair; None takes `seeds`.
        workers: Number of processes, one thread each; None takes one a core.

    Returns:
        The page.

    Raises:
        ArgumentError: There is no such study.
    """
    study = _find(name)
    parts = (
        (study.search_runs, [SEARCH_SEED]),
        (study.runs, range(study.first, study.first + seeds)),
        (study.pair, range(max(seeds, pair_seeds or 0))),
    )
    for runs, of in parts:
        if runs:
            perform_shared(folder / "rows", runs, of, workers)
    return write_page(name, folder)


def write_page(name: str, folder: Path) -> Path:
    """Write the figures of a study's page, and its pictures, from the rows beside it.

    Args:
        name: One of `STUDIES`.
        folder: Folder of the page. What the page has before `MARK` stays.

    Returns:
        The page.

    Raises:
        ArgumentError: There is no such study.
    """
    study, page, rows = _find(name), folder / f"{name}.md", folder / "rows"
    found = StudyRows(
        finished_rows(rows, study.runs, range(study.first, study.first + SEARCH_SEED)),
        finished_rows(rows, study.search_runs, [SEARCH_SEED]),
        finished_rows(rows, study.pair),
        finished_rows(rows, study.compared),
    )
    own = (found.tables, found.searched, found.pair)
    is_finished = all(seeds for group in own for seeds in group.values())
    paragraphs, pictures = study.write(found) if is_finished else ([UNFINISHED], {})
    said = page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else f"# {study.title}\n\n"
    write_atomically(page, said + "\n\n".join([MARK, *paragraphs]) + "\n")
    for file, picture in pictures.items():
        write_atomically(folder / file, picture)
    return page


def finished_rows(folder: Path, runs: Sequence[StudyRun], seeds: Iterable[int] = range(SEARCH_SEED)) -> Results:
    """Return the rows of the seeds that have every run.

    Args:
        folder: Folder of the rows of all seeds.
        runs: The runs.
        seeds: The seeds that are looked at.

    Returns:
        Rows by run, in the order of the seeds; no rows where no seed has every run.
    """
    found: dict[StudyRun, list[Row]] = {run: [] for run in runs}
    names = {run: run.place(folder).name for run in runs}
    for seed in seeds if runs else ():
        rows = read_rows(folder, seed)
        if all(name in rows for name in names.values()):
            for run, name in names.items():
                found[run].append(rows[name])
    return dict(found)


def _find(name: str) -> Study:
    if name not in STUDIES:
        raise ArgumentError("name", name, f"not known{nearest(name, STUDIES)}; known: {', '.join(STUDIES)}")
    return STUDIES[name]


def _runs(kind: Kind, names: Iterable[str]) -> list[StudyRun]:
    return [StudyRun(kind, name) for name in names]


EVERYTHING = plan_runs((), (), MiniatureWorld().facts)[2]
"""What all tables and claims need."""

STUDIES = {
    "settings": Study(
        "How the settings of the studies were chosen",
        lambda found: (settings_page.paragraphs(found.searched), {}),
        search_runs=[*_runs("reward model", SEARCHED_REWARD_MODELS), *_runs("policy", SEARCHED_POLICIES)],
    ),
    "power": Study(
        "What a number of seeds can decide",
        lambda found: (power_page.write_power(found.tables, found.compared), {}),
        EVERYTHING,
        compared=EVERYTHING,
        first=SEARCH_SEED,
    ),
    "what-replicates": Study(
        "What replicates in the miniature",
        lambda found: what_replicates.write(found.tables, found.pair),
        EVERYTHING,
        pair=PAIR,
    ),
    "labels": Study(
        "What a step label buys, in the miniature",
        lambda found: labels_page.write_labels(found.tables, found.searched),
        _runs("labels", LABELLED),
        _runs("labels", SEARCHED_LABELLED),
    ),
    "search": Study(
        "Guided search in the miniature",
        lambda found: search_page.write_search(found.tables),
        search_page.RUNS,
    ),
}
"""The studies, by the name of their page."""
