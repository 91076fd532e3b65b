"""Value every rollout at five prefixes, to compare with its verdict."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from prmbench.benchmarks.base import DataRequest, Job, Plan, RunKeywords, Units
from prmbench.benchmarks.calibration.benchmark import CALIBRATION
from prmbench.benchmarks.calibration.schema import PARTS, RolloutValues
from prmbench.benchmarks.calibration.states import LabelledStates, find_labels, plan_states, refuse_values
from prmbench.benchmarks.judged import (
    Completions,
    encode_completions,
    find_completions,
    has_no_token,
    judge,
    plan_fields,
    problems_by_set,
)
from prmbench.benchmarks.runner import Finished, evaluate_alone
from prmbench.data.completions import StoredCompletion
from prmbench.data.prompts import PromptTemplate
from prmbench.data.rollout_labels import is_labelled
from prmbench.engines.processes import Share
from prmbench.errors import UserError, argument
from prmbench.results.schema import Subject
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.objectives import Convention, meaning_of
from prmbench.reward_models.subject import describe


def evaluate_calibration(
    model: RewardModel,
    completions: Sequence[StoredCompletion],
    prompt: PromptTemplate,
    *,
    name: str,
    source: str,
    **run: Unpack[RunKeywords],
) -> Finished:
    """Value rollouts and leave a calibration probe's entry; see `evaluate_alone`.

    Rollouts without a token (their prompt left no room) have no prefix, and are left out.

    Args:
        model: The reward model.
        completions: The rollouts.
        prompt: How the problems were put to the policy; it also says where answers are.
        name: The subject's name on tables.
        source: The checkpoint as the user named it.
        **run: How it is run; see `RunKeywords`.
    """
    data = Completions(list(completions), prompt)
    return evaluate_alone(CALIBRATION, Job(data=data, model=model, name=name, source=source, **run))


def find_truth(request: DataRequest) -> Completions | LabelledStates:
    """Read what values are compared with: rollouts, or labels by rollouts.

    Args:
        request: Its ``rollouts``, ``prompt``, ``limit`` and ``verifier`` are read.

    Raises:
        UserError: As `find_completions` and `find_labels` do, or some are rollouts and others labels.
    """
    labelled = [is_labelled(path) for path in request.rollouts]
    if any(labelled) and not all(labelled):
        raise UserError("some of the rollouts are labels of steps, others are not; evaluate them apart")
    return find_labels(request) if any(labelled) else find_completions(request)


def truths_by_set(data: Completions | LabelledStates) -> dict[str, int]:
    """How many problems each set has.

    Args:
        data: What `find_truth` gave.
    """
    if isinstance(data, Completions):
        return problems_by_set(data)
    return Counter(subset for subset, _ in {(one.subset, one.problem) for one in data.labels})


def prefix_lengths(n: int) -> list[int]:
    """Tokens in the prefixes that end at each fifth of a response, rounded up.

    Args:
        n: Tokens of the response.
    """
    return [-(-n * i // PARTS) for i in range(1, PARTS + 1)]


def plan_calibration(job: Job) -> Plan:
    """Plan the valuing of rollouts.

    Args:
        job: The evaluation; ``data`` are `Completions`, or `LabelledStates`.

    Raises:
        UserError: An objective whose values are no logits, an IPVRM of unknown margin, a rollout longer than the model allows, or
            no rollout with a token.
    """
    model, data = job.model, job.data
    assert model is not None
    subject = describe(model, job.name, job.source)
    if isinstance(data, LabelledStates):
        if subject.step_valued:
            refuse_values(model, subject)
        else:
            _check_link(model, subject)
        return plan_states(job, subject)
    assert isinstance(data, Completions)
    _check_link(model, subject)
    pairs = zip(data.completions, encode_completions(model, data.completions, data.prompt), strict=True)
    valued = [(one, ids) for one, ids in pairs if not has_no_token(one, ids)]  # the others have no prefix
    if not valued:
        raise UserError("no rollout has a token; nothing to value")
    kept = dataclasses.replace(data, completions=[one for one, _ in valued])
    encoded = [ids for _, ids in valued]

    def units(_: Path, share: Share) -> Units:
        judged = judge(kept)

        def work(indices: Sequence[int]) -> list[RolloutValues]:
            items = []
            for i, values in zip(indices, model.token_values([encoded[i] for i in indices]), strict=True):
                one, t = kept.completions[i], prefix_lengths(len(values))
                upto = np.cumsum(values)
                sums = [float(upto[k - 1]) for k in t]
                items.append(RolloutValues(one.subset, one.id, one.sample, one.digest(), judged.correct[i], t, sums))
            return items

        return Units(
            wanted={one.key: one.digest() for one in kept.completions},
            keys=[[one.key] for one in kept.completions],
            lengths=[len(ids) for ids in encoded],
            work=work,
            title="valuing",
        )

    return Plan(subject=subject, units=units, **plan_fields(model, kept, encoded, job.batch_tokens))


def _check_link(model: RewardModel, subject: Subject) -> None:
    """Raise UserError unless the objective's values are a probability's logit."""
    if Convention.of(subject).margin is not None:
        return
    if meaning_of(subject.objective, subject.kind).is_logit:
        raise UserError(
            f"{model.source}: nothing says its margin, which the link needs; pass {argument('margin')} (0: none)"
        )
    gives = f"objective '{subject.objective}' gives" if subject.objective else "nothing says its objective; most give"
    raise UserError(
        f"{model.source}: {gives} values that are no probability's logit; calibration is defined for ipvrm and implicit_prm "
        f"(pass {argument('objective')} where the card does not say)"
    )
