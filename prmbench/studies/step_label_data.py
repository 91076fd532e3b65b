"""Training data of the study of step labels: solutions of one pool with labels of three sorts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prmbench.data.prompts import find_prompt
from prmbench.data.rollout_labels import LABELS_NAME
from prmbench.data.rollouts import Rollout
from prmbench.data.tokens import TraceEncoder, split_response
from prmbench.data.traces import load_traces
from prmbench.engines.sampling import SamplingParams
from prmbench.miniature.build import MAX_NEW_TOKENS, PROMPT, SEPARATOR, rollout_steps, write_lines
from prmbench.miniature.world import World, first_wrong_step, parse_problem
from prmbench.policies.labelling import budget, label
from prmbench.policies.state_counts import LabelOptions
from prmbench.policies.states import mark_rollout
from prmbench.results.store import write_atomically
from prmbench.studies.lab import Lab
from prmbench.studies.step_label_settings import StepLabelSettings

N_POOL = (1_200, 4)
"""Problems that reward models may be trained on, and solutions of each."""
N_EQUAL = 200
"""Problems of the comparison at equal data."""


@dataclass(frozen=True)
class TrainingData:
    """What a reward model is trained on.

    Attributes:
        path: The file: traces with labels, or rollouts.
        n_traces: Solutions.
        n_labels: Labels: of steps, or of whole solutions.
        right: Share of the labels that are right.
        tokens: Sampled tokens: of the solutions, and of the continuations that labelled them.
        agreement: Share of the steps up to the first wrong one whose label is the exact one; None where solutions have labels.
    """

    path: Path
    n_traces: int
    n_labels: int
    right: float
    tokens: int
    agreement: float | None

    def figures(self) -> dict[str, Any]:
        """Its numbers, for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "path"}


def training_data(lab: Lab, settings: StepLabelSettings) -> TrainingData:
    """Make what a reward model is trained on.

    Args:
        lab: The seed's data and models.
        settings: The labels and the budget.
    """
    # The solutions.
    pool = finished_by_problem(lab.sample_train(*N_POOL))
    n = N_EQUAL if settings.budget == "data" else affordable(lab, pool, settings.k or 0)
    solutions = list(itertools.chain.from_iterable(pool[:n]))
    tokens = sum(len(one.ids) for one in solutions)
    folder = lab.folder / "step-labels" / f"{settings.labels}-{settings.k or 0}-{n}"
    # Their labels.
    if settings.labels == "outcomes":
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "rollouts.jsonl", "".join(one.line() for one in solutions))
        right = float(np.mean([one.correct for one in solutions]))
        return TrainingData(folder / "rollouts.jsonl", len(solutions), len(solutions), right, tokens, None)
    exact = [exact_labels(one, lab.build.world) for one in solutions]
    if settings.labels == "exact":
        folder.mkdir(parents=True, exist_ok=True)
        path = write_lines(folder / LABELS_NAME, exact)
    else:
        tokens += _label(lab, solutions, settings.k or 0, folder)
        path = folder / LABELS_NAME
    # What there is of them.
    traces = load_traces(path)
    known = [one == "right" for trace in traces for one in trace.labels or () if one != "unknown"]
    same = [
        (mine == "right") == (true == "right")
        for trace, of in zip(traces, exact, strict=True)
        for mine, true in zip(trace.labels or (), of["labels"], strict=True)
        if true is not None
    ]
    return TrainingData(path, len(traces), len(known), float(np.mean(known)), tokens, float(np.mean(same)))


def finished_by_problem(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """Group the rollouts that ended by themselves and have no blank step.

    Args:
        rollouts: The rollouts of a split, those of a problem side by side.

    Returns:
        The rollouts of each problem that has any, in the order of the problems.
    """
    kept = (
        one
        for one in rollouts
        if one.finish_reason == "stop" and len(split_response(one.completion, SEPARATOR)) == len(rollout_steps(one)) > 0
    )
    return [list(group) for _, group in itertools.groupby(kept, key=lambda one: one.id)]


def exact_labels(rollout: Rollout, world: World) -> dict[str, Any]:
    """Label the steps of a rollout by the checker.

    Args:
        rollout: The rollout.
        world: The world of its problem.

    Returns:
        A trace, as `prmbench.data.traces` reads it. Steps after the first wrong one have no label.
    """
    steps = rollout_steps(rollout)
    first = first_wrong_step(parse_problem(rollout.problem), steps, world)
    end = len(steps) if first < 0 else first
    labels = ["right"] * end + ["wrong"] * (first >= 0) + [None] * (len(steps) - end - 1)
    return {"id": f"{rollout.id}/{rollout.sample}", "problem": rollout.problem, "steps": steps, "labels": labels}


def affordable(lab: Lab, pool: Sequence[Sequence[Rollout]], k: int) -> int:
    """Find how many problems can be sampled and labelled with the sampled tokens of the whole pool.

    Continuations are taken to be as long as what is left of the solutions.

    Args:
        lab: The seed's data and models.
        pool: The solutions of each problem.
        k: Continuations from the end of each step; 0 labels nothing.

    Returns:
        The number of problems, at least 1.
    """
    sampled = np.array([sum(len(one.ids) for one in group) for group in pool])
    if k == 0:
        return len(pool)
    encoder = lab.load_policy().encoder
    options = LabelOptions(k)
    labelled = [budget([_mark(encoder, one) for one in group], options, MAX_NEW_TOKENS).likely for group in pool]
    return max(1, int(np.searchsorted(np.cumsum(sampled + labelled), sampled.sum(), side="right")))


def _mark(encoder: TraceEncoder, rollout: Rollout) -> Any:
    return mark_rollout(encoder, find_prompt(PROMPT), rollout)


def _label(lab: Lab, solutions: Sequence[Rollout], k: int, folder: Path) -> int:
    """Label solutions by rollouts, when that is not done yet. Returns the sampled tokens."""
    policy = lab.load_policy()
    found = label(
        policy,
        [_mark(policy.encoder, one) for one in solutions],
        folder,
        prompt=PROMPT,
        options=LabelOptions(k),
        params=SamplingParams(max_new_tokens=MAX_NEW_TOKENS),
        seed=lab.build.seed,
        batch_tokens=65_536,
    )
    assert found is not None  # nothing is shared between processes
    return sum(one.tokens for one in found.values())
