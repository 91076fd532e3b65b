"""`evaluate`: from a checkpoint's name to an entry, the same from the command line and from a notebook."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prmbench.benchmarks.processbench import ProcessBenchEntry, RunOptions, evaluate_traces
from prmbench.data.traces import load_traces
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.loading import load_reward_model


def evaluate(
    rm: str | Path | RewardModel,
    *,
    data: str | Path | None = None,
    subsets: Sequence[str] | None = None,
    limit: int | None = None,
    output: str | Path | None = None,
    name: str | None = None,
    options: RunOptions | None = None,
    **loading: Any,
) -> tuple[ProcessBenchEntry, Path] | None:
    """Evaluate a reward model on ProcessBench or data of the same fields.

    Args:
        rm: a checkpoint folder, a Hub id, or a model already loaded.
        data, subsets, limit: as in `prmbench.data.traces.load_traces`.
        output: the run's folder; None: one under ``prmbench-results/``. The same call goes on where it was stopped.
        name: the subject's name; None: the last part of the checkpoint's path.
        loading: arguments of `load_reward_model` (reference, kind, beta, ...); only with a name, not a loaded model.

    Returns:
        (entry, path of the entry file); None in processes other than the first.

    Raises:
        TypeError: loading arguments with a model already loaded.
        UserError: a mistake in what was asked for; see `load_traces`, `load_reward_model` and `evaluate_traces`.
    """
    if isinstance(rm, RewardModel) and loading:
        raise TypeError(f"unexpected with a loaded model: {', '.join(loading)}")
    traces = load_traces(data, subsets, limit)  # first: a mistake in the data shows before the model loads
    model = rm if isinstance(rm, RewardModel) else load_reward_model(rm, **loading)
    source = model.source if isinstance(rm, RewardModel) else str(rm)
    sampled = limit if limit in Counter(trace.subset for trace in traces).values() else None  # else nothing was cut
    options = dataclasses.replace(options or RunOptions(), limit=sampled)
    return evaluate_traces(
        model, traces, name=name or Path(source).resolve().name, source=source, output=output, options=options
    )
