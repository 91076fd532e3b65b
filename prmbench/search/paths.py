"""Paths of steps, and what a search asks of whoever samples and scores them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
End = Literal["stop", "length"]


@dataclass(frozen=True, eq=False)
class Task:
    """One search of one problem.

    Attributes:
        key: What its random numbers depend on besides the seed and the stream; the problem's id.
        problem: The problem's text.
        prompt: Token ids of the policy's prompt. int64, shape [p].
    """

    key: str
    problem: str = ""
    prompt: Ids = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Path:
    """A response so far, which grows by steps.

    Attributes:
        ids: Token ids of the response. int64, shape [t].
        ends: How many tokens there are after each step. Length: the number of steps.
        stream: Number of the stream of random numbers that its last step was sampled with.
        end: How the response ended: ``stop`` or ``length``; None: it goes on.
        score: Score of the response so far; the higher, the better. Minus infinity: nothing is known.
        kept: What the scorer keeps of it.
    """

    ids: Ids
    ends: tuple[int, ...] = ()
    stream: int = 0
    end: End | None = None
    score: float = -math.inf
    kept: Any = None

    @property
    def key(self) -> bytes:
        """What names the path within its search: its tokens."""
        return self.ids.tobytes()


ROOT = Path(np.zeros(0, dtype=np.int64))
"""A response of which nothing is written yet."""


@dataclass(frozen=True, eq=False)
class Growth:
    """A path that a search wants to have a step longer.

    Attributes:
        parent: The path, which has not ended.
        stream: Number of the stream of random numbers. A path that goes on with the stream of its parent takes the numbers that
            follow; so a path that never changes its stream is what plain sampling gives.
        whole: Whether it is wanted to its end, and not by a step.
    """

    parent: Path
    stream: int
    whole: bool = False


@dataclass
class Cost:
    """What was spent.

    Attributes:
        sampled: Tokens that the policy sampled.
        scored: Tokens that the reward model read.
        policy_flops: Floating-point operations of the policy; NaN where its shape is not known.
        model_flops: The same of the reward model, its reference included.
    """

    sampled: int = 0
    scored: int = 0
    policy_flops: float = 0.0
    model_flops: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    @property
    def flops(self) -> float:
        """Operations of the policy and of the reward model."""
        return self.policy_flops + self.model_flops


class Sampler(Protocol):
    """Grows paths."""

    def begin(self, task: Task) -> Cost:
        """Say what the prompt costs, which is run once.

        Args:
            task: The search.
        """

    def grow(self, wanted: Sequence[tuple[Task, Growth]]) -> list[tuple[Path, Cost]]:
        """Sample one more step of each path, or the rest of it.

        Args:
            wanted: The searches and what each wants.

        Returns:
            The longer paths without a score, and what each cost, in order.
        """

    def keep(self, live: Sequence[tuple[Task, Path]]) -> None:
        """Forget the state of all paths but some.

        Args:
            live: The paths that may still grow.
        """


class Scorer(Protocol):
    """Scores paths."""

    def begin(self, task: Task) -> Cost:
        """Say what the prompt costs, which is run once.

        Args:
            task: The search.
        """

    def score(self, grown: Sequence[tuple[Task, Path, Path]]) -> list[tuple[float, Any, Cost]]:
        """Score paths.

        Args:
            grown: The search, the path that was there before, with what was kept of it, and the longer one.

        Returns:
            The score of each longer path, what is kept of it, and what scoring it cost, in order.
        """

    def keep(self, live: Sequence[tuple[Task, Path]]) -> None:
        """Forget the state of all paths but some.

        Args:
            live: The paths that may still grow.
        """
