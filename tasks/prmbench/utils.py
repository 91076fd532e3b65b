"""The functions that the task files name. What they do is in `prmbench.integrations.lm_eval`."""

from prmbench.integrations.lm_eval import (
    acc_correct,
    acc_error,
    f1,
    problems,
    score_completions,
    score_verdicts,
    traces,
)

__all__ = ["acc_correct", "acc_error", "f1", "problems", "score_completions", "score_verdicts", "traces"]
