"""``metrics.jsonl``: every row of a run's log, a line each, written as it goes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from prmbench.results.store import write_atomically
from prmbench.training.watch.lines import whole_lines

METRICS_NAME = "metrics.jsonl"


def in_steps(row: Mapping[str, Any], updates: int) -> dict[str, Any]:
    """Count a row of the trainer's log in steps instead of updates.

    Args:
        row: A row of the log, whose ``step`` counts updates.
        updates: Updates of a step.

    Returns:
        The row; of TRL's ``step_time``, the seconds of one update, become ``seconds/updates``, those of a step's updates.
    """
    changed = {**row, "step": row["step"] // updates}
    if updates > 1 and "rollouts/accuracy" in row:
        changed["seconds/updates"] = changed.pop("step_time", 0.0) * updates
    return changed


def keep_rows(file: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Bring a file of metrics to where a run goes on from: its rows are those of the log of the saved state, each once.

    Rows that were written after the state are made again by the run. A row of the state that the file lacks, as after a power cut,
    is written from the state's log.

    Args:
        file: The file.
        history: The log, counted as in the file.
    """
    kept: list[Mapping[str, Any]] = []
    for row, wanted in zip(whole_lines(file), history, strict=False):
        if not all(key in row and _same(row[key], value) for key, value in wanted.items()):
            break
        kept.append(row)
    kept += history[len(kept) :]
    write_atomically(file, "".join(_line(row) for row in kept))


def _same(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


class MetricsFile(TrainerCallback):
    """Writes the rows of the trainer's log into a file as they come, with the seconds since the training began."""

    def __init__(self, file: Path, updates: int = 1) -> None:
        """Write nothing yet.

        Args:
            file: The file.
            updates: Updates of a step.
        """
        self.file, self.updates = file, updates
        self.written, self.before, self.began = 0, 0.0, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin the file, or bring it to where the run goes on from.

        Args:
            args: As transformers has them.
            state: The trainer's state, with its log.
            control: As transformers has it.
            **_: Not used.
        """
        keep_rows(self.file, [in_steps(row, self.updates) for row in state.log_history])
        self.written, self.began = len(state.log_history), time.monotonic()
        self.before = max((row.get("seconds", 0.0) for row in whole_lines(self.file)), default=0.0)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the rows that are new.

        Args:
            args: As transformers has them.
            state: The trainer's state, with its log.
            control: As transformers has it.
            **_: Not used.
        """
        seconds = round(self.before + time.monotonic() - self.began, 3)
        with self.file.open("a", encoding="utf-8") as file:
            for row in state.log_history[self.written :]:
                file.write(_line({**in_steps(row, self.updates), "seconds": seconds}))
        self.written = len(state.log_history)
