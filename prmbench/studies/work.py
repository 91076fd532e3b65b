"""Runs what is missing, on several cores, and says how far it is."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from prmbench.errors import UserError
from prmbench.miniature.world import Split
from prmbench.progress import progress
from prmbench.studies.figures import Results
from prmbench.studies.lab import Lab
from prmbench.studies.runs import StudyRun, perform
from prmbench.workers import Worker, interrupt_workers, serve, start_worker, stop_workers

FIRST = "reward model"
"""Kind of a seed's first runs: its others start from the same models, and would wait for each other."""

SAVING_SECONDS = 60.0
"""Time that workers have at a stop to finish the step of a training and to save its state."""

_labs: dict[tuple[int, Split], Lab] = {}


def perform_runs(
    runs: Sequence[StudyRun],
    seeds: Sequence[int],
    workers: int | None = None,
    finished: Callable[[StudyRun, int], object] = lambda run, seed: None,
) -> Results:
    """Return the rows of every run, and compute them first where they are not kept yet.

    Args:
        runs: The runs.
        seeds: The seeds that each run is made for.
        workers: Number of processes. Each has one thread, so that the figures do not depend on their number. None takes one a
            core.
        finished: Called after every run that was computed here, with the run and its seed.

    Returns:
        Rows by run, in the order of the seeds.

    Raises:
        UserError: A worker process ended before its time.
        KeyboardInterrupt: Stopped; the message says how much is kept.
    """
    jobs = sorted(((run, seed) for seed in seeds for run in runs), key=lambda job: (job[1], job[0].kind != FIRST))
    folders = {seed: Lab(seed).folder for seed in seeds}

    def done(run: StudyRun, seed: int) -> bool:
        return run.place(folders[seed]).exists()

    todo = [job for job in jobs if not done(*job)]
    total = sum(run.seconds for run, _ in jobs)
    left = sum(run.seconds for run, _ in todo)
    if todo:
        try:
            with progress("replicating", total, "units of work", done=total - left) as advance:

                def count(run: StudyRun, seed: int) -> None:
                    advance(run.seconds)
                    finished(run, seed)

                _perform(todo, workers or os.cpu_count() or 1, count, len(jobs) - len(todo))
        except KeyboardInterrupt:
            kept = sum(done(*job) for job in jobs)
            raise KeyboardInterrupt(
                f"stopped; {kept:,} of {len(jobs):,} runs are done and kept: the same command goes on from there, and trainings "
                "that were under way from their last state"
            ) from None
    return {run: [perform(run, _lab(run, seed)) for seed in seeds] for run in runs}


def _perform(
    jobs: Sequence[tuple[StudyRun, int]], workers: int, finished: Callable[[StudyRun, int], None], n_kept: int = 0
) -> None:
    """Perform runs in worker processes.

    Args:
        jobs: The runs that are missing, with their seeds.
        workers: Number of processes.
        finished: Called with a run and its seed when it is done.
        n_kept: Number of runs that were kept before; 0 where every run is missing.
    """
    waiting = list(jobs)
    started = [start_worker(_work) for _ in range(min(workers, len(jobs)))]
    idle = list(started)
    running: dict[Any, tuple[Worker, tuple[StudyRun, int]]] = {}
    try:
        while waiting or running:
            while waiting and idle:
                worker, job = idle.pop(), waiting.pop(0)
                n_runs = n_kept + len(jobs)
                print(
                    f"run {n_runs - len(waiting):,} of {n_runs:,}: {job[0].kind} {job[0].name}, seed {job[1]}",
                    file=sys.stderr,
                    flush=True,
                )
                running[worker.link] = worker, job
                with contextlib.suppress(BrokenPipeError):  # its reply says that it has ended
                    worker.link.send(job)
            for link in wait(list(running)):
                worker, (run, seed) = running.pop(link)
                idle.append(worker)
                reply = worker.reply()
                if isinstance(reply, Exception):
                    raise UserError(f"{run.kind} {run.name}: its {reply}") if isinstance(reply, OSError) else reply
                finished(run, seed)
    except KeyboardInterrupt:
        print("stopping: trainings under way are saved first; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        interrupt_workers(started, SAVING_SECONDS)
        raise
    finally:  # at once: else they would finish what they are at
        stop_workers(started)


def _work(link: Connection) -> None:
    """Perform the runs that come, one after the other."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    from prmbench.quiet import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()

    def one(job: tuple[StudyRun, int]) -> None:
        perform(job[0], _lab(*job))

    with contextlib.suppress(KeyboardInterrupt):  # a stop: a training has saved its state by now
        serve(link, one)


def _lab(run: StudyRun, seed: int) -> Lab:
    """Return this process's lab of a seed."""
    key = (seed, run.split)
    if key not in _labs:
        _labs[key] = Lab(*key)
    return _labs[key]
