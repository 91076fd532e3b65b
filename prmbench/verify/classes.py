"""Answers that count as the same vote in a majority."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from prmbench.verify import Verifier
from prmbench.verify.clean import clean, key, word
from prmbench.verify.decide import MAX_QUICK, Comparison, decide, expressions
from prmbench.verify.extract import AnswerStyle, extract_answer
from prmbench.verify.numbers import number
from prmbench.verify.pool import Job

_NEAR = 1e-3
"""Answers whose sizes differ by a larger share are not compared."""


def answer_classes(
    completions: Sequence[str], correct: Sequence[bool], style: AnswerStyle, verifier: Verifier
) -> list[int]:
    """Group the completions of one problem by their answers, with the equality that verdicts follow.

    Right answers are one class, because each was found equal to the same gold. Wrong ones are the same when each equals the
    other taken as the gold. Only one answer of a class is compared with others, and only with answers of about its size, so
    that thousands of answers stay cheap.

    Args:
        completions: Completions of one problem.
        correct: Whether each was verified.
        style: Where the answers are (see `extract_answer`).
        verifier: Compares what the text rules cannot; also says which convention and tolerance hold.

    Returns:
        Whole numbers from 0 in order of first appearance; -1 where no answer was found.
    """
    answers = [extract_answer(text, style, think=verifier.options.think) for text in completions]
    names = [
        "right" if right else None if answer is None else _normal_form(answer)
        for answer, right in zip(answers, correct, strict=True)
    ]
    first = {name: answer for name, answer in zip(reversed(names), reversed(answers), strict=True) if name and answer}
    wrong = {name: answer for name, answer in first.items() if name != "right"}
    joined = _join(dict(reversed(wrong.items())), verifier)
    numbers: dict[str, int] = {}
    return [-1 if name is None else numbers.setdefault(joined.get(name, name), len(numbers)) for name in names]


def _normal_form(answer: str) -> str:
    """A text that only equal answers share."""
    if len(answer) > MAX_QUICK:
        return f"text {answer}"
    cleaned = clean(answer)
    plain = number(cleaned.body)
    value = f"number {plain.value} {plain.percent} {plain.decimal}" if plain else f"text {key(cleaned.body)}"
    return f"word {word(cleaned.body)}" if word(cleaned.body) else f"{value} {cleaned.unit} {cleaned.condition}"


def _join(forms: dict[str, str], verifier: Verifier) -> dict[str, str]:
    """Map each normal form to that of its class.

    Args:
        forms: By normal form, an answer as written.
        verifier: Compares what the text rules cannot.

    Returns:
        By normal form, the first one that equals it.
    """
    sizes = _sizes({form: answer for form, answer in forms.items() if form[:4] != "word"}, verifier)
    near = max(_NEAR, 2 * (verifier.options.tolerance or 0))
    known = sorted((size, form) for form, size in sizes.items() if size is not None)
    unknown = [form for form, size in sizes.items() if size is None]
    joined: dict[str, str] = {}
    for form, answer in forms.items():
        if form in joined or form not in sizes:
            continue
        size = sizes[form]
        if size is None:
            others = list(sizes)
        else:
            start = bisect_left(known, (size * (1 - near), ""))
            end = bisect_left(known, (size * (1 + near) + 1e-300, "~"))
            others = [*(other for _, other in known[start:end]), *unknown]
        others = [other for other in others if other != form and other not in joined]
        joined[form] = form
        same = _same(answer, [forms[other] for other in others], verifier)
        joined |= {other: form for other, equal in zip(others, same, strict=True) if equal}
    return joined


def _sizes(forms: dict[str, str], verifier: Verifier) -> dict[str, float | None]:
    """Size of every answer that can be read; None where it says nothing (see `compare.size`)."""
    sizes: dict[str, float | None] = {}
    jobs: dict[str, Job] = {}
    for form, answer in forms.items():
        if len(answer) > MAX_QUICK:
            continue
        parts = expressions(answer)
        plain = [number(part) for part in parts or []]
        if parts is None:
            sizes[form] = None
        elif all(plain):
            sizes[form] = max(float(abs(one.value)) for one in plain if one)
        else:
            jobs[form] = ("size", answer)
    for form, found in zip(jobs, verifier.run(list(jobs.values())), strict=True):
        if found != "unreadable":
            sizes[form] = found
    return sizes


def _same(answer: str, others: Sequence[str], verifier: Verifier) -> list[bool]:
    """Whether each of the others equals the answer, whichever of the two is taken as the gold."""
    tolerance = verifier.options.tolerance
    by = Comparison(tolerance=tolerance)
    same: list[bool | None] = []
    for other in others:
        both = [decide(answer, other, by), decide(other, answer, by)]
        same.append(False if False in both else None if None in both else True)
    undecided = [i for i, equal in enumerate(same) if equal is None]
    jobs: list[Job] = [
        ("equal", *pair, tolerance) for i in undecided for pair in ((answer, others[i]), (others[i], answer))
    ]
    found = verifier.run(jobs)
    for place, i in enumerate(undecided):
        same[i] = bool(found[2 * place] and found[2 * place + 1])
    return [bool(equal) for equal in same]
