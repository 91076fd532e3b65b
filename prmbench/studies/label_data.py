"""What the study of labels trains on: solutions, what is known of them, and the tokens that were sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import Rollout
from prmbench.miniature.build import PROMPT, rollout_steps
from prmbench.miniature.checker import first_wrong_step
from prmbench.miniature.split_data import TRAINING
from prmbench.miniature.true_model import values_after
from prmbench.miniature.world import World, parse_problem
from prmbench.policies.labelling import label
from prmbench.policies.state_counts import LabelOptions, labelled
from prmbench.policies.states import Marked, mark_rollout
from prmbench.studies.lab import N_OUTCOMES, Lab, kept
from prmbench.studies.label_settings import LabelSettings

N_BASE = 60
"""Problems of the base solutions; each has as many solutions as the pool has of it."""
BATCH_TOKENS = 65_536


@dataclass(frozen=True)
class LabelledProblem:
    """The solutions of a problem, labelled by rollouts.

    Attributes:
        records: A trace for each solution, as `prmbench label` writes it.
        tokens: Tokens that were sampled to continue them. A state that solutions share was continued once.
        start: Those of them that continue the state before the first step.
    """

    records: list[dict[str, Any]]
    tokens: int
    start: int


@dataclass(frozen=True)
class Chosen:
    """What a reward model is trained on.

    Attributes:
        solutions: The solutions, all of a problem or none.
        records: Labelled traces of them; none where outcomes are what is known.
        sampled: Tokens of the solutions.
        continued: Tokens of the continuations that labels were made of.
        start: Those of them that continue the state before the first step, which no soft label needs.
        affordable: Tokens that could have been spent; 0 without a budget.
    """

    solutions: list[Rollout]
    records: list[dict[str, Any]]
    sampled: int
    continued: int = 0
    start: int = 0
    affordable: int = 0


def problems_bought(costs: Sequence[int], budget: int) -> int:
    """Say how many problems, from the first one on, can be paid.

    Args:
        costs: Tokens of each problem, at least 1.
        budget: Tokens that may be spent.

    Returns:
        Their number; all of them where the budget is larger than their sum.
    """
    return int(np.searchsorted(np.cumsum(costs), budget, side="right"))


def by_problem(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """Group rollouts, which are in the order of their problems.

    Args:
        rollouts: The rollouts.
    """
    return [list(group) for _, group in groupby(rollouts, key=lambda one: one.id)]


def solution_tokens(rollouts: Sequence[Rollout]) -> int:
    """Count the tokens that were sampled for rollouts, what ends a turn among them.

    Args:
        rollouts: The rollouts.
    """
    return sum(len(one.ids) for one in rollouts)


def choose(lab: Lab, settings: LabelSettings) -> Chosen:
    """Choose the solutions that a reward model is trained on, and find out what is to be known of them.

    Args:
        lab: The seed's data and models.
        settings: How the reward model is trained.
    """
    pool = by_problem(lab.outcome_rollouts)
    base = pool[:N_BASE]
    # What may be spent: the base solutions and their continuations.
    affordable = 0
    if settings.budget:
        spent = sum(one.tokens for one in label_problems(lab, pool, settings.budget, 0))
        affordable = sum(map(solution_tokens, base)) + spent
    if settings.source == "rollouts":
        return _with_rollouts(lab, pool, settings.k, affordable)
    n = problems_bought([solution_tokens(group) for group in pool], affordable) if settings.budget else N_BASE
    solutions = [one for group in pool[:n] for one in group]
    records = _exact_records(solutions, lab.build.world) if settings.is_explicit else []
    return Chosen(solutions, records, solution_tokens(solutions), affordable=affordable)


def _with_rollouts(lab: Lab, pool: Sequence[list[Rollout]], k: int, affordable: int) -> Chosen:
    """Label the base solutions, or as many as can be paid."""
    found: list[LabelledProblem] = []
    costs: list[int] = []
    while len(found) < len(pool) and (not found or sum(costs) <= affordable):
        found += label_problems(lab, pool, k, len(found) // N_BASE)
        costs = [solution_tokens(group) + one.tokens for group, one in zip(pool, found, strict=False)]
    n = problems_bought(costs, affordable) if affordable else N_BASE
    solutions = [one for group in pool[:n] for one in group]
    return Chosen(
        solutions,
        [record for one in found[:n] for record in one.records],
        solution_tokens(solutions),
        sum(one.tokens for one in found[:n]),
        sum(one.start for one in found[:n]),
        affordable,
    )


def label_problems(lab: Lab, pool: Sequence[list[Rollout]], k: int, part: int) -> list[LabelledProblem]:
    """Label the solutions of `N_BASE` problems by continuations of their states. They are sampled once, then they are read.

    What is sampled of a state depends on the state alone, so it does not matter which problems are labelled together.

    Args:
        lab: The seed's data and models.
        pool: All solutions, by problem.
        k: Continuations of each state.
        part: Which problems: 0 for the first `N_BASE`, 1 for the next.
    """
    place = lab.folder / "labels" / "{}x{}-{}-k{}-{}.json".format(*N_OUTCOMES, N_BASE, k, part)

    def make() -> list[dict[str, Any]]:
        policy, options = lab.load_policy(), LabelOptions(k)
        groups = pool[part * N_BASE : (part + 1) * N_BASE]
        marked = [[mark_rollout(policy.encoder, find_prompt(PROMPT), one) for one in group] for group in groups]
        counts = label(
            policy,
            [one for group in marked for one in group],
            place.with_suffix(""),
            prompt=PROMPT,
            options=options,
            params=TRAINING,
            seed=lab.build.seed,
            batch_tokens=BATCH_TOKENS,
        )
        assert counts is not None  # nothing is shared between processes
        tokens = {key: one.tokens for key, one in counts.items()}
        return [
            {
                "records": [labelled(one, counts, options) for one in group],
                "tokens": _tokens(group, tokens),
                "start": tokens[group[0].states()[0].key],
            }
            for group in marked
        ]

    return [LabelledProblem(**fields) for fields in kept(place, make)]


def _tokens(group: Sequence[Marked], tokens: dict[tuple[str, str], int]) -> int:
    """Count the tokens of a problem's continuations, those of each different state once."""
    return sum(tokens[key] for key in {state.key for one in group for state in one.states()})


