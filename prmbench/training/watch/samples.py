"""``samples.jsonl``: rollouts of every so many steps, for a person to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from prmbench.data.rollouts import Rollout
from prmbench.results.store import write_atomically
from prmbench.training.watch.lines import whole_lines

SAMPLES_NAME = "samples.jsonl"


class SamplesFile:
    """Keeps all rollouts of one prompt of a step, a line each: those of a rollouts file, and the step."""

    def __init__(self, file: Path, every: int, done: int = 0) -> None:
        """Begin the file, or bring it to where the run goes on from.

        Args:
            file: The file.
            every: Steps between two that are kept. The first step of the run is kept.
            done: Steps done before; rows of later ones are dropped, since they are made again.
        """
        self.file, self.every = file, every
        kept = [row for row in whole_lines(file) if row.get("step", 0) <= done] if done else []
        write_atomically(file, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, step: int, rollouts: Sequence[Rollout]) -> None:
        """Keep the rollouts of a step, where it is its turn.

        Args:
            step: Number of the step, from 1.
            rollouts: Rollouts of one prompt.
        """
        if (step - 1) % self.every:
            return
        with self.file.open("a", encoding="utf-8") as file:
            for rollout in rollouts:
                file.write(json.dumps({"step": step, **json.loads(rollout.line())}) + "\n")
