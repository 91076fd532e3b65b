"""Value the ends of steps, to compare with labels by rollouts: how many continuations from there were right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prmbench.benchmarks.base import DataRequest, Job, Plan, Units
from prmbench.benchmarks.calibration.schema import StateValues
from prmbench.benchmarks.judged import prompt_used, scoring_fields
from prmbench.data.prompts import PromptTemplate
from prmbench.data.rollout_labels import RolloutLabels, load_rollout_labels
from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.processes import Share
from prmbench.errors import UserError
from prmbench.results.schema import Subject, digest
from prmbench.reward_models.base import RewardModel, StepScores


@dataclass(frozen=True)
class LabelledStates:
    """Solutions with labels by rollouts, and how their problems were put to the policy.

    Attributes:
        labels: The solutions.
        prompt: The prompt template that the continuations were sampled with.
    """

    labels: list[RolloutLabels]
    prompt: PromptTemplate


def find_labels(request: DataRequest) -> LabelledStates:
    """Read labels by rollouts.

    Args:
        request: Its ``rollouts``, ``prompt`` and ``limit`` are read.

    Raises:
        UserError: As `load_rollout_labels` does, or a prompt that is not theirs.
    """
    labels = load_rollout_labels(request.rollouts, request.limit)
    return LabelledStates(labels, prompt_used(request.rollouts, request.prompt, "labels"))


def plan_states(job: Job, subject: Subject) -> Plan:
    """Plan the valuing of step ends.

    Args:
        job: The evaluation; ``data`` are `LabelledStates`.
        subject: The reward model, whose values are known to be logits.

    Raises:
        UserError: A solution longer than the model allows, or no step end that was continued.
    """
    model, data = job.model, job.data
    assert model is not None
    assert isinstance(data, LabelledStates)
    labels = [one for one in data.labels if one.sampled]
    if not labels:
        raise UserError("no step has an end that was continued: every solution is one finished step; nothing to value")
    encoded = [_encode(model, one, data.prompt) for one in labels]
    longest = max(range(len(encoded)), key=lambda i: len(encoded[i]))
    if model.max_length is not None and len(encoded[longest]) > model.max_length:
        raise UserError(
            f"solution {labels[longest].id} of {labels[longest].subset} has {len(encoded[longest]):,} tokens, the model "
            f"{model.max_length:,} positions; use another model, or label shorter solutions"
        )

    def units(_: Path, share: Share) -> Units:
        def work(indices: Sequence[int]) -> list[StateValues]:
            scores = model.score([encoded[i] for i in indices])
            return [make_item(labels[i], one) for i, one in zip(indices, scores, strict=True)]

        return Units(
            wanted={one.key: one.digest() for one in labels},
            keys=[[one.key] for one in labels],
            lengths=[len(ids) for ids in encoded],
            work=work,
            title="valuing",
        )

    return Plan(
        subject=subject,
        rules={"prompt": data.prompt.name},
        units=units,
        **scoring_fields(model, data.prompt, [one.digest() for one in labels], encoded, job.batch_tokens),
    )


def _encode(model: RewardModel, one: RolloutLabels, prompt: PromptTemplate) -> EncodedTrace:
    """Token ids of a solution: as the policy saw it, or laid out as the model's authors do."""
    if model.own_layout or not isinstance(model.encoder, TraceEncoder):
        return model.encode(one.problem, one.steps)
    return model.encoder.encode(prompt.render(one.problem), one.steps)


def make_item(one: RolloutLabels, scores: StepScores) -> StateValues:
    """Make the item of a solution.

    Args:
        one: The solution.
        scores: The scores of its steps.

    Raises:
        UserError: A score is no number.
    """
    own = scores.scores
    if own is None:
        assert scores.sums is not None
        own = np.cumsum(scores.sums)
    if not np.isfinite(own).all():
        raise UserError(f"solution {one.id} of {one.subset}: the model gave a value that is no number")
    problem = digest([one.problem, one.answer])[:16]
    n, t = one.sampled, np.cumsum(scores.n_tokens)
    return StateValues(
        one.subset, one.id, problem, one.digest(), t[:n], own[:n], np.array(one.successes[:n]), np.array(one.trials[:n])
    )


def check_states(place: Path, items: Sequence[object]) -> None:
    """Check that all items of a file have one sort of truth.

    Args:
        place: The file.
        items: Its items.

    Raises:
        UserError: Some are of rollouts, others of labels.
    """
    if len({isinstance(item, StateValues) for item in items}) > 1:
        raise UserError(f"{place}: holds items of rollouts and of labels by rollouts; keep them in two files")


def refuse_values(model: RewardModel, subject: Subject) -> None:
    """Refuse a step-valued model whose scores are not logits.

    Args:
        model: The reward model.
        subject: The same as the subject of an entry.

    Raises:
        UserError: They are not.
    """
    if not subject.fixed_thresholds:
        raise UserError(f"{model.source}: the scores of kind {json.dumps(subject.kind)} are no probability's logit")
