"""Step scores of a user's own solutions, without labels, and predicted first errors. They are written as they come."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.records import check_fields, check_whole
from prmbench.data.revisions import split_revision
from prmbench.data.solutions import Solution
from prmbench.data.tokens import EncodedTrace, ids_hash
from prmbench.engines.batching import default_batch_tokens
from prmbench.engines.missing import run_missing
from prmbench.errors import UserError, argument, naming_keywords
from prmbench.results.schema import digest
from prmbench.results.store import RunFolder
from prmbench.reward_models.base import RewardModel, StepScores
from prmbench.reward_models.subject import describe
from prmbench.scoring.threshold import Threshold, protocols_of
from prmbench.stats.protocols import STEP_PROTOCOL, token_protocol_scores
from prmbench.stats.thresholds import first_below
from prmbench.stats.votes import vote

FILE_STEM = "scores"


@dataclass(frozen=True)
class Scored:
    """The scores of one solution.

    Attributes:
        id: Id of the solution.
        digest: sha256 of the solution.
        n_tokens: Number of tokens of each step.
        scores: Score of each step by protocol, in logit space. Empty for a critic.
        votes: Votes of a critic, in place of scores.
        first_error: Index of the first step taken for wrong, -1 for none; None where there is no threshold, or where no vote
            holds a verdict.
    """

    id: str
    digest: str
    n_tokens: list[int]
    scores: dict[str, list[float]]
    votes: list[int | None] | None = None
    first_error: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What names it within a run."""
        return "", self.id

    def line(self) -> str:
        """Return it as one JSON line, with numbers exact."""
        return json.dumps(self.fields()) + "\n"

    def fields(self) -> dict[str, Any]:
        """Return what is written of it."""
        return {name: value for name, value in self.__dict__.items() if name != "votes" or value is not None}


def parse_scored(place: str, fields: Any) -> Scored:
    """Check one line of a scores file.

    Args:
        place: Where the line is, for errors.
        fields: The JSON value that it holds.

    Returns:
        The scored solution.

    Raises:
        UserError: It is none; the field is named.
    """
    kinds: dict[str, type] = {"id": str, "digest": str, "n_tokens": list, "scores": dict}
    one = Scored(
        **check_fields(place, fields, kinds, "a scored solution"),
        votes=fields.get("votes"),
        first_error=fields.get("first_error"),
    )
    n = len(one.n_tokens)
    for count in one.n_tokens:
        check_whole(place, "n_tokens", count, low=0)
    for name, values in one.scores.items():
        if not (isinstance(values, list) and len(values) == n and all(_is_score(v) for v in values)):
            raise UserError(f"{place}: field 'scores.{name}' must hold {n} numbers, one a step and none NaN")
    steps = [one.first_error, *(one.votes if isinstance(one.votes, list) else [one.votes])]
    for step in steps:
        if step is not None:
            check_whole(place, "votes or first_error", step, low=-1)
    return one


def _is_score(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value)


@naming_keywords
def score_solutions(
    model: RewardModel,
    solutions: Sequence[Solution],
    *,
    output: Path | None = None,
    threshold: Threshold | None = None,
    batch_tokens: int | None = None,
) -> list[Scored]:
    """Score the steps of solutions.

    Args:
        model: The model.
        solutions: The solutions.
        output: Folder whose ``scores.jsonl`` the scores are written into as they come; a call that was interrupted goes on there.
            None writes nothing.
        threshold: Below it a step is taken for wrong; None predicts no first errors.
        batch_tokens: Padded tokens of a batch; None for what suits the model on its device.

    Returns:
        The scores of each solution, in the order given.

    Raises:
        UserError: A solution is longer than the positions of the model, a score is NaN, or the folder cannot be used.
        KeyboardInterrupt: The call was interrupted; the message says what is kept.

    Examples:
        >>> model = prmbench.load_reward_model("CKPT", reference="SFT")
        >>> scored = prmbench.score_solutions(model, prmbench.load_solutions("my-solutions.jsonl"))
        >>> sorted(scored[0].scores)
        ['prefix', 'prefix_mean', 'process', 'process_mean']
    """
    encoded = [encode_solution(model, one) for one in solutions]
    lengths = [len(one) for one in encoded]
    device, dtype = model.device_and_dtype()
    budget = batch_tokens or model.batch_tokens or default_batch_tokens(device)

    # Batches that hold anything missing are scored whole, so that the numbers stay the same after a stop.
    def score_missing(have: set[str], keep: Callable[[list[Scored]], None]) -> None:
        missing = {i for i, one in enumerate(solutions) if one.id not in have}

        def work(indices: Sequence[int]) -> None:
            found = score_batch(model, [solutions[i] for i in indices], [encoded[i] for i in indices], threshold)
            keep([one for i, one in zip(indices, found, strict=True) if i in missing])

        run_missing("scoring", lengths, missing, budget, work)

    if output is None:
        scored: list[Scored] = []
        score_missing(set(), scored.extend)
        by_id = {one.id: one for one in scored}
        return [by_id[one.id] for one in solutions]
    # A folder is gone on with where everything that decides a score is the same.
    settings = {
        "subject": describe(model, "", model.source).model_dump(mode="json", exclude={"name", "source", "reference"}),
        "template": model.encoder.template_hash(),
        "numerics": {"device": device.partition(":")[0], "dtype": dtype, "batch_tokens": budget},
        "threshold": None if threshold is None else [threshold.value, threshold.protocol],
        "data": digest([one.digest() for one in solutions]),
        "tokens": ids_hash(one.ids for one in encoded),
        **_revisions(model),
    }
    with RunFolder(output, settings, parse_scored, stem=FILE_STEM) as folder:
        kept = list(folder.completed().values())
        _check_kept(output, kept, solutions, model, threshold)
        with folder.saying_what_is_kept(len(solutions), "solutions"):
            score_missing({one.id for one in kept}, folder.append)
        written = folder.completed()
        ordered = [written["", one.id] for one in solutions]
        folder.finish(ordered)
    return ordered