def _exact_records(solutions: Sequence[Rollout], world: World) -> list[dict[str, Any]]:
    """Label solutions exactly: the first wrong step, and the true value after every step."""
    records = []
    for one in solutions:
        problem, steps = parse_problem(one.problem), rollout_steps(one)
        if steps:
            records.append(
                {
                    "id": f"{one.id}/{one.sample}",
                    "problem": one.problem,
                    "steps": steps,
                    "label": first_wrong_step(problem, steps, world),
                    "values": values_after(problem, steps, world).tolist(),
                }
            )
    return records


def label_quality(records: Sequence[dict[str, Any]], world: World) -> dict[str, float]:
    """Compare labels by rollouts with the exact ones.

    Args:
        records: Traces that are labelled by rollouts.
        world: Their world.

    Returns:
        ``first_wrong``: share of the solutions in which the rule ``any`` finds the first wrong step, or finds that there is none.
        ``spearman``: rank correlation of the share of right continuations and the demonstrator's true value, over all steps but a
        solution's last.
    """
    found, shares, truth = [], [], []
    for one in records:
        problem, steps = parse_problem(one["problem"]), [step.strip() for step in one["steps"]]
        found.append(one["label"] == first_wrong_step(problem, steps, world))
        shares += one["values"][:-1]
        truth += values_after(problem, steps, world)[:-1].tolist()
    return {"first_wrong": float(np.mean(found)), "spearman": float(spearmanr(shares, truth).statistic)}
