"""Runs what is missing, on several cores, and says how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context

from prmbench.progress import progress
from prmbench.studies.replicate.runs import Lab, Row, Run

Results = dict[Run, list[Row]]

BEFORE = {"reward model": 0, "best-of-n": 1, "td": 1, "candidates": 1, "policy": 1}
"""Reward models come first: the others start from them, and would wait for each other."""

_labs: dict[int, Lab] = {}


def replicate_runs(runs: Sequence[Run], seeds: Sequence[int], workers: int | None = None) -> Results:
    """Rows of every run, a seed each, computed where they are not kept yet.

    Args:
        workers: processes, one thread each, so that the figures do not depend on their number; None: one a core.

    Returns:
        Rows by run, in the order of the seeds.

    Raises:
        KeyboardInterrupt: with a message that says what is kept.
    """
    jobs = sorted(((run, seed) for seed in seeds for run in runs), key=lambda job: (BEFORE[job[0].kind], job[1]))
    labs = {seed: Lab(seed) for seed in seeds}
    todo = [(run, seed) for run, seed in jobs if not labs[seed].done(run)]
    total = sum(run.seconds for run, _ in jobs)
    left = sum(run.seconds for run, _ in todo)
    if todo:
        try:
            with progress("replicating", total, "units of work", done=total - left) as advance:
                _perform(todo, workers or os.cpu_count() or 1, advance)
        except KeyboardInterrupt:
            kept = sum(labs[seed].done(run) for run, seed in jobs)
            raise KeyboardInterrupt(
                f"stopped; {kept:,} of {len(jobs):,} runs are done and kept: the same command goes on from there"
            ) from None
    return {run: [labs[seed].perform(run) for seed in seeds] for run in runs}


def _perform(jobs: Sequence[tuple[Run, int]], workers: int, advance: Callable[[int], None]) -> None:
    waiting = list(jobs)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin) as pool:
        running: dict[Future[None], Run] = {}
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


def _one(run: Run, seed: int) -> None:
    if seed not in _labs:
        _labs[seed] = Lab(seed)
    _labs[seed].perform(run)
