"""The world: chains of modular arithmetic, whose facts a demonstrator gets wrong at known rates, each in one way of its own.

A problem is a start value and a list of operations, each named by a letter:

    start 7 a * 5 b - 3

All numbers are modulo `World.modulus`. Three operations in four multiply by 3, 5, 7 or 9 (hard). The others add or subtract 1 to 9.
A **fact** is one computation, such as ``7 * 5``. Whoever demonstrates solutions states a wrong result for a share of the times that
depends on the fact, and then always the same one: a *misconception*. The shares and the wrong results are drawn from a hash of the
fact, so the world is one and the same for every seed of a policy.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}
LETTERS = "abcdefgh"
SPLITS: dict[int, tuple[int, str]] = {3: (2, "+"), 5: (4, "+"), 7: (8, "-"), 9: (8, "+")}
"""How a hard operation may be split: 7 = 8 - 1, so ``v * 7`` is ``v * 8`` and then minus v."""
HARD_SHARE = 0.75
"""Share of the operations that are hard."""
HARD_ERRORS = ((0.3, 0.08), (0.4, 0.35), (0.3, 0.82))
"""Share of the hard facts, and how often a demonstration gets such a fact wrong."""
EASY_ERRORS = ((0.8, 0.02), (0.12, 0.2), (0.08, 0.7))
"""The same for all other facts."""

Split = Literal["train", "validation", "test"]

_START = re.compile(r"start (\d+)")
_OPERATION = re.compile(rf" ([{LETTERS}]) ([-+*]) (\d+)")


@dataclass(frozen=True)
class World:
    """How large the world is.

    Attributes:
        modulus: Numbers are 0 to modulus - 1.
        min_ops: Smallest number of operations of a problem.
        max_ops: Largest number of operations of a problem, at most 8.
    """

    modulus: int = 19
    min_ops: int = 2
    max_ops: int = 5

    def apply(self, left: int, operator: str, right: int) -> int:
        """Carry out one operation.

        Args:
            left: The number on the operator's left.
            operator: ``+``, ``-`` or ``*``.
            right: The number on its right.
        """
        return OPERATORS[operator](left, right) % self.modulus

    def fact(self, left: int, operator: str, right: int) -> Fact:
        """Look a fact up.

        Args:
            left: The number on the operator's left.
            operator: ``+``, ``-`` or ``*``.
            right: The number on its right.
        """
        return _fact(self, left, operator, right)


@dataclass(frozen=True)
class Fact:
    """One computation, and how demonstrations state it.

    Attributes:
        right: The right result.
        wrong: The result that is stated where it is got wrong.
        error: How often it is got wrong, 0 to 1.
    """

    right: int
    wrong: int
    error: float

    def results(self) -> tuple[tuple[int, float], ...]:
        """Return the results that are stated, each with its probability."""
        return (self.right, 1 - self.error), (self.wrong, self.error)


@cache
def _fact(world: World, left: int, operator: str, right: int) -> Fact:
    bits = hashlib.sha256(f"{world.modulus} {left} {operator} {right}".encode()).digest()
    draw, shift = int.from_bytes(bits[:4], "big") / 2**32, int.from_bytes(bits[4:8], "big")
    result = world.apply(left, operator, right)
    wrong = (result + 1 + shift % (world.modulus - 1)) % world.modulus
    for share, error in HARD_ERRORS if is_hard(operator, right) else EASY_ERRORS:
        if draw < share:
            return Fact(result, wrong, error)
        draw -= share
    raise AssertionError("the shares add up to 1")


def is_hard(operator: str, operand: int) -> bool:
    """Say whether an operation is hard, and may be split.

    Args:
        operator: The operator.
        operand: The number on its right.
    """
    return operator == "*" and operand in SPLITS


@dataclass(frozen=True)
class Chain:
    """A problem of this world.

    Attributes:
        start: The value that it starts from.
        operations: Operator and operand of each operation.
    """

    start: int
    operations: tuple[tuple[str, int], ...]

    def text(self) -> str:
        """Write the question, as the policy reads it."""
        named = zip(LETTERS, self.operations, strict=False)
        return " ".join([f"start {self.start}", *(f"{letter} {op} {k}" for letter, (op, k) in named)])

    def answer(self, world: World) -> int:
        """Return the value after the last operation.

        Args:
            world: The world that the problem is of.
        """
        value = self.start
        for operator, operand in self.operations:
            value = world.apply(value, operator, operand)
        return value

    def split(self) -> Split:
        """Return the split that the problem's text belongs to. It is always the same one, so that no problem is in two splits."""
        bucket = hashlib.sha256(self.text().encode()).digest()[0]
        return "test" if bucket < 26 else "validation" if bucket < 52 else "train"


def parse_problem(text: str) -> Chain:
    """Read a problem, the inverse of `Chain.text`.

    Args:
        text: The question.

    Raises:
        ValueError: It is no problem of this world.
    """
    start = _START.match(text)
    found = _OPERATION.findall(text)
    chain = Chain(int(start[1]), tuple((op, int(k)) for _, op, k in found)) if start else None
    if chain is None or len(found) > len(LETTERS) or chain.text() != text:
        raise ValueError(f"not a problem of the miniature: {text!r}")
    return chain


def draw_problem(world: World, rng: random.Random, split: Split) -> Chain:
    """Draw a random problem of a split.

    Args:
        world: The world.
        rng: Source of random numbers.
        split: The split.
    """
    while True:
        size = rng.randint(world.min_ops, world.max_ops)
        operations = tuple(
            ("*", rng.choice(list(SPLITS))) if rng.random() < HARD_SHARE else (rng.choice("+-"), rng.randint(1, 9))
            for _ in range(size)
        )
        problem = Chain(rng.randrange(world.modulus), operations)
        if problem.split() == split:
            return problem
