"""Errors that are put into solutions on purpose."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from prmbench.miniature.solutions import Content, Part, demonstrate
from prmbench.miniature.world import Chain, World

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


def inject(problem: Chain, kind: str, world: World, rng: random.Random) -> Content | None:
    """Write a solution with one error put in at a random operation. All facts are stated right but the one that is not.

    The result's first wrong step is exactly where the error was put, and `prmbench.miniature.checker.first_wrong_step` finds it.

    Args:
        problem: The problem.
        kind: Kind of error, one of `INJECTED`.
        world: The problem's world.
        rng: Source of random numbers.

    Returns:
        The computations and the answer; None where this problem allows no such error at the place that was drawn.
    """
    groups = _by_operation(demonstrate(problem, world, rng, right=True)[0])
    at = rng.randrange(len(groups))
    wrong: dict[int, int] = {}
    # Errors in which operations are carried out: their letters and plans are moved.
    if kind == "skipped operation":
        if at + 1 >= len(groups):
            return None
        del groups[at]
    elif kind == "repeated operation":
        groups.insert(at + 1, groups[at])
    elif kind == "wrong operand":
        last = groups[at][-1]
        if last.kind != "advance":
            return None
        groups[at] = [replace(last, right=_other(last.right, world, rng))]
        if (last.operator, groups[at][0].right) in (("*", 2), ("*", 4), ("*", 8)):
            return None  # it would read as the first half of a split
    elif kind == "wrong value carried":
        value = groups[at - 1][-1].result if at else problem.start
        return _carry_out(problem.start, groups, world, {}, carried=(at, _other(value, world, rng)))
    # Errors in results.
    else:
        right = groups[at][-1].result
        wrong[at] = _other(right, world, rng)
        if kind == "cancelled":
            if at + 1 >= len(groups):
                return None
            back = rng.randrange(at + 1, len(groups))
            restored = groups[back][-1].result
            if _group_results(_carry_out(problem.start, groups, world, wrong)[0])[back] == restored:
                return None  # it would cancel by itself
            wrong[back] = restored
    return _carry_out(problem.start, groups, world, wrong)


def _by_operation(parts: Sequence[Part]) -> list[list[Part]]:
    groups: list[list[Part]] = []
    for part in parts:
        if part.kind == "combine":
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _group_results(parts: Sequence[Part]) -> list[int]:
    return [group[-1].result for group in _by_operation(parts)]


def _other(value: int, world: World, rng: random.Random) -> int:
    return (value + rng.randrange(1, world.modulus)) % world.modulus


def _carry_out(
    start: int,
    groups: Sequence[Sequence[Part]],
    world: World,
    wrong: dict[int, int],
    carried: tuple[int, int] | None = None,
) -> Content:
    """Compute planned operations anew, with last results replaced at `wrong`, and at `carried` (index, value) the first number."""
    value, parts = start, []
    for i, group in enumerate(groups):
        if carried is not None and carried[0] == i:
            value = carried[1]
        left = value
        for j, part in enumerate(group):
            operand = value if part.kind == "combine" else part.right
            result = world.apply(left, part.operator, operand)
            if j == len(group) - 1:
                result = wrong.get(i, result)
            parts.append(replace(part, left=left, right=operand, result=result))
            left = result
        value = left
    return parts, value
