"""Score traces whose steps are labelled."""

from __future__ import annotations

from pathlib import Path

from prmbench.benchmarks.base import Job, Plan
from prmbench.benchmarks.foreign import plan_foreign
from prmbench.benchmarks.processbench.run import plan_scoring, refuse_nan
from prmbench.benchmarks.step_labels.schema import LabelledItem
from prmbench.benchmarks.step_labels.thresholds import given_thresholds
from prmbench.data.traces import Trace
from prmbench.errors import UserError
from prmbench.reward_models.base import StepScores
from prmbench.reward_models.subject import describe


def plan_labelled(job: Job) -> Plan:
    """Plan an evaluation on labelled traces. One that is longer than the model's positions is left out.

    Args:
        job: The evaluation; ``data`` is a list of traces with labels.

    Raises:
        UserError: No traces, or a model that gives no scores.
    """
    assert job.model is not None
    if job.model.predicts:
        raise UserError(
            f"a {job.model.kind} names the first wrong step and scores nothing; use the benchmark processbench, or a reward "
            "model of another kind"
        )
    # A mistake in the threshold shows before anything is scored.
    given_thresholds(job.options.threshold, describe(job.model, job.name, job.source))
    return plan_scoring(job, make_item, Trace.labelled_digest, skip=True)


def plan_scores(scores: Path, job: Job) -> Plan:
    """Plan an entry of scores that another tool made; see `plan_foreign`.

    Args:
        scores: The file of scores.
        job: The evaluation; ``data`` is a list of traces with labels.
    """
    return plan_foreign(scores, job, make_item, lambda subject: given_thresholds(job.options.threshold, subject))


def make_item(trace: Trace, scores: StepScores) -> LabelledItem:
    """Make the item of a trace.

    Args:
        trace: The trace, with labels.
        scores: The scores of its steps.

    Raises:
        UserError: A score is no number.
    """
    fields = (trace.subset, trace.id, trace.generator, trace.label, trace.labelled_digest(), scores.n_tokens)
    item = LabelledItem(*fields, scores.sums, scores.scores, labels=trace.labels or (), error_class=trace.error_class)
    refuse_nan(trace, item)
    return item
