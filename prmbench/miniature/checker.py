"""The checker: the first step of a solution that is not what the problem and the solution so far call for, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prmbench.miniature.solutions import Answer, Content, Kind, Part, read_step
from prmbench.miniature.world import LETTERS, SPLITS, Chain, World, is_hard


@dataclass
class _State:
    """How far a solution is: the value, the number of operations done, and the first half of a split operation."""

    value: int
    done: int = 0
    half: int | None = None


def first_wrong_step(problem: Chain, steps: Sequence[str], world: World) -> int:
    """Find the first step that is not what the solution so far calls for.

    Args:
        problem: The problem.
        steps: The solution's steps, in any format.
        world: The problem's world.

    Returns:
        Its index, or -1 where every step is right. Without an answer the last step is wrong (0 where there are no steps); after
        the answer every step is.
    """
    return _walk(problem, steps, world)[0]


def error_kind(problem: Chain, steps: Sequence[str], world: World) -> str:
    """Say what is wrong with the first wrong step.

    Args:
        problem: The problem.
        steps: The solution's steps, in any format.
        world: The problem's world.

    Returns:
        ``wrong result``, ``wrong operand``, ``wrong operator``, ``wrong value carried``, ``skipped operation``, ``repeated
        operation``, ``wrong answer`` (the answer is not the last result, or comes too soon), ``malformed``, or ``none``.
    """
    return _walk(problem, steps, world)[1]


def is_well_formed(problem: Chain, steps: Sequence[str], world: World) -> bool:
    """Say whether a solution carries out the problem's operations in order and answers with the last result, right or wrong.

    Args:
        problem: The problem.
        steps: The solution's steps, in any format.
        world: The problem's world.
    """
    return _walk(problem, steps, world, results=False)[1] == "none"


def count_called_for(problem: Chain, steps: Sequence[str], world: World) -> int:
    """Count the steps, from the first one on, that the problem and the steps before call for, right or wrong in their results.

    Args:
        problem: The problem.
        steps: The solution's steps, in any format; it need not be finished.
        world: The problem's world.

    Returns:
        Their number; the answer is not counted.
    """
    state = _State(problem.start)
    for i, text in enumerate(steps):
        step = read_step(text)
        if step is None or isinstance(step, Answer):
            return i
        if any(_error(problem, state, part, world) not in (None, "wrong result") for part in step):
            return i
    return len(steps)


def read_content(problem: Chain, steps: Sequence[str]) -> Content | None:
    """Read a tagged or plain solution whole, with letter and kind of every computation.

    Args:
        problem: The problem.
        steps: The steps.

    Returns:
        The computations and the answer; None where a step is malformed, has no letter, or does not end in the answer.
    """
    parts: list[Part] = []
    for step in steps[:-1]:
        found = read_step(step)
        if not isinstance(found, list) or len(found) != 1 or found[0].letter is None:
            return None
        parts.append(found[0])
    last = read_step(steps[-1]) if steps else None
    if not isinstance(last, Answer):
        return None
    return [_with_kind(problem, part, parts[i - 1] if i else None) for i, part in enumerate(parts)], last.value


def _with_kind(problem: Chain, part: Part, before: Part | None) -> Part:
    if part.kind is not None:
        return part
    halved = before is not None and before.letter == part.letter and _is_half(problem, before)
    kind: Kind = "simplify" if _is_half(problem, part) else "combine" if halved else "advance"
    return Part(part.letter, part.left, part.operator, part.right, part.link, part.result, kind)


def _is_half(problem: Chain, part: Part) -> bool:
    at = LETTERS.index(part.letter or "a")
    operation = problem.operations[at] if at < len(problem.operations) else ("", 0)
    return is_hard(*operation) and (part.operator, part.right) == ("*", SPLITS[operation[1]][0])


def _walk(problem: Chain, steps: Sequence[str], world: World, *, results: bool = True) -> tuple[int, str]:
    """Find the first wrong step and its kind of error; `results` says whether a wrong result is one."""
    state = _State(problem.start)
    for i, text in enumerate(steps):
        step = read_step(text)
        if step is None:
            return i, "malformed"
        if isinstance(step, Answer):
            finished = state.done == len(problem.operations) and state.half is None
            if not finished or step.value != state.value:
                return i, "wrong answer"
            # Nothing is called for after the answer.
            return (-1, "none") if i == len(steps) - 1 else (i + 1, "malformed")
        for part in step:
            kind = _error(problem, state, part, world)
            if kind is not None and (results or kind != "wrong result"):
                return i, kind
    return max(len(steps) - 1, 0), "malformed"  # it ends without an answer


def _error(problem: Chain, state: _State, part: Part, world: World) -> str | None:
    """Judge a computation, and go on to the state after it where it is the one called for, right or wrong."""
    operations = problem.operations
    if state.done >= len(operations):
        last = len(operations) - 1
        again = part.letter == LETTERS[last] if part.letter else (part.operator, part.right) == operations[last]
        return "repeated operation" if again else "wrong operator"
    operator, operand = operations[state.done]
    split = SPLITS[operand] if is_hard(operator, operand) else None
    # What may come next: the second half of a split operation, or the operation itself, or its first half.
    if state.half is not None and split is not None:
        wanted = {"combine": (state.half, split[1], state.value)}
    else:
        wanted = {"advance": (state.value, operator, operand)}
        if split is not None:
            wanted["simplify"] = (state.value, "*", split[0])
    if part.kind is not None and part.kind not in wanted:
        return _other_operation(operations, state.done, part) or "malformed"
    if part.letter not in (None, LETTERS[state.done]):
        return _other_operation(operations, state.done, part) or "malformed"
    called = {kind: one for kind, one in wanted.items() if part.kind in (None, kind)}
    kinds = [kind for kind, one in called.items() if one[1:] == (part.operator, part.right)]
    if not kinds:
        return _mismatch(operations, state.done, part, called)
    if called[kinds[0]][0] != part.left:
        return "wrong value carried"
    # On to the next state.
    if kinds[0] == "simplify":
        state.half = part.result
    else:
        state.value, state.done, state.half = part.result, state.done + 1, None
    return None if part.result == world.apply(part.left, part.operator, part.right) else "wrong result"


def _other_operation(operations: Sequence[tuple[str, int]], done: int, part: Part) -> str | None:
    if part.letter is None:
        return None
    at = LETTERS.index(part.letter)
    if at == done + 1 and at < len(operations):
        return "skipped operation"
    return "repeated operation" if at == done - 1 else None


def _mismatch(
    operations: Sequence[tuple[str, int]], done: int, part: Part, called: dict[str, tuple[int, str, int]]
) -> str:
    """Name the error of a computation that is not the one called for."""
    if part.letter is None:
        if done + 1 < len(operations) and (part.operator, part.right) == operations[done + 1]:
            return "skipped operation"
        if done > 0 and (part.operator, part.right) == operations[done - 1]:
            return "repeated operation"
    if "combine" in called and part.operator == called["combine"][1]:
        return "wrong value carried"
    return "wrong operand" if any(part.operator == one[1] for one in called.values()) else "wrong operator"
