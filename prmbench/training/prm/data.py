"""Traces to train an explicit process reward model on: token ids, where scores are read, and a target for each step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from prmbench.data.prompts import PromptTemplate
from prmbench.data.records import find_file, read_records, stem
from prmbench.data.traces import Trace, read_traces, with_labels
from prmbench.errors import UserError
from prmbench.reward_models.marks import MarkEncoder

Supervision = Literal["labels", "values", "counts"]
"""What steps are trained on: labels; soft labels; or how many of how many continuations were right."""

TARGETS = {"right": 1.0, "neutral": 1.0, "wrong": 0.0}
"""Targets by label; a step of unknown label has none. Neutral steps count as right, as in PRM800K's own training."""


@dataclass(frozen=True)
class LabelledTrace:
    """A trace as a model sees it.

    Attributes:
        problem: The problem, which is kept back as a whole.
        ids: Token ids. Shape [length].
        marks: Positions that the scores of the steps with a target are read at. Shape [n].
        targets: Probability that each of these steps is right; of counts the share of right continuations. float32, shape [n].
        numbers: Number of each of these steps in the trace, from 0. Shape [n].
        trials: Continuations that each target is the share of; 1 for labels and soft labels. Shape [n].
    """

    problem: str
    ids: NDArray[np.int64]
    marks: NDArray[np.int64]
    targets: NDArray[np.float32]
    numbers: NDArray[np.int64]
    trials: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class LabelledTraces:
    """Traces of a file, and what was left out.

    Attributes:
        traces: The traces.
        n_steps: Their steps with a target.
        right: Mean target of these steps.
        n_overlong: Traces that are longer than the limit.
        n_unlabelled: Traces without a step of known label.
    """

    traces: list[LabelledTrace]
    n_steps: int
    right: float
    n_overlong: int
    n_unlabelled: int

    def sentence(self) -> str:
        """Say the counts in words."""
        return (
            f"{len(self.traces):,} traces with {self.n_steps:,} labelled steps, {self.right:.1%} right (left out: "
            f"{self.n_overlong:,} traces too long, {self.n_unlabelled:,} without a labelled step)"
        )


def load_labelled(
    path: str | Path,
    encoder: MarkEncoder,
    prompt: PromptTemplate,
    *,
    max_length: int,
    read: Supervision = "labels",
    strict: bool = False,
) -> LabelledTraces:
    """Load a file of traces whose steps are labelled.

    Args:
        path: The file, in any format that `prmbench.data.traces` reads.
        encoder: What shows traces to the model.
        prompt: How problems are put.
        max_length: Longest trace in tokens; longer ones are left out.
        read: What the targets are made of: the labels of the records, their ``values``, or their ``successes`` and ``trials``.
        strict: Whether a trace that is too long, or has no step of known label, is an error.

    Returns:
        The traces.

    Raises:
        UserError: The file cannot be read, a record is wrong or lacks what the targets are made of, or no trace is left.
    """
    file = find_file(path, "a file of traces with a label for every step")
    kept, n_overlong, n_unlabelled = [], 0, 0
    for place, trace in read_traces(read_records(file), stem(file)):
        targets, trials = _targets(place, trace, read)
        known = ~np.isnan(targets)
        encoded = encoder.encode(prompt.render(trace.problem), trace.steps)
        if strict and (len(encoded) > max_length or not known.any()):
            what = (
                f"is {len(encoded):,} tokens long, max_length is {max_length:,}"
                if known.any()
                else "has no labelled step"
            )
            raise UserError(f"{place}: {what}; leave strict out to pass such traces over")
        if len(encoded) > max_length:
            n_overlong += 1
        elif not known.any():
            n_unlabelled += 1
        else:
            numbers = np.flatnonzero(known)
            kept.append(
                LabelledTrace(trace.problem, encoded.ids, encoded.marks[known], targets[known], numbers, trials[known])
            )
    if not kept:
        raise UserError(
            f"{file}: no trace is left to train on ({n_overlong:,} are longer than {max_length:,} tokens, {n_unlabelled:,} have no "
            "step of known label)"
        )
    every = np.concatenate([one.targets for one in kept])
    return LabelledTraces(kept, len(every), float(every.mean()), n_overlong, n_unlabelled)


def _targets(place: str, trace: Trace, read: Supervision) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The target of each step, NaN where there is none, and the continuations that it is the share of."""
    once = np.ones(len(trace.steps), dtype=np.int64)
    if read == "labels":
        return np.array([TARGETS.get(one, np.nan) for one in with_labels(trace).labels or ()], dtype=np.float32), once
    if read == "values":
        if trace.values is None:
            raise UserError(
                f"{place}: has no field 'values', the soft labels that step_soft and prefix_gain are trained on; `prmbench label` "
                "makes them, and step_ce is trained on labels"
            )
        return np.array([np.nan if value is None else value for value in trace.values], dtype=np.float32), once
    if trace.counts is None:
        raise UserError(
            f"{place}: has no fields 'successes' and 'trials', the counts that beta_binomial is trained on; `prmbench label` makes "
            "them, and step_soft is trained on values"
        )
    pairs = np.array([(0, 0) if one is None else one for one in trace.counts], dtype=np.int64)
    share = np.divide(pairs[:, 0], pairs[:, 1], out=np.full(len(pairs), np.nan), where=pairs[:, 1] > 0)
    return share.astype(np.float32), pairs[:, 1]


class Named(Protocol):
    """What is of a problem."""

    @property
    def problem(self) -> str:
        """The problem."""


Item = TypeVar("Item", bound=Named)


def split_problems(traces: Sequence[Item], held_out: int, seed: int) -> tuple[list[Item], list[Item]]:
    """Keep traces, or groups of them, back. All of a problem are on one side.

    Args:
        traces: The traces, or groups.
        held_out: Number to keep back at least; 0 keeps none. Whole problems are drawn until there are as many.
        seed: Seed of the draw, which does not depend on the order of the file.

    Returns:
        What to train on, and what is kept back.
    """
    problems = sorted({one.problem for one in traces})
    random.Random(seed).shuffle(problems)
    count = dict.fromkeys(problems, 0)
    for one in traces:
        count[one.problem] += 1
    held: set[str] = set()
    n = 0
    for name in problems:
        if n >= held_out:
            break
        held.add(name)
        n += count[name]
    return [one for one in traces if one.problem not in held], [one for one in traces if one.problem in held]
