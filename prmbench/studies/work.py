"""Runs what is missing, on several cores, and says how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context

from prmbench.miniature.world import Split
from prmbench.progress import progress
from prmbench.studies.figures import Results
from prmbench.studies.lab import Lab
from prmbench.studies.runs import StudyRun, perform

FIRST = "reward model"
"""Kind of the runs that come first: the others start from the same models, and would wait for each other."""

_labs: dict[tuple[int, Split], Lab] = {}


def perform_runs(runs: Sequence[StudyRun], seeds: Sequence[int], workers: int | None = None) -> Results:
    """Return the rows of every run, and compute them first where they are not kept yet.

    Args:
        runs: The runs.
        seeds: The seeds that each run is made for.
        workers: Number of processes. Each has one thread, so that the figures do not depend on their number. None takes one a
            core.

    Returns:
        Rows by run, in the order of the seeds.

    Raises:
        KeyboardInterrupt: Stopped; the message says how much is kept.
    """
    jobs = sorted(((run, seed) for seed in seeds for run in runs), key=lambda job: (job[0].kind != FIRST, job[1]))
    folders = {seed: Lab(seed).folder for seed in seeds}

    def done(run: StudyRun, seed: int) -> bool:
        return run.place(folders[seed]).exists()

    todo = [job for job in jobs if not done(*job)]
    total = sum(run.seconds for run, _ in jobs)
    left = sum(run.seconds for run, _ in todo)
    if todo:
        try:
            with progress("replicating", total, "units of work", done=total - left) as advance:
                _perform(todo, workers or os.cpu_count() or 1, advance)
        except KeyboardInterrupt:
            kept = sum(done(*job) for job in jobs)
            raise KeyboardInterrupt(
                f"stopped; {kept:,} of {len(jobs):,} runs are done and kept: the same command goes on from there"
            ) from None
    return {run: [perform(run, _lab(run, seed)) for seed in seeds] for run in runs}


def _perform(jobs: Sequence[tuple[StudyRun, int]], workers: int, advance: Callable[[int], None]) -> None:
    waiting = list(jobs)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin) as pool:
        running: dict[Future[None], StudyRun] = {}
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    run, seed = waiting.pop(0)
                    running[pool.submit(_one, run, seed)] = run
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    advance(running.pop(future).seconds)
        except BaseException:
            for process in (pool._processes or {}).values():  # or they would finish what they are at
                process.terminate()
            raise


def _begin() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import signal

    import torch

    from prmbench.quiet import quiet_libraries

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says what is kept
    torch.set_num_threads(1)
    quiet_libraries()


def _one(run: StudyRun, seed: int) -> None:
    perform(run, _lab(run, seed))


def _lab(run: StudyRun, seed: int) -> Lab:
    """Return this process's lab of a seed."""
    key = (seed, run.split)
    if key not in _labs:
        _labs[key] = Lab(*key)
    return _labs[key]
