"""Score completions with a reward model, for Best-of-N."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.base import Job, Plan, RunKeywords, Units
from prmbench.benchmarks.best_of_n.benchmark import BEST_OF_N, BestOfNOptions
from prmbench.benchmarks.best_of_n.metrics import checked_sizes
from prmbench.benchmarks.best_of_n.schema import CompletionScores
from prmbench.benchmarks.groups import grouped, problem_of
from prmbench.benchmarks.judged import Completions, encode_completions, has_no_token, judge, plan_fields
from prmbench.benchmarks.precision import precision_warning
from prmbench.benchmarks.runner import Finished, evaluate_alone
from prmbench.data.completions import StoredCompletion
from prmbench.data.prompts import PromptTemplate
from prmbench.engines.processes import Share
from prmbench.errors import UserError, argument
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.subject import describe


def evaluate_best_of_n(
    model: RewardModel,
    completions: Sequence[StoredCompletion],
    prompt: PromptTemplate,
    *,
    name: str,
    source: str,
    sizes: Sequence[int] | None = None,
    **run: Unpack[RunKeywords],
) -> Finished:
    """Score completions and leave a Best-of-N entry; see `evaluate_alone`.

    Args:
        model: The reward model.
        completions: The completions.
        prompt: How the problems were put to the policy; it also says where answers are.
        name: The subject's name on tables.
        source: The checkpoint as the user named it.
        sizes: The N to compute; None: powers of two up to the number of completions, and that number.
        **run: How it is run; see `RunKeywords`.
    """
    options = BestOfNOptions(tuple(sizes) if sizes else None)
    data = Completions(list(completions), prompt)
    return evaluate_alone(BEST_OF_N, Job(data=data, model=model, name=name, source=source, options=options, **run))


def plan_best_of_n(job: Job) -> Plan:
    """Plan the scoring of completions.

    Args:
        job: The evaluation; ``data`` are `Completions`.

    Raises:
        UserError: A completion longer than the model allows, or N above the number of completions.
    """
    model, data = job.model, job.data
    assert model is not None
    assert isinstance(data, Completions)
    # Completions as the model sees them. One without a token has nothing to score.
    completions = data.completions
    checked_sizes(Counter(map(problem_of, completions)).values(), job.options.sizes)
    encoded = encode_completions(model, completions, data.prompt)
    empty = [has_no_token(one, ids) for one, ids in zip(completions, encoded, strict=True)]
    subject = describe(model, job.name, job.source)

    # The units of work: one completion each, judged here, scored as a process asks for them.
    def units(_: object, share: Share) -> Units:
        judged = judge(data)

        def item(i: int, found: NDArray[np.float64]) -> CompletionScores:
            """Make an item of a score a step where the model is step-valued, else of a value a token."""
            one, trace = completions[i], encoded[i]
            if np.isnan(found).any():
                raise UserError(
                    f"completion {one.key[1]} of {one.subset}: the model gives a NaN score; try {argument('dtype', 'float32')}"
                )
            return CompletionScores(
                subset=one.subset,
                id=one.id,
                sample=one.sample,
                digest=one.digest(),
                correct=judged.correct[i],
                answer=judged.answers[i],
                length=0 if empty[i] else len(trace) - trace.n_prompt,
                n_tokens=np.zeros(0, dtype=np.int64) if empty[i] else trace.step_counts(),
                sums=None if model.step_valued else found if empty[i] else trace.step_sums(found),
                total=None if model.step_valued else float(found.sum()),
                scores=found if model.step_valued else None,
                weighted=None if model.step_valued or empty[i] else model.weighted_total(found),
            )

        def work(indices: Sequence[int]) -> list[CompletionScores]:
            run = [i for i in indices if not empty[i]]
            batch = [encoded[i] for i in run]
            if model.step_valued:
                values = [one.scores for one in model.score(batch)] if batch else []
            else:
                values = list(model.token_values(batch)) if batch else []
            found = {i: one for i, one in zip(run, values, strict=True) if one is not None}
            return [item(i, found.get(i, np.zeros(0))) for i in indices]

        return Units(
            wanted={one.key: one.digest() for one in completions},
            keys=[[one.key] for one in completions],
            lengths=[0 if none else len(ids) for ids, none in zip(encoded, empty, strict=True)],
            work=work,
        )

    def warn(items: Sequence[CompletionScores]) -> str | None:
        dtype = model.device_and_dtype()[1]
        return precision_warning(dtype, *_within_problems(items)) if model.kind == "implicit" else None

    return Plan(
        subject=subject,
        units=units,
        warn=warn,
        **plan_fields(model, data, encoded, job.batch_tokens),
    )


def _within_problems(items: Sequence[CompletionScores]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Each completion's sum beside the mean of its problem's, which is what reranking compares; and its tokens."""
    groups = grouped(items, problem_of)
    totals = [np.array([item.total for item in group], dtype=np.float64) for group in groups.values()]
    lengths = [item.length for group in groups.values() for item in group]
    return np.concatenate([one - one.mean() for one in totals]), np.array(lengths, dtype=np.int64)
