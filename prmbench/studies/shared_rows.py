"""Figures of finished runs, one file a seed, so that another machine goes on where this one stopped.

rows/seed-0.jsonl.gz     one line a run: the name of its file, which its content decides, and its row
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from prmbench.errors import UserError
from prmbench.results.store import write_atomically
from prmbench.studies.figures import Results
from prmbench.studies.lab import Lab
from prmbench.studies.runs import StudyRun
from prmbench.studies.work import perform_runs


def rows_file(folder: Path, seed: int) -> Path:
    """Return the file of a seed's rows.

    Args:
        folder: Folder of the rows of all seeds.
        seed: The seed.
    """
    return folder / f"seed-{seed}.jsonl.gz"


def read_rows(folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Read a seed's rows.

    Args:
        folder: Folder of the rows of all seeds.
        seed: The seed.

    Returns:
        Rows by the name of their run's file; none where the seed has no file yet.

    Raises:
        UserError: The file is no gzipped JSON lines of rows.
    """
    path = rows_file(folder, seed)
    if not path.exists():
        return {}
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        return {line["file"]: line["row"] for line in map(json.loads, lines)}
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is no file of rows ({type(error).__name__}: {error}); take it out of the folder, and its runs are made again"
        ) from None


def take_rows(folder: Path, runs: Iterable[StudyRun], seeds: Sequence[int]) -> int:
    """Put rows that the folder has where runs look for what they have made.

    A row is taken where its run has the same settings, sizes and recipes here as where it was made: they decide its file's name.

    Args:
        folder: Folder of the rows of all seeds.
        runs: The runs that are wanted.
        seeds: The seeds that they are wanted for.

    Returns:
        Number of rows that were taken; those that were here before are not counted.
    """
    wanted, taken = list(runs), 0
    for seed in seeds:
        rows, home = read_rows(folder, seed), Lab(seed).folder
        for run in wanted:
            place = run.place(home)
            if place.name in rows and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(place, json.dumps(rows[place.name]) + "\n")
                taken += 1
    return taken


def give_rows(folder: Path, runs: Iterable[StudyRun], seeds: Sequence[int]) -> int:
    """Write rows that are done here and that the folder does not have.

    Args:
        folder: Folder of the rows of all seeds; it is made where it is not there.
        runs: The runs.
        seeds: The seeds.

    Returns:
        Number of rows that were added.
    """
    wanted, given = list(runs), 0
    for seed in seeds:
        home = Lab(seed).folder
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / ".rows.lock"):  # other studies of this machine may give rows of the same seed
            rows = read_rows(folder, seed)
            done = [place for run in wanted if (place := run.place(home)).exists() and place.name not in rows]
            if done:
                rows |= {place.name: json.loads(place.read_text(encoding="utf-8")) for place in done}
                text = "".join(json.dumps({"file": name, "row": rows[name]}) + "\n" for name in sorted(rows))
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(rows_file(folder, seed), gzip.compress(text.encode(), mtime=0))
                given += len(done)
    return given


def perform_shared(folder: Path, runs: Sequence[StudyRun], seeds: Sequence[int], workers: int | None = None) -> Results:
    """Take what the folder has, perform what is missing, and give every run when it is done.

    Args:
        folder: Folder of the rows of all seeds.
        runs: The runs.
        seeds: The seeds that each run is made for.
        workers: Number of processes; None takes one a core.

    Returns:
        Rows by run, in the order of the seeds.
    """
    take_rows(folder, runs, seeds)
    give_rows(folder, runs, seeds)
    return perform_runs(runs, seeds, workers, lambda run, seed: give_rows(folder, [run], [seed]))
