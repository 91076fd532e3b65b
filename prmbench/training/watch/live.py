"""The live line of a training run: how far it is, and its newest figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from prmbench.progress import Advance, progress


def percent(value: float) -> str:
    """Write a share as a percentage.

    Args:
        value: The share, from 0 to 1.
    """
    return f"{value:.1%}"


def small(value: float) -> str:
    """Write a number with three digits that count.

    Args:
        value: The number.
    """
    return f"{value:.3g}"


SHOWN: Sequence[tuple[str, Callable[[float], str], tuple[str, ...]]] = (
    ("accuracy", percent, ("rollouts/accuracy",)),
    ("pass rate", percent, ("pass_rate",)),
    ("reward model", percent, ("reward_model/accuracy", "reward_model/pair_accuracy")),
    ("loss", small, ("loss",)),
    ("gradient", small, ("grad_norm",)),
    ("entropy", small, ("entropy",)),
    ("KL", small, ("kl_old",)),
    ("clipped", percent, ("clip_share/sampled",)),
    ("tokens", lambda value: f"{value:,.0f}", ("rollouts/mean_tokens",)),
)
"""Figures of the live line: what they are called, how they are written, and the log's keys. The first key that is there counts."""

HIDDEN_BY = {"loss": "rollouts/accuracy"}
"""Figures that are left out where another one is there: the policy's loss is near 0 whatever it learns."""


def live_line(row: Mapping[str, float], seconds: float) -> str:
    """Write a row of the log for the live line.

    Args:
        row: Figures by name.
        seconds: Seconds of a step, on average since the row before.

    Returns:
        The figures that are there, and the seconds. The empty string for a row with none of them.
    """
    parts = []
    for name, write, keys in SHOWN:
        key = next((key for key in keys if key in row), None)
        if key is not None and HIDDEN_BY.get(name) not in row:
            parts.append(f"{name} {write(row[key])}")
    return ", ".join([*parts, f"{seconds:.3g} s a step"]) if parts else ""


class LiveLine(TrainerCallback):
    """Shows how far a run is, with its newest figures, and says what was measured on held-out data.

    A run's steps are counted, each of which may be several updates.
    """

    def __init__(self, log: Callable[[str], None], updates: int = 1, title: str = "training") -> None:
        """Show nothing yet.

        Args:
            log: Called with a line for every measurement on held-out data.
            updates: Updates of a step.
            title: What the work is.
        """
        self.log, self.updates, self.title = log, updates, title
        self.stack = ExitStack()
        self._advance: Advance = lambda n, /, note=None: None
        self.shown = self.logged = 0
        self.began = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin the line.

        Args:
            args: As transformers has them.
            state: The trainer's state.
            control: As transformers has it.
            **_: Not used.
        """
        self.shown = self.logged = state.global_step // self.updates
        self.began = time.monotonic()
        total = state.max_steps // self.updates
        self._advance = self.stack.enter_context(progress(self.title, total, "steps", done=self.shown))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show an update, unless its figures are about to come.

        Args:
            args: As transformers has them.
            state: The trainer's state.
            control: What the trainer does next.
            **_: Not used.
        """
        if not control.should_log:
            self._reach(state.global_step // self.updates)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        """Show the newest figures.

        Args:
            args: As transformers has them.
            state: The trainer's state.
            control: As transformers has it.
            logs: The figures.
            **_: Not used.
        """
        step, now = state.global_step // self.updates, time.monotonic()
        note = None
        if step > self.logged and (found := live_line(logs or {}, (now - self.began) / (step - self.logged))):
            note, self.logged, self.began = found, step, now
        self._reach(step, note)

    def _reach(self, step: int, note: str | None = None) -> None:
        if step > self.shown:
            self._advance(step - self.shown, note)
            self.shown = step

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the line.

        Args:
            args: As transformers has them.
            state: The trainer's state.
            control: As transformers has it.
            **_: Not used.
        """
        self.stack.close()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Say what was measured on held-out data.

        Args:
            args: As transformers has them.
            state: The trainer's state.
            control: As transformers has it.
            metrics: Figures by name.
            **_: Not used.
        """
        shown = ", ".join(
            f"{name.replace('_', ' ')} {(metrics or {})[f'eval_{name}']:.4f}"
            for name in ("loss", "pair_accuracy", "auc", "prefix_accuracy")
            if f"eval_{name}" in (metrics or {})
        )
        self.log(f"step {state.global_step:,}: held-out {shown}")
