"""Experiment trackers, by the names that transformers has for them."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from prmbench.errors import UserError, first_line
from prmbench.training.watch.metrics import in_steps

TENSORBOARD_FOLDER = "tensorboard"


class InSteps(TrainerCallback):
    """Stands before the callback of a tracker, for which it counts in steps instead of updates."""

    def __init__(self, inner: Any, updates: int) -> None:
        """Stand before a callback.

        Args:
            inner: The callback.
            updates: Updates of a step.
        """
        self.inner, self.updates = inner, updates

    def _pass(self, event: str, args: Any, state: Any, control: Any, others: dict[str, Any]) -> Any:
        shown = copy.copy(state)
        shown.global_step, shown.max_steps = state.global_step // self.updates, state.max_steps // self.updates
        if isinstance(logs := others.get("logs"), dict):
            row = in_steps({**logs, "step": 0}, self.updates)
            others = {**others, "logs": {name: value for name, value in row.items() if name != "step"}}
        return getattr(self.inner, event)(args, shown, control, **others)

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Begin, as transformers says.

        Args:
            args: As transformers has them.
            state: The trainer's state.
            control: As transformers has it.
            **others: As transformers has them.
        """
        self._pass("on_train_begin", args, state, control, others)

    def on_log(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Send figures, as transformers says.

        Args:
            args: As transformers has them.
            state: The trainer's state.
            control: As transformers has it.
            **others: As transformers has them.
        """
        self._pass("on_log", args, state, control, others)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """End, as transformers says.

        Args:
            args: As transformers has them.
            state: The trainer's state.
            control: As transformers has it.
            **others: As transformers has them.
        """
        self._pass("on_train_end", args, state, control, others)


def make_trackers(names: tuple[str, ...], output: Path, updates: int = 1) -> list[TrainerCallback]:
    """Make the callbacks of trackers.

    Args:
        names: Their names, as transformers has them.
        output: Folder of the run; TensorBoard writes into ``tensorboard`` within it unless TENSORBOARD_LOGGING_DIR names another.
        updates: Updates of a step.

    Returns:
        The callbacks, which count steps.

    Raises:
        UserError: A tracker is not installed.
    """
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    found: list[TrainerCallback] = []
    for name in names:
        try:
            (made,) = (one() for one in get_reporting_integration_callbacks([name]))
        except (RuntimeError, ImportError) as error:
            raise UserError(
                f"report_to: '{name}' is not installed ({first_line(error)}); install it, or set report_to=none"
            ) from None
        if name == "tensorboard" and not os.environ.get("TENSORBOARD_LOGGING_DIR"):
            made.logging_dir = str(output / TENSORBOARD_FOLDER)
        found.append(InSteps(made, updates))
    return found
