r"""Solutions: what a demonstrator writes, in three formats of one content.

    problem    start 7 a * 5 b - 3
    tagged     <simplify> a 7 * 4 = 5 / <combine> a 5 + 7 gives 12 / <advance> b 12 - 3 is 9 / <answer> \boxed{ 9 }
    plain      a 7 * 4 = 5 / a 5 + 7 gives 12 / b 12 - 3 is 9 / \boxed{ 9 }
    prose      7 times 4 = 5 and 5 plus 7 gives 12 / 12 minus 3 is 9 / \boxed{ 9 }

`/` stands for the step separator. A hard operation is done at once (`advance`) or split into two easier facts (`simplify`,
`combine`). Splitting goes wrong less often, so the two choices differ in value. The word before a result (`=`, `gives`, ...) is a
synonym: it is drawn anew each time and has no consequence. A policy answers in tagged text. Plain text is a mild shift, and
prose a harsh one: it has words for operators, no letters, and split operations in one paragraph.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from typing import Literal

from prmbench.miniature.world import LETTERS, SPLITS, Chain, World, is_hard

Format = Literal["tagged", "plain", "prose"]
FORMATS: tuple[Format, ...] = ("tagged", "plain", "prose")
SYSTEMS: dict[Format, str | None] = {"tagged": None, "plain": "untagged", "prose": "prose"}
"""The system message under which a policy was shown solutions of each format."""
Kind = Literal["advance", "simplify", "combine"]
TAGS = ("<advance>", "<simplify>", "<combine>", "<answer>")
WORDS = {"+": "plus", "-": "minus", "*": "times"}
CONNECTIVES = {"=": 0.55, "gives": 0.22, "is": 0.11, "makes": 0.06, "equals": 0.06}
"""The synonyms, and how often each is written."""
SPLIT_SHARE = 0.4
"""Share of the hard operations that a demonstration splits."""
FORMAT_TOKENS = frozenset({*TAGS, *CONNECTIVES, "and", "\n\n", "\\boxed{", "}", "<|end|>"})
"""Tokens that carry form and no content: action tags, synonyms, step separators, the answer's box, the end of turn."""

_LINK = "|".join(CONNECTIVES)
_NUMBER = "([0-9]{1,9})"
_PART = re.compile(rf"(?:([{LETTERS}]) )?{_NUMBER} ([-+*]|plus|minus|times) {_NUMBER} ({_LINK}) {_NUMBER}")
_ANSWER = re.compile(rf"\\boxed\{{ {_NUMBER} \}}")
_SYMBOLS = {word: symbol for symbol, word in WORDS.items()}


@dataclass(frozen=True)
class Part:
    """One computation of a solution.

    Attributes:
        letter: Letter of the operation; None where the format has no letters.
        left: The number on the operator's left.
        operator: ``+``, ``-`` or ``*``.
        right: The number on its right.
        link: The synonym before the result.
        result: The result, as it is stated.
        kind: What it does for its operation; None where the format does not say.
    """

    letter: str | None
    left: int
    operator: str
    right: int
    link: str
    result: int
    kind: Kind | None


@dataclass(frozen=True)
class Answer:
    """The last step of a solution.

    Attributes:
        value: The answer, as it is stated.
    """

    value: int


Content = tuple[list[Part], int]
"""The computations of a solution, and its answer."""


def demonstrate(problem: Chain, world: World, rng: random.Random, *, right: bool = False) -> Content:
    """Write a solution as the demonstrator does.

    Args:
        problem: The problem.
        world: Its world.
        rng: Source of random numbers.
        right: Whether every fact is stated right.

    Returns:
        The computations and the answer. What follows an error is computed from the wrong value.
    """

    def state(letter: str, left: int, operator: str, operand: int, kind: Kind) -> Part:
        fact = world.fact(left, operator, operand)
        wrong = rng.random() < fact.error and not right
        (link,) = rng.choices(list(CONNECTIVES), list(CONNECTIVES.values()))
        return Part(letter, left, operator, operand, link, fact.wrong if wrong else fact.right, kind)

    value, parts = problem.start, []
    for letter, (operator, operand) in zip(LETTERS, problem.operations, strict=False):
        if is_hard(operator, operand) and rng.random() < SPLIT_SHARE:
            factor, sign = SPLITS[operand]
            first = state(letter, value, "*", factor, "simplify")
            parts += [first, state(letter, first.result, sign, value, "combine")]
        else:
            parts.append(state(letter, value, operator, operand, "advance"))
        value = parts[-1].result
    return parts, value


def log_probability(problem: Chain, content: Content, world: World) -> float:
    """Return how likely the demonstrator is to write a solution, in nats. It does not depend on the format.

    Args:
        problem: The problem.
        content: A solution that `demonstrate` could have written.
        world: Its world.
    """
    total = 0.0
    for part in content[0]:
        operation = problem.operations[LETTERS.index(part.letter)] if part.letter else None
        if part.kind == "simplify":
            total += math.log(SPLIT_SHARE)
        elif part.kind == "advance" and operation and is_hard(*operation):
            total += math.log(1 - SPLIT_SHARE)
        results = dict(world.fact(part.left, part.operator, part.right).results())
        total += math.log(results[part.result]) + math.log(CONNECTIVES[part.link])
    return total


def write_steps(content: Content, form: Format) -> list[str]:
    """Write a solution in a format.

    Args:
        content: The computations, each with letter and kind, and the answer.
        form: The format.

    Returns:
        The steps.
    """
    parts, answer = content
    steps: list[str] = []
    for part in parts:
        operator = WORDS[part.operator] if form == "prose" else part.operator
        text = f"{part.left} {operator} {part.right} {part.link} {part.result}"
        if form == "prose" and part.kind == "combine":
            steps[-1] += f" and {text}"
        elif form == "prose":
            steps.append(text)
        else:
            steps.append(f"{part.letter} {text}" if form == "plain" else f"<{part.kind}> {part.letter} {text}")
    box = f"\\boxed{{ {answer} }}"
    return [*steps, f"{TAGS[-1]} {box}" if form == "tagged" else box]


def read_step(text: str) -> list[Part] | Answer | None:
    """Read a step of any format.

    Args:
        text: The step.

    Returns:
        Its computations, the answer, or None where it is neither.
    """
    tag, rest = None, text.strip()
    for name in TAGS:
        if rest.startswith(name):
            tag, rest = name, rest[len(name) :].strip()
            break
    if answer := _ANSWER.fullmatch(rest):
        return Answer(int(answer[1])) if tag in (None, TAGS[-1]) else None
    if tag == TAGS[-1]:
        return None
    pieces = [_PART.fullmatch(piece) for piece in rest.split(" and ")]
    if not all(pieces) or len(pieces) > 2 or (len(pieces) == 2 and tag):
        return None
    kinds: list[Kind | None] = [_kind(tag)] if len(pieces) == 1 else ["simplify", "combine"]
    return [
        Part(m[1], int(m[2]), _SYMBOLS.get(m[3], m[3]), int(m[4]), m[5], int(m[6]), kind)
        for m, kind in zip(pieces, kinds, strict=True)
        if m
    ]


def _kind(tag: str | None) -> Kind | None:
    kinds: tuple[Kind, ...] = ("advance", "simplify", "combine")
    return next((kind for kind in kinds if tag == f"<{kind}>"), None)
