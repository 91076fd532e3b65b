"""Names for the task files; what they do is in prmbench.lm_eval_tasks."""

from prmbench.lm_eval_tasks import (
    acc_correct,
    acc_error,
    f1,
    problems,
    score_completions,
    score_verdicts,
    traces,
)

__all__ = ["acc_correct", "acc_error", "f1", "problems", "score_completions", "score_verdicts", "traces"]
