"""Right continuations of states, and the labels that follow from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from prmbench.data.records import check_fields
from prmbench.policies.states import Marked
from prmbench.stats.rollout_labels import Rule, right_steps, share_intervals

ROUNDS = 4
"""How often an adaptive run looks at a state."""


@dataclass(frozen=True)
class LabelOptions:
    """What is sampled of each state, and how its label follows.

    Attributes:
        k: Continuations of each state at most.
        rule: How a label follows from the value (`prmbench.stats.rollout_labels.right_steps`).
        threshold: The threshold of the rule; None is 0.5, and 0 for ``gain``.
        adaptive: Whether a state is left when its label is decided.
    """

    k: int = 8
    rule: Rule = "any"
    threshold: float | None = None
    adaptive: bool = False

    @property
    def limit(self) -> float:
        """The threshold of the rule."""
        return (0.0 if self.rule == "gain" else 0.5) if self.threshold is None else self.threshold

    @property
    def looks(self) -> int:
        """How often a state is looked at."""
        return min(ROUNDS, self.k) if self.adaptive else 1


@dataclass(frozen=True)
class StateCount:
    """What came of a state.

    Attributes:
        problem: The hash of problem and answer.
        state: The hash of the tokens.
        successes: Right continuations.
        trials: Continuations.
        cut: Continuations that were cut for their length; they are not right.
        tokens: Tokens that were sampled.
    """

    problem: str
    state: str
    successes: int
    trials: int
    cut: int = 0
    tokens: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What names it within the run."""
        return self.problem, self.state

    def line(self) -> str:
        """It as one JSON line."""
        return json.dumps(self.__dict__) + "\n"


def parse_count(place: str, record: Any) -> StateCount:
    """Check one line of the states file.

    Args:
        place: Where it is from, for the message.
        record: The record.

    Raises:
        UserError: It is none. The message names the place and the field.
    """
    kinds: dict[str, type] = {"problem": str, "state": str, "successes": int, "trials": int, "cut": int, "tokens": int}
    return StateCount(**check_fields(place, record, kinds, "the counts of a state"))


def labelled(one: Marked, found: dict[tuple[str, str], StateCount], options: LabelOptions) -> dict[str, Any]:
    """Make the record of a labelled solution.

    Args:
        one: The solution.
        found: The counts of its states.
        options: How labels follow.

    Returns:
        A trace, as `prmbench.data.traces` reads it, with counts, values and intervals.
    """
    states = one.states()
    counts = [found[state.key] for state in states]
    successes, trials = (np.array([getattr(c, name) for c in counts]) for name in ("successes", "trials"))
    values = successes / trials
    low, high = share_intervals(successes, trials, options.looks)
    if one.finished:  # the end is known
        low[-1] = high[-1] = values[-1]
    right = right_steps(values[1:], float(values[0]), options.rule, options.limit).tolist()
    return {
        "id": one.id,
        "problem": one.problem.problem,
        "answer": one.problem.answer,
        "steps": one.steps,
        "finished": one.finished,
        "labels": ["right" if yes else "wrong" for yes in right],
        "label": right.index(False) if False in right else -1,
        "successes": successes[1:].tolist(),
        "trials": trials[1:].tolist(),
        "values": values[1:].tolist(),
        "low": low[1:].tolist(),
        "high": high[1:].tolist(),
        "start": [int(successes[0]), int(trials[0])],
    }
