"""The world of a folder of recipes: real checkpoints, made and measured by commands that are printed before they run."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from prmbench.benchmarks.registry import load_measured
from prmbench.data.records import read_json
from prmbench.data.verdicts import Verdict
from prmbench.errors import ArgumentError, UserError
from prmbench.results.schema import digest
from prmbench.results.store import write_atomically
from prmbench.studies.figures import Results, last_third
from prmbench.studies.lab import kept
from prmbench.studies.measure_reward_models import f1_by_rule
from prmbench.studies.recipe_commands import Command, RecipeFolder
from prmbench.studies.runs import Row, StudyRun
from prmbench.studies.world import WorldFacts
from prmbench.workers import end_with_parent

ABSENT = {"12": "Best-of-N on AMC-23 is Table 1 on another problem set: name it in world.yaml, under best_of_n."}


def start_process(arguments: Sequence[str], launch: str = "") -> int:
    """Run a command of `prmbench` in a process of its own, so that it begins with a free device.

    Args:
        arguments: What stands behind ``prmbench``.
        launch: What starts a module on several devices, such as ``accelerate launch --config_file FILE``; empty starts Python.

    Returns:
        The exit code. The process ends with this one, whatever ends it.
    """
    start = shlex.split(launch) if launch else [sys.executable]
    end = functools.partial(end_with_parent, os.getpid())
    with subprocess.Popen([*start, "-m", "prmbench", *arguments], stdout=sys.stderr, preexec_fn=end) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


class RecipeWorld:
    """A folder of recipes as a world.

    Attributes:
        recipes: The folder.
    """

    def __init__(self, name: str, start: Callable[[Sequence[str]], int] = start_process) -> None:
        """Read the folder; nothing is run.

        Args:
            name: A folder, or the name of one in the installed ``training/``.
            start: Runs a command and returns its exit code; see `start_process`.

        Raises:
            UserError: See `RecipeFolder`.
        """
        self.recipes = RecipeFolder(name)
        self._start = start

    @cached_property
    def facts(self) -> WorldFacts:
        """What pages say of it."""
        options = self.recipes.options
        about = f"Recipes of {self.recipes.name}; replicate.json has the commands. {options.note}".strip()
        return WorldFacts(
            f"The paper's tables with {self.recipes.folder.name}",
            about,
            options.traces.subsets,
            {},
            ABSENT,
            options.seeds,
        )

    def place(self, run: StudyRun, seed: int) -> Path:
        """Return the file that holds a run's figures, which all that they depend on names.

        Args:
            run: The run.
            seed: The seed.
        """
        keys = {part: one.key for part, one in self.recipes.measurements(run, seed).items()}
        name = f"{run.kind}-{run.name}-{digest([keys, self._shifted])[:12]}.json".replace(" ", "-").replace("=", "")
        return self.recipes.root / "replicate" / f"seed-{seed}" / name

    def describe(self, run: StudyRun, seeds: Sequence[int]) -> dict[str, Any]:
        """Return the last commands of a run, by seed.

        Args:
            run: The run.
            seeds: The seeds that it was made for.
        """
        return {"commands": [[one.text for one in self.recipes.measurements(run, seed).values()] for seed in seeds]}

    @property
    def _shifted(self) -> list[str]:
        return self.recipes.options.traces.shifted or self.recipes.options.traces.subsets

    def commands(self, runs: Sequence[StudyRun], seeds: Sequence[int]) -> list[Command]:
        """List everything that runs need, each command once, behind those that it needs.

        Args:
            runs: The runs.
            seeds: The seeds.
        """
        found: dict[str, Command] = {}
        for seed in seeds:
            for run in sorted(runs, key=lambda one: one.kind in ("policy", "step")):
                for command in self.recipes.measurements(run, seed).values():
                    found |= {one.text: one for one in _with_needs(command)}
        return list(found.values())

    def plan(self, runs: Sequence[StudyRun], seeds: Sequence[int]) -> Iterator[str]:
        """Write every command with its cost, a command a line, and whether it is done.

        Args:
            runs: The runs.
            seeds: The seeds.

        Yields:
            Lines. The costs are comments, so that the whole is a shell script.
        """
        commands = self.commands(runs, seeds)
        n_done = 0
        for command in commands:
            if command.is_done:
                n_done += 1
                yield f"# done: {command.text}"
            else:
                yield f"# {command.cost}"
                yield command.text
        yield f"# {len(commands):,} commands, {n_done:,} of them done"

    def perform(self, runs: Sequence[StudyRun], seeds: Sequence[int], workers: int | None = None) -> Results:
        """Run the commands that are missing, one after the other, and read the figures.

        Args:
            runs: The runs.
            seeds: The seeds that each run is made for.
            workers: Not used here but refused: commands share the devices.

        Returns:
            Rows by run, in the order of the seeds.

        Raises:
            ArgumentError: Several workers are asked for.
            UserError: A command failed, or a folder holds the run of another recipe.
        """
        if workers is not None and workers > 1:
            raise ArgumentError("workers", workers, "a world of recipes runs one command at a time; leave it out")
        missing = [(run, seed) for seed in seeds for run in runs if not self.place(run, seed).exists()]
        needed = {
            one.text: one for seed in seeds for one in self.commands([run for run, of in missing if of == seed], [seed])
        }
        for i, command in enumerate(needed.values()):
            self._run(command, f"command {i + 1:,} of {len(needed):,}")
        return {run: [self._row(run, seed) for seed in seeds] for run in runs}

    def _run(self, command: Command, which: str) -> None:
        if command.is_done:
            print(f"{which} is done: {command.text}", file=sys.stderr, flush=True)
            return
        print(f"{which}: {command.text}\n  {command.cost}", file=sys.stderr, flush=True)
        code = self._start(command.arguments)
        if code:
            raise UserError(
                f"{command.text}: ended with exit code {code}; mend what it says, and the same command goes on from there"
            )
        if command.arguments[0] == "rollout":
            write_atomically(command.mark, "{}\n")

    def _row(self, run: StudyRun, seed: int) -> Row:
        def make() -> Row:
            commands = self.recipes.measurements(run, seed)
            return {"name": run.name, "seed": seed, **self._figures(run, commands)}

        row: Row = kept(self.place(run, seed), make)
        return row

    def _figures(self, run: StudyRun, commands: Mapping[str, Command]) -> Row:
        """Read a run's figures from what its commands left."""
        if run.kind == "policy":
            return _policy_figures(commands["policy"])
        if run.kind == "step":
            report = read_json(commands["policy"].output / "rl.json")
            return {
                "seconds": last_third(report, "seconds/step_before"),
                "peak_gib": last_third(report, "peak_memory_gib"),
            }
        metrics: dict[str, Any] = {
            part: load_measured(one.output, items=False).entry.metrics for part, one in commands.items()
        }
        if run.kind == "reward model":
            subsets = self.recipes.options.traces.subsets
            return {"f1": f1_by_rule(metrics["f1"].protocols, subsets), "shifted": self._shifted}
        if run.kind == "best-of-n":
            return {part: one.mean.model_dump(mode="json") for part, one in metrics.items()}
        return {part: one.model_dump(mode="json") for part, one in metrics.items()}


def _with_needs(command: Command) -> Iterator[Command]:
    for one in command.needs:
        yield from _with_needs(one)
    yield command


def _policy_figures(command: Command) -> Row:
    """Read how often a policy is right, and what its training logged."""
    entry, history = command.output, []
    if command.recipe is not None:
        report = read_json(command.output / "rl.json")
        entry, history = command.output / "entries" / f"step-{report['steps']}", report["history"]
    measured = load_measured(entry)
    right: Counter[tuple[str, str]] = Counter()
    for item in measured.items:
        right[item.subset, item.id] += item.verdict == Verdict.CORRECT
    metrics: Any = measured.entry.metrics
    return {"n": metrics.n, "right": list(right.values()), "average": metrics.mean["average"].value, "history": history}
