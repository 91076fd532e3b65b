r"""Chains of modular arithmetic whose every step is checked exactly.

A problem is a start value and a list of operations. A solution carries them out one step at a time and ends with the answer:

    problem    start 7 then + 5 then * 3
    tagged     <assess> start 7 / <advance> 7 + 5 = 12 / <advance> 12 * 3 = 4 / <answer> \boxed{ 4 }
    plain      start 7 / 7 + 5 = 12 / 12 * 3 = 4 / \boxed{ 4 }

All numbers are modulo `World.modulus`, and `/` stands for the step separator. There are two formats of one content. A policy
answers in tagged text, and reward models are trained on its rollouts only. Plain text is the format shift that they meet on
labelled traces. It is not foreign to the weights, as it is not to a real backbone before it is tuned to tags: a share of the chats
shows it, under a system message that neither rollouts nor evaluation use.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Format = Literal["tagged", "plain"]
FORMATS: tuple[Format, ...] = ("tagged", "plain")
TAGS = ("<assess>", "<advance>", "<answer>")
FORMAT_TOKENS = frozenset({*TAGS, "\n\n", "\\boxed{", "}", "<|end|>"})
"""Tokens that carry form and no content: action tags, step separators, the answer's box, the end of turn."""
PLAIN_SYSTEM = "untagged"
"""The system message under which a policy was shown plain solutions."""
OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}

Split = Literal["train", "validation", "test"]

_STEP = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")
_START = re.compile(r"start (\d+)")
_ANSWER = re.compile(r"\\boxed\{ (\d+) \}")


@dataclass(frozen=True)
class World:
    """How difficult the world is.

    Attributes:
        modulus: Numbers are 0 to modulus - 1.
        min_ops: Smallest number of operations of a problem.
        max_ops: Largest number of operations of a problem.
    """

    modulus: int = 16
    min_ops: int = 3
    max_ops: int = 6

    def apply(self, value: int, operator: str, operand: int) -> int:
        """Carry out one operation.

        Args:
            value: The number it starts from.
            operator: ``+``, ``-`` or ``*``.
            operand: The number on the operator's right.
        """
        return OPERATORS[operator](value, operand) % self.modulus


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
        return " then ".join([f"start {self.start}", *(f"{op} {k}" for op, k in self.operations)])

    def values(self, world: World) -> list[int]:
        """Return the start value and the value after each operation.

        Args:
            world: The world that the problem is of.
        """
        values = [self.start]
        for operator, operand in self.operations:
            values.append(world.apply(values[-1], operator, operand))
        return values

    def answer(self, world: World) -> int:
        """Return the value after the last operation.

        Args:
            world: The world that the problem is of.
        """
        return self.values(world)[-1]

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
    first, *rest = text.split(" then ")
    start = _START.fullmatch(first)
    operations = [re.fullmatch(r"([-+*]) (\d+)", part) for part in rest]
    if start is None or not all(operations):
        raise ValueError(f"not a problem of the miniature: {text!r}")
    return Chain(int(start[1]), tuple((m[1], int(m[2])) for m in operations if m))


def draw_problem(world: World, rng: random.Random, split: Split) -> Chain:
    """Draw a random problem of a split.

    Args:
        world: The world.
        rng: Source of random numbers.
        split: The split.
    """
    while True:
        size = rng.randint(world.min_ops, world.max_ops)
        operations = tuple((rng.choice("+-*"), rng.randrange(1, world.modulus)) for _ in range(size))
        problem = Chain(rng.randrange(world.modulus), operations)
        if problem.split() == split:
            return problem


def step_text(value: int, operator: str, operand: int, result: int) -> str:
    """Write one step without its tag.

    Args:
        value: The number it starts from.
        operator: The operator.
        operand: The number on the operator's right.
        result: What it says the result is.
    """
    return f"{value} {operator} {operand} = {result}"


def solve(problem: Chain, world: World) -> list[str]:
    """Write the right solution without tags: the start, each operation, the answer.

    Args:
        problem: The problem.
        world: Its world.

    Returns:
        The steps.
    """
    values = problem.values(world)
    steps = [step_text(a, op, k, b) for a, (op, k), b in zip(values, problem.operations, values[1:], strict=False)]
    return [f"start {problem.start}", *steps, answer_text(values[-1])]


def answer_text(value: int) -> str:
    """Write the last step without its tag.

    Args:
        value: The answer.
    """
    return f"\\boxed{{ {value} }}"


def with_format(steps: Sequence[str], form: Format) -> list[str]:
    """Put action tags on steps, or take them off.

    Args:
        steps: The steps, in either format.
        form: The format that is wanted.
    """
    bare = [untagged(step) for step in steps]
    if form == "plain":
        return bare
    return [f"{_tag(step)} {step}" for step in bare]


def _tag(step: str) -> str:
    if step.startswith("start"):
        return TAGS[0]
    return TAGS[2] if step.startswith("\\boxed") else TAGS[1]


def untagged(step: str) -> str:
    """Return a step without its action tag.

    Args:
        step: The step, in either format.
    """
    for tag in TAGS:
        step = step.removeprefix(tag)
    return step.strip()


def first_wrong_step(problem: Chain, steps: Sequence[str], world: World) -> int:
    """Find the first step that is not what the solution so far calls for.

    Args:
        problem: The problem.
        steps: The solution's steps; tags are ignored.
        world: The problem's world.

    Returns:
        Its index, or -1 where every step is right.
    """
    return _walk(problem, steps, world)[0]


