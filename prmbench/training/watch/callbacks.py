"""All that watches a run, as callbacks of its trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from prmbench.training.run_folder import TrainingRun
from prmbench.training.watch.live import LiveLine
from prmbench.training.watch.metrics import METRICS_NAME, MetricsFile
from prmbench.training.watch.trackers import make_trackers


def watch(run: TrainingRun[Any], title: str = "training") -> list[TrainerCallback]:
    """Make the callbacks that show a run: the live line, ``metrics.jsonl``, the trackers that the recipe names.

    Args:
        run: The run.
        title: What the live line calls the work.

    Returns:
        The callbacks; none in processes other than the first.

    Raises:
        UserError: A tracker is not installed.
    """
    if not run.share.main:
        return []
    updates = run.recipe.updates_of_step
    return [
        LiveLine(run.log, updates, title),
        MetricsFile(run.output / METRICS_NAME, updates),
        *make_trackers(run.recipe.trackers, run.output, updates),
    ]
