"""Answers that count as the same vote in a majority."""

from __future__ import annotations

from collections.abc import Sequence

from prmbench.verify.clean import clean, key
from prmbench.verify.easy import number
from prmbench.verify.extract import AnswerStyle, extract_answer

MAX_LENGTH = 400
"""Longer answers are compared as they are written: no answer is that long, and the text rules are not made for them."""


def answer_classes(completions: Sequence[str], correct: Sequence[bool], style: AnswerStyle) -> list[int]:
    """Class of each completion's answer, for the completions of one problem.

    Right answers are one class, because each was found equal to the same gold. Wrong ones are the same when they are the same plain
    number, or the same text after the rules of `prmbench.verify.clean`.

    Returns:
        Whole numbers from 0 in order of first appearance; -1 where no answer was found.
    """
    found: dict[str, int] = {}
    classes = []
    for completion, right in zip(completions, correct, strict=True):
        answer = extract_answer(completion, style)
        if answer is None and not right:
            classes.append(-1)
            continue
        name = "right" if right else _name(answer or "")
        classes.append(found.setdefault(name, len(found)))
    return classes


def _name(answer: str) -> str:
    if len(answer) > MAX_LENGTH:
        return f"text {answer}"
    cleaned = clean(answer)
    value = number(cleaned.body)
    return f"number {value.value}{'%' if value.percent else ''}" if value is not None else f"text {key(cleaned.body)}"