def error_kind(problem: Chain, steps: Sequence[str], world: World) -> str:
    """Say what is wrong with the first wrong step.

    Args:
        problem: The problem.
        steps: The solution's steps; tags are ignored.
        world: The problem's world.

    Returns:
        ``wrong result``, ``wrong operand``, ``wrong operator``, ``wrong value carried``, ``skipped operation``, ``repeated
        operation``, ``wrong answer`` (the answer is not the last result, or comes too soon), ``malformed``, or ``none``.
    """
    return _walk(problem, steps, world)[1]


def _walk(problem: Chain, steps: Sequence[str], world: World) -> tuple[int, str]:
    value, done = problem.start, 0
    for i, raw in enumerate(steps):
        step = untagged(raw)
        if i == 0:
            if step != f"start {problem.start}":
                return i, "wrong value carried" if _START.fullmatch(step) else "malformed"
            continue
        if answer := _ANSWER.fullmatch(step):
            right = done == len(problem.operations) and int(answer[1]) == value and i == len(steps) - 1
            return (-1, "none") if right else (i, "wrong answer")
        found = _STEP.fullmatch(step)
        if found is None:
            return i, "malformed"
        kind = _step_error(problem, done, value, (int(found[1]), found[2], int(found[3]), int(found[4])), world)
        if kind is not None:
            return i, kind
        value, done = int(found[4]), done + 1
    return len(steps) - 1, "malformed"  # it ends without an answer


def _step_error(problem: Chain, done: int, value: int, step: tuple[int, str, int, int], world: World) -> str | None:
    left, operator, operand, result = step
    operations = problem.operations
    wanted = operations[done] if done < len(operations) else None
    if (operator, operand) != wanted:
        if done + 1 < len(operations) and (operator, operand) == operations[done + 1]:
            return "skipped operation"
        if done > 0 and (operator, operand) == operations[done - 1]:
            return "repeated operation"
        return "wrong operand" if wanted and operator == wanted[0] else "wrong operator"
    if left != value:
        return "wrong value carried"
    return None if result == world.apply(left, operator, operand) else "wrong result"


# Errors that are put in on purpose.

INJECTED = (
    "wrong result",
    "wrong operand",
    "wrong value carried",
    "skipped operation",
    "repeated operation",
    "cancelled",
)
"""Kinds of error that `inject` makes.

All but ``cancelled`` propagate: what follows is computed from the wrong value. ``cancelled`` has a wrong result, and in a later
step a second one that restores the right value, so that the answer is right.
"""


def inject(problem: Chain, kind: str, world: World, rng: random.Random) -> list[str] | None:
    """Write a solution, without tags, with one error put in at a random step.

    The result's first wrong step is exactly where the error was put, and `first_wrong_step` finds it.

    Args:
        problem: The problem.
        kind: Kind of error, one of `INJECTED`.
        world: The problem's world.
        rng: Source of random numbers.

    Returns:
        The steps; None where this problem allows no such error at the step that was drawn.
    """
    operations = list(problem.operations)
    at = rng.randrange(len(operations))
    # Errors in which operations are carried out.
    if kind == "skipped operation":
        at = rng.randrange(len(operations) - 1)
        if operations[at] == operations[at + 1]:
            return None
        return _carry_out(problem, operations[:at] + operations[at + 1 :], world, {})
    if kind == "repeated operation":
        at = rng.randrange(1, len(operations))
        if operations[at] == operations[at - 1]:
            return None
        return _carry_out(problem, [*operations[:at], operations[at - 1], *operations[at:]], world, {})
    if kind == "wrong operand":
        operator, operand = operations[at]
        operations[at] = (operator, _other(operand, world, rng))
        return _carry_out(problem, operations, world, {})
    # Errors in what is carried over, and in results.
    if kind == "wrong value carried":
        return _carry_out(problem, operations, world, {}, carried=(at, _other(problem.values(world)[at], world, rng)))
    values = problem.values(world)
    wrong = {at: _other(values[at + 1], world, rng)}
    if kind == "cancelled":
        if at + 1 >= len(operations):
            return None
        back = rng.randrange(at + 1, len(operations))
        if _carried_value(problem, wrong, back, world) == values[back + 1]:
            return None  # it would cancel by itself
        wrong[back] = values[back + 1]
    return _carry_out(problem, operations, world, wrong)


def _other(value: int, world: World, rng: random.Random) -> int:
    return (value + rng.randrange(1, world.modulus)) % world.modulus


def _carried_value(problem: Chain, wrong: dict[int, int], until: int, world: World) -> int:
    value = problem.start
    for i, (operator, operand) in enumerate(problem.operations[: until + 1]):
        value = wrong.get(i, world.apply(value, operator, operand))
    return value


def _carry_out(
    problem: Chain,
    operations: Sequence[tuple[str, int]],
    world: World,
    wrong: dict[int, int],
    carried: tuple[int, int] | None = None,
) -> list[str]:
    """Write the steps of operations, with results replaced at `wrong`, and at `carried` (index, value) a step's first number."""
    value, steps = problem.start, [f"start {problem.start}"]
    for i, (operator, operand) in enumerate(operations):
        if carried is not None and carried[0] == i:
            value = carried[1]
        result = wrong.get(i, world.apply(value, operator, operand))
        steps.append(step_text(value, operator, operand, result))
        value = result
    return [*steps, answer_text(value)]
