"""Decisions: the places of a solution where what is written next changes its true value, and the two ways to go on from there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from prmbench.miniature.solutions import Content
from prmbench.miniature.values import Values
from prmbench.miniature.world import is_hard

DecisionKind = Literal["choice", "result", "misconception"]
TOKENS_A_PART = 8
"""Tokens of a computation in a tagged solution: tag, letter, left, operator, right, synonym, result, separator."""
RESULT_AT = 6
"""Place of the result among them."""


@dataclass(frozen=True)
class Decision:
    """A place of a tagged solution, and the two tokens that a demonstrator writes there.

    Attributes:
        at: Index of the token within the solution's tokens.
        kind: ``choice`` for how a hard operation is done; ``result`` for a fact that is stated right more often than wrong;
            ``misconception`` for a fact that is stated wrong more often than right.
        better: The token with the higher true value.
        worse: The other token.
        values: True value after the better token and after the worse one.
    """

    at: int
    kind: DecisionKind
    better: str
    worse: str
    values: tuple[float, float]

    @property
    def gap(self) -> float:
        """What the better token is worth above the worse one."""
        return self.values[0] - self.values[1]


def decisions(values: Values, content: Content) -> Iterator[Decision]:
    """Find the decisions of a tagged solution.

    Args:
        values: The true values of its problem.
        content: Computations that follow the problem's operations in order, whatever their results.

    Yields:
        The decisions in the order of their tokens. Those whose two tokens have one value are left out.
    """
    done, value = 0, values.problem.start
    for k, part in enumerate(content[0]):
        at = k * TOKENS_A_PART
        if part.kind != "combine" and is_hard(*values.problem.operations[done]):
            yield from _ordered(at, "choice", values.of_choices(done, value))
        fact = values.world.fact(part.left, part.operator, part.right)
        kind: DecisionKind = "misconception" if fact.error > 0.5 else "result"
        ways = {str(result): values.after(part, done, value, result) for result, _ in fact.results()}
        yield from _ordered(at + RESULT_AT, kind, ways)
        if part.kind != "simplify":
            done, value = done + 1, part.result


def _ordered(at: int, kind: DecisionKind, ways: dict[str, float]) -> Iterator[Decision]:
    (worse, low), (better, high) = sorted(ways.items(), key=lambda way: way[1])
    if high > low:
        yield Decision(at, kind, better, worse, (high, low))
