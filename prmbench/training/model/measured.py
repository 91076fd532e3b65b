"""What trainings share that measure held-out data on their way, and keep the best weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prmbench.data.records import read_json
from prmbench.training.recipes.optimisation import Optimisation, trainer_arguments
from prmbench.training.run_folder import TrainingRun

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from prmbench.training.model.measured_trainer import MeasuredTrainer


RunType = TypeVar("RunType", bound=TrainingRun[Any])


def measured_arguments(
    recipe: Optimisation, states: Path, updates: int, every: int | None, *, held: bool, fresh: bool
) -> TrainingArguments:
    """Make the arguments of a trainer that measures held-out data.

    Args:
        recipe: The recipe.
        states: Folder of the saved states.
        updates: Updates of the whole run.
        every: Updates between two measurements; None: a tenth of the run.
        held: Whether there are held-out data.
        fresh: Whether the run begins, and is measured before its first update.
    """
    from transformers import TrainingArguments

    return TrainingArguments(
        **trainer_arguments(recipe, states, updates),
        remove_unused_columns=False,
        dataloader_drop_last=True,
        eval_strategy="steps" if held else "no",
        eval_steps=every or max(1, updates // 10),
        eval_on_start=held and fresh,
        ddp_find_unused_parameters=False,
    )


def train_measured(
    run: RunType,
    make_trainer: Callable[[RunType, bool], MeasuredTrainer[Any, Any]],
    export: Callable[[RunType, Path, Path], None],
    finish: Callable[[RunType], dict[str, Any]],
    last: str | None,
) -> dict[str, Any]:
    """Train, measure once more where the schedule made no last measurement, and write the best weights as a checkpoint.

    Args:
        run: The run.
        make_trainer: Makes its trainer; the second argument says whether the run begins.
        export: Makes what was saved in a folder a checkpoint in another one; it is tried before the first update.
        finish: Writes what else the run leaves, and returns what else is reported; called when the checkpoint is written, and the
            last weights are in ``last`` among the saved states.
        last: The saved state to go on from; None: the run begins.

    Returns:
        What is to be reported; nothing in processes other than the first.
    """
    trainer = make_trainer(run, last is None)
    if last is None:
        trainer.rehearse(run.states / "rehearsal", functools.partial(export, run))
    trainer.train(resume_from_checkpoint=last)
    state = trainer.state
    is_measured = any("eval_loss" in row and row["step"] == state.global_step for row in state.log_history)
    if len(trainer.held_out) and not is_measured:
        trainer.evaluate()
    trainer.save_model(str(run.states / "last"))
    run.share.wait()
    if not run.share.main:
        return {}
    best, report = _best_weights(run, trainer)
    export(run, best, run.output)
    return {**finish(run), **report}


def _best_weights(run: TrainingRun[Any], trainer: MeasuredTrainer[Any, Any]) -> tuple[Path, dict[str, Any]]:
    """Find the best weights of a run that has ended.

    Args:
        run: The run.
        trainer: Its trainer.

    Returns:
        The folder that they were saved in, which is that of the last ones where nothing was held out; and for the report ``steps``,
        ``best_step``, ``metrics`` (those of the best weights) and ``history``.
    """
    from prmbench.training.model.trainer import BEST_NAME

    history, steps, best = trainer.state.log_history, trainer.state.global_step, run.states / "best"
    best_step = read_json(best / BEST_NAME)["step"] if best.exists() else steps
    at_best: dict[str, Any] = next(
        (row for row in reversed(history) if row["step"] == best_step and "eval_loss" in row), {}
    )
    return best if best.exists() else run.states / "last", {
        "steps": steps,
        "best_step": best_step,
        "metrics": {name.removeprefix("eval_"): x for name, x in at_best.items() if name.startswith("eval_")},
        "history": history,
    }