def _revisions(model: RewardModel) -> dict[str, Any]:
    """The revisions that were asked for, as a setting; nothing where none was."""
    named = {"model": model.source, "reference": model.facts.get("reference")}
    found = {role: split_revision(source)[1] for role, source in named.items() if source is not None}
    asked = {role: revision for role, revision in found.items() if revision is not None}
    return {"revisions": asked} if asked else {}


def encode_solution(model: RewardModel, solution: Solution) -> EncodedTrace:
    """Turn a solution into token ids.

    Args:
        model: The model.
        solution: The solution.

    Returns:
        Its token ids, as the model wants them.

    Raises:
        UserError: It is longer than the positions of the model, or has a token that the model does not know.
    """
    encoded = model.encode(solution.problem, solution.steps)
    if model.max_length is not None and len(encoded) > model.max_length:
        raise UserError(
            f"solution '{solution.id}' needs {len(encoded):,} tokens, the model has {model.max_length:,} positions; take it "
            "out, or use another model"
        )
    return encoded


def score_batch(
    model: RewardModel, solutions: Sequence[Solution], encoded: Sequence[EncodedTrace], threshold: Threshold | None
) -> list[Scored]:
    """Score solutions in one batch.

    Args:
        model: The model.
        solutions: The solutions.
        encoded: Their token ids, from `encode_solution`.
        threshold: Below it a step is taken for wrong; None predicts no first errors.

    Returns:
        The scores of each solution, in the order given.

    Raises:
        UserError: A score is NaN.
    """
    found = model.score(encoded)
    return [_scored(model, solution, one, threshold) for solution, one in zip(solutions, found, strict=True)]


def _check_kept(
    output: Path, kept: Sequence[Scored], solutions: Sequence[Solution], model: RewardModel, threshold: Threshold | None
) -> None:
    """Raise UserError where a kept line is not what scoring its solution now would write."""
    by_id = {one.id: one for one in solutions}
    names = set(protocols_of(model))
    for one in kept:
        solution = by_id.get(one.id)
        if solution is None or solution.digest() != one.digest:
            wrong = "it is not the solution of that id"
        elif len(one.n_tokens) != len(solution.steps):
            wrong = f"it has {len(one.n_tokens)} steps, the solution has {len(solution.steps)}"
        elif set(one.scores) != names or (one.votes is None) == model.predicts:
            wrong = f"it holds other scores than this model gives ({', '.join(sorted(names)) or 'votes'})"
        elif one.first_error != _first_error(one.scores, one.votes, threshold):
            wrong = "its first_error does not follow from its scores"
        else:
            continue
        raise UserError(f"{output}/{FILE_STEM}.jsonl: the line of '{one.id}': {wrong}; delete the line and run again")


def _first_error(
    scores: Mapping[str, Sequence[float]], votes: Sequence[int | None] | None, threshold: Threshold | None
) -> int | None:
    if votes is not None:
        return vote(votes)
    return None if threshold is None else first_below(np.asarray(scores[threshold.protocol]), threshold.value)


def _scored(model: RewardModel, solution: Solution, found: StepScores, threshold: Threshold | None) -> Scored:
    n_tokens = found.n_tokens.tolist()
    votes = None if found.votes is None else list(found.votes)
    scores: dict[str, NDArray[np.float64]] = {}
    if found.scores is not None:
        scores = {STEP_PROTOCOL: found.scores}
    elif found.sums is not None:
        scores = token_protocol_scores(found.sums, found.n_tokens, model.card.scale())
    if any(np.isnan(values).any() for values in scores.values()):
        dtype = argument("dtype", "float32")
        raise UserError(f"solution '{solution.id}': the model gives a NaN score; try {dtype}, and check the checkpoint")
    as_lists = {name: values.tolist() for name, values in scores.items()}
    first_error = _first_error(as_lists, votes, threshold)
    return Scored(solution.id, solution.digest(), n_tokens, as_lists, votes, first_error)
