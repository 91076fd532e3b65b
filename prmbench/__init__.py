"""Evaluate process reward models for math reasoning, and train the models it evaluates.

The public functions are loaded on first use, so that ``import prmbench`` stays quick and needs no torch:

    entry, path = prmbench.evaluate("ckpt", reference="sft", subsets=["gsm8k"])
    model = prmbench.load_reward_model("ckpt", reference="sft")
    traces = prmbench.load_traces("my-traces.jsonl")
    scores = prmbench.score_traces(model, traces)
    entry = prmbench.recompute("prmbench-results/.../items.jsonl")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prmbench.api import (
        evaluate,
        evaluate_scores,
        evaluate_several,
        leaderboard,
        measure_policy,
        report,
        rerank,
        train_reward_model,
    )
    from prmbench.benchmarks.base import Benchmark
    from prmbench.benchmarks.processbench.run import score_traces
    from prmbench.benchmarks.registry import recompute, register_benchmark
    from prmbench.data.solutions import Solution, load_solutions
    from prmbench.data.traces import Trace, load_traces
    from prmbench.engines.checkpoint import read_weights
    from prmbench.engines.load import LoadOptions
    from prmbench.errors import UserError
    from prmbench.reports.compare import compare
    from prmbench.reward_models.base import RewardModel, StepScores
    from prmbench.reward_models.loading import load_reward_model
    from prmbench.reward_models.marked import MarkedRewardModel
    from prmbench.reward_models.marks import MarkLayout
    from prmbench.reward_models.registry import register
    from prmbench.scoring.run import score_solutions

__all__ = [
    "Benchmark",
    "LoadOptions",
    "MarkLayout",
    "MarkedRewardModel",
    "RewardModel",
    "Solution",
    "StepScores",
    "Trace",
    "UserError",
    "compare",
    "evaluate",
    "evaluate_scores",
    "evaluate_several",
    "leaderboard",
    "load_reward_model",
    "load_solutions",
    "load_traces",
    "measure_policy",
    "read_weights",
    "recompute",
    "register",
    "register_benchmark",
    "report",
    "rerank",
    "score_solutions",
    "score_traces",
    "train_reward_model",
]

_HOMES = {
    "Benchmark": "prmbench.benchmarks.base",
    "LoadOptions": "prmbench.engines.load",
    "MarkLayout": "prmbench.reward_models.marks",
    "MarkedRewardModel": "prmbench.reward_models.marked",
    "Solution": "prmbench.data.solutions",
    "RewardModel": "prmbench.reward_models.base",
    "StepScores": "prmbench.reward_models.base",
    "Trace": "prmbench.data.traces",
    "UserError": "prmbench.errors",
    "compare": "prmbench.reports.compare",
    "evaluate": "prmbench.api",
    "evaluate_scores": "prmbench.api",
    "evaluate_several": "prmbench.api",
    "leaderboard": "prmbench.api",
    "load_reward_model": "prmbench.reward_models.loading",
    "load_solutions": "prmbench.data.solutions",
    "load_traces": "prmbench.data.traces",
    "measure_policy": "prmbench.api",
    "read_weights": "prmbench.engines.checkpoint",
    "recompute": "prmbench.benchmarks.registry",
    "register": "prmbench.reward_models.registry",
    "register_benchmark": "prmbench.benchmarks.registry",
    "report": "prmbench.api",
    "rerank": "prmbench.api",
    "score_solutions": "prmbench.scoring.run",
    "score_traces": "prmbench.benchmarks.processbench.run",
    "train_reward_model": "prmbench.api",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'prmbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
