"""Solutions as states: the prompt with the tokens up to the end of each step.

What is sampled of a state depends on the state alone, so that solutions that share one share its continuations.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prmbench.data.problems import Problem
from prmbench.data.prompts import PromptTemplate, find_prompt
from prmbench.data.records import check_limit, find_file, read_records
from prmbench.data.rollouts import Rollout, prompt_of, read_rollouts
from prmbench.data.solutions import Solution, load_solutions
from prmbench.data.tokens import TraceEncoder, split_response
from prmbench.errors import ArgumentError, UserError

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Marked:
    """A solution with the number of its tokens at the end of every step.

    Attributes:
        id: Its name.
        problem: The problem, with its answer.
        text: The response.
        steps: Its steps.
        prompt: Token ids of the prompt. Shape [p].
        ids: Token ids of the response, without what ends it. Shape [t].
        ends: Tokens of the response up to the end of each step. Shape [n_steps].
        finished: Whether the response has ended after its last step.
    """

    id: str
    problem: Problem
    text: str
    steps: tuple[str, ...]
    prompt: Ids
    ids: Ids
    ends: Ids
    finished: bool

    def states(self) -> list[State]:
        """The states before the first step and after each step. Length n_steps + 1."""
        cuts = [0, *self.ends.tolist()]
        last = len(cuts) - 1
        return [
            State(self.problem, self.prompt, self.ids[:cut], self.text if self.finished and i == last else None)
            for i, cut in enumerate(cuts)
        ]


@dataclass(frozen=True)
class State:
    """A state to sample from.

    Attributes:
        problem: The problem, with its answer.
        prompt: Token ids of the prompt. Shape [p].
        ids: Token ids of the response so far. Shape [t].
        whole: The whole response where it is finished, which needs no continuation; else None.
    """

    problem: Problem
    prompt: Ids
    ids: Ids
    whole: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What names it: a hash of problem and answer, and one of the tokens and of whether they are finished."""
        content = self.prompt.tobytes() + b"|" + self.ids.tobytes() + (b"" if self.whole is None else b"|end")
        of = json.dumps([self.problem.problem, self.problem.answer]).encode()
        return hashlib.sha256(of).hexdigest()[:16], hashlib.sha256(content).hexdigest()[:16]


def load_marked(
    path: str | Path, encoder: TraceEncoder, prompt: str | None = None, limit: int | None = None
) -> tuple[list[Marked], str]:
    """Load what is to be labelled.

    Args:
        path: A file or run folder of rollouts, or a file of ``{problem, answer, steps}`` or ``{problem, answer, solution}``
            records.
        encoder: The policy's.
        prompt: Name of the prompt template; None: that of the rollouts' run, else ``boxed``.
        limit: Only the first this many; None: all.

    Returns:
        The solutions that have a token, and the name of the prompt template.

    Raises:
        UserError: The file cannot be read, a record is wrong or has no answer, or the rollouts were sampled with another prompt
            template.
    """
    check_limit(limit)
    is_file = not Path(path).is_dir()
    first = (
        next(read_records(find_file(path, "a file of solutions, or of rollouts")), ("", None))[1] if is_file else None
    )
    if is_file and not (isinstance(first, dict) and "completion" in first):
        name = prompt or "boxed"
        solutions = load_solutions(path, limit)
        for one in solutions:
            if one.answer is None:
                raise UserError(
                    f"{path}: solution '{one.id}' has no field 'answer'; continuations are verified against it"
                )
        return [mark_solution(encoder, find_prompt(name), one) for one in solutions], name
    used = prompt_of(path)
    if prompt is not None and used not in (None, prompt):
        raise ArgumentError("prompt", prompt, f"the rollouts were sampled with '{used}'; leave it out")
    name = used or prompt or "boxed"
    rollouts = [one for one in read_rollouts(path) if len(one.ids)]  # the prompt of others left no room
    return [mark_rollout(encoder, find_prompt(name), one) for one in rollouts[:limit]], name


def mark_solution(encoder: TraceEncoder, prompt: PromptTemplate, solution: Solution) -> Marked:
    """Encode a solution whose steps are given.

    Args:
        encoder: The policy's.
        prompt: How problems are put to the policy.
        solution: The solution, with its answer.
    """
    assert solution.answer is not None
    encoded = encoder.encode(prompt.render(solution.problem), solution.steps)
    problem = Problem(solution.id, solution.problem, solution.answer)
    text = encoder.options.separator.join(solution.steps)
    return _marked(
        solution.id, problem, text, solution.steps, encoded.ids, encoded.n_prompt, encoded.step_of, finished=True
    )


def mark_rollout(encoder: TraceEncoder, prompt: PromptTemplate, rollout: Rollout) -> Marked:
    """Find the steps of a rollout among its own token ids.

    Args:
        encoder: The policy's.
        prompt: How problems are put to the policy.
        rollout: The rollout.
    """
    before = encoder.prompt_ids(prompt.render(rollout.problem))
    finished = rollout.finish_reason == "stop"
    encoded = encoder.encode_response(before, rollout.completion, rollout.ids, finished=finished)
    steps = tuple(split_response(rollout.completion, encoder.options.separator))
    problem = Problem(rollout.id, rollout.problem, rollout.answer)
    name = f"{rollout.id}/{rollout.sample}"
    return _marked(
        name, problem, rollout.completion, steps, encoded.ids, len(before), encoded.step_of, finished=finished
    )


def _marked(
    name: str,
    problem: Problem,
    text: str,
    steps: tuple[str, ...],
    ids: Ids,
    n_prompt: int,
    step_of: Ids,
    *,
    finished: bool,
) -> Marked:
    """Put together what `Marked` has, one parameter a field."""
    inside = step_of >= 0
    ends = np.cumsum(np.bincount(step_of[inside], minlength=len(steps)))
    return Marked(name, problem, text, steps, ids[:n_prompt], ids[n_prompt:][inside], ends, finished)
