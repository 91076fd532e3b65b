"""Completions with their verdicts, as a reward model sees them: what Best-of-N and the calibration probe share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.base import DataRequest
from prmbench.benchmarks.groups import grouped, problem_of
from prmbench.benchmarks.precision import tell
from prmbench.data.completions import StoredCompletion, load_completions
from prmbench.data.prompts import PromptTemplate, find_prompt
from prmbench.data.rollouts import prompt_of, sets_of_runs
from prmbench.data.tokens import EncodedTrace, TraceEncoder, ids_hash, split_response
from prmbench.data.traces import data_hash
from prmbench.engines.batching import default_batch_tokens
from prmbench.errors import ArgumentError, UserError
from prmbench.progress import progress
from prmbench.reward_models.base import RewardModel
from prmbench.verify import Verdict, Verifier, VerifierOptions, verifier_version
from prmbench.verify.classes import answer_classes


@dataclass(frozen=True)
class Completions:
    """Completions of problems, and how the problems were put to the policy.

    Attributes:
        completions: The completions.
        prompt: The prompt template they were sampled with; it also says where answers are.
        verifier: The conventions that verdicts follow; None: the defaults.
    """

    completions: list[StoredCompletion]
    prompt: PromptTemplate
    verifier: VerifierOptions | None = None


def find_completions(request: DataRequest) -> Completions:
    """Read the completions that a user asks for.

    Args:
        request: Its ``rollouts``, ``prompt``, ``limit`` and ``verifier`` are read.

    Raises:
        UserError: As `load_completions` does, or a prompt that is not theirs.
    """
    rollouts = request.rollouts
    if not rollouts:
        raise ArgumentError("rollouts", None, "expected a file or a run folder of completions")
    completions = load_completions(rollouts, request.limit)
    return Completions(completions, prompt_used(sets_of_runs(rollouts), request.prompt, "rollouts"), request.verifier)


def prompt_used(paths: Iterable[str | Path], asked: str | None, what: str) -> PromptTemplate:
    """Find the prompt template that files were sampled with.

    Args:
        paths: The files, or the folders of their runs.
        asked: The template that the user names; None: the one that the runs recorded, ``boxed`` where none says it.
        what: What the files hold, for the error.

    Raises:
        ArgumentError: There are several, or the user names another one than the runs.
    """
    used = {found for path in paths if (found := prompt_of(path)) is not None}
    if len(used | ({asked} if asked else set())) > 1:
        raise ArgumentError(
            "prompt",
            None,
            f"the {what} were sampled with {' and '.join(sorted(used))}; leave it out, or evaluate them apart",
        )
    return find_prompt(asked or next(iter(used), "boxed"))


def problems_by_set(data: Completions) -> dict[str, int]:
    """How many problems each set of completions has.

    Args:
        data: The completions.
    """
    return Counter(subset for subset, _ in set(map(problem_of, data.completions)))


@dataclass(frozen=True)
class Judged:
    """Completions with their verdicts and answer classes, in one order.

    Attributes:
        correct: Whether each completion's answer is right.
        answers: The class of each completion's answer among its problem's; -1: it has none.
    """

    correct: list[bool]
    answers: list[int]


def judge(data: Completions) -> Judged:
    """Verify every completion's answer, and find which answers of a problem are the same.

    A truncated completion is wrong and has no answer.

    Args:
        data: The completions, where their answers are, and the conventions that verdicts follow.
    """
    completions, prompt = data.completions, data.prompt
    groups = grouped(range(len(completions)), lambda i: problem_of(completions[i]))
    answers = [-1] * len(completions)
    with Verifier(data.verifier) as verifier:
        with progress("verifying", len(completions), "completions") as advance:
            verdicts = verifier.verify(
                [c.text for c in completions], [c.answer for c in completions], style=prompt.style, on_done=advance
            )
        correct = [v == Verdict.CORRECT and not c.truncated for v, c in zip(verdicts, completions, strict=True)]
        for group in groups.values():
            texts, right = [completions[i].text for i in group], [correct[i] for i in group]
            for i, answer in zip(group, answer_classes(texts, right, prompt.style, verifier), strict=True):
                answers[i] = -1 if completions[i].truncated else answer
    return Judged(correct, answers)


def encode_completions(
    model: RewardModel, completions: Sequence[StoredCompletion], prompt: PromptTemplate
) -> list[EncodedTrace]:
    """Token ids of each completion: as sampled where the model's tokenizer reads the sampled ids the same, else its own.

    A model that scores marked steps sees the bare problem and the response's steps, laid out as its authors do.

    Args:
        model: The reward model.
        completions: The completions.
        prompt: How the problems were put to the policy.

    Raises:
        UserError: A model that gives no scores, or a completion longer than its positions.
    """
    if model.predicts:
        raise UserError(
            f"a {model.kind} names the first wrong step and scores nothing; use a reward model of another kind"
        )
    encoder = model.encoder
    if model.own_layout or not isinstance(encoder, TraceEncoder):
        separator = encoder.options.separator
        encoded = [model.encode(one.problem, split_response(one.text, separator)) for one in completions]
    else:
        prompts: dict[str, NDArray[np.int64]] = {}
        encoded = [_encode_one(encoder, one, prompt, prompts) for one in completions]
    full = [i for i, (one, ids) in enumerate(zip(completions, encoded, strict=True)) if not has_no_token(one, ids)]
    longest = max(full, key=lambda i: len(encoded[i]), default=None)
    if longest is not None and model.max_length is not None and len(encoded[longest]) > model.max_length:
        raise UserError(
            f"completion {completions[longest].key[1]} of {completions[longest].subset} has {len(encoded[longest]):,} tokens, "
            f"the model {model.max_length:,} positions; use another model, or sample shorter completions"
        )
    return encoded


def _encode_one(
    encoder: TraceEncoder, one: StoredCompletion, prompt: PromptTemplate, prompts: dict[str, NDArray[np.int64]]
) -> EncodedTrace:
    if one.problem not in prompts:
        prompts[one.problem] = encoder.prompt_ids(prompt.render(one.problem))
    ids = one.ids
    if ids is not None and (
        int(ids.max(initial=0)) >= len(encoder.tokenizer)
        or encoder.tokenizer.decode(ids, skip_special_tokens=True) != one.text
    ):
        ids = None
    return encoder.encode_response(prompts[one.problem], one.text, ids, finished=not one.truncated)


def has_no_token(one: StoredCompletion, ids: EncodedTrace) -> bool:
    """Whether nothing was sampled, because the prompt left no room: there is nothing to score.

    Args:
        one: The completion.
        ids: Its token ids.
    """
    return len(ids) == ids.n_prompt or (not one.text and one.ids is not None and not len(one.ids))


def plan_fields(
    model: RewardModel, data: Completions, encoded: Sequence[EncodedTrace], batch_tokens: int | None
) -> dict[str, Any]:
    """Fields of a `Plan` that scores completions with a reward model.

    Args:
        model: The reward model.
        data: The completions.
        encoded: Their token ids.
        batch_tokens: Padded tokens of a batch; None: what suits the device.
    """
    sources = [one.digest() for one in data.completions]
    rules = {"prompt": data.prompt.name, "verifier": verifier_version(data.verifier)}
    return {**scoring_fields(model, data.prompt, sources, encoded, batch_tokens), "rules": rules}


def scoring_fields(
    model: RewardModel,
    prompt: PromptTemplate,
    sources: Sequence[str],
    encoded: Sequence[EncodedTrace],
    batch_tokens: int | None,
) -> dict[str, Any]:
    """Fields of a `Plan` that a reward model decides, whatever it scores.

    Args:
        model: The reward model.
        prompt: How the problems were put to the policy. What of it the model does not know is told.
        sources: Hashes of what is scored.
        encoded: Its token ids.
        batch_tokens: Padded tokens of a batch; None: what suits the device.
    """
    device, dtype = model.device_and_dtype()
    remarks = model.prompt_remarks(prompt)
    tell(remarks)
    return {
        "told": [*model.warnings, *remarks],
        "encoder": model.encoder,
        "settings": {"data": data_hash(sources), "tokens": ids_hash(one.ids for one in encoded)},
        "engine": model.engine,
        "numerics": (device, dtype),
        "batch_tokens": batch_tokens or default_batch_tokens(device),
        "cached_tokens": lambda: model.cached_tokens,
    }
