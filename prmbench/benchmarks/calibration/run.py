"""Value every rollout at five prefixes, to compare with its verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from prmbench.benchmarks.base import Job, Plan, RunKeywords, Units
from prmbench.benchmarks.calibration.benchmark import CALIBRATION
from prmbench.benchmarks.calibration.schema import PARTS, RolloutValues
from prmbench.benchmarks.judged import Completions, encode_completions, has_no_token, judge, plan_fields
from prmbench.benchmarks.runner import Finished, evaluate_alone
from prmbench.data.completions import StoredCompletion
from prmbench.data.prompts import PromptTemplate
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


def prefix_lengths(n: int) -> list[int]:
    """Tokens in the prefixes that end at each fifth of a response, rounded up.

    Args:
        n: Tokens of the response.
    """
    return [-(-n * i // PARTS) for i in range(1, PARTS + 1)]


def plan_calibration(job: Job) -> Plan:
    """Plan the valuing of rollouts.

    Args:
        job: The evaluation; ``data`` are `Completions`.

    Raises:
        UserError: An objective whose values are no logits, an IPVRM of unknown margin, a rollout longer than the model allows, or
            no rollout with a token.
    """
    model, data = job.model, job.data
    assert model is not None
    assert isinstance(data, Completions)
    subject = describe(model, job.name, job.source)
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
