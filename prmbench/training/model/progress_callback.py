"""Progress of a training run, by the same bar or lines as everything else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from prmbench.progress import progress


class _Progress(TrainerCallback):
    def __init__(self, log: Callable[[str], None]) -> None:
        self.log = log
        self.stack = ExitStack()
        self.advance: Callable[[int], None] = lambda _: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance = self.stack.enter_context(progress("training", state.max_steps, "steps", done=state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advance(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.stack.close()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        shown = ", ".join(
            f"{name.replace('_', ' ')} {(metrics or {})[f'eval_{name}']:.4f}"
            for name in ("loss", "pair_accuracy", "auc", "prefix_accuracy")
            if f"eval_{name}" in (metrics or {})
        )
        self.log(f"step {state.global_step:,}: held-out {shown}")


def progress_callback(log: Callable[[str], None]) -> TrainerCallback:
    """Make a callback that shows how far the run is.

    Args:
        log: Called with a line for every measurement on held-out data.
    """
    return _Progress(log)
