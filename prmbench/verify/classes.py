"""Answers that count as the same vote in a majority."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from prmbench.data.prompts import AnswerStyle
from prmbench.verify import Verifier
from prmbench.verify.clean import clean, key, word
from prmbench.verify.decide import MAX_QUICK, EqualityOptions, decide, expressions
from prmbench.verify.extract import extract_answer
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
    known = sorted((size, form) for form, found in sizes.items() for size in found or ())
    unknown = [form for form, found in sizes.items() if found is None]
    joined: dict[str, str] = {}
    for form, answer in forms.items():
        if form in joined or form not in sizes:
            continue
        others = dict.fromkeys(unknown if sizes[form] is not None else sizes)
        for size in sizes[form] or ():
            start = bisect_left(known, (size * (1 - near), ""))
            end = bisect_left(known, (size * (1 + near) + 1e-300, "~"))
            others |= dict.fromkeys(other for _, other in known[start:end])
        left = [other for other in others if other != form and other not in joined]
        joined[form] = form
        same = _same(answer, [forms[other] for other in left], verifier)
        joined |= {other: form for other, equal in zip(left, same, strict=True) if equal}
    return joined


def _sizes(forms: dict[str, str], verifier: Verifier) -> dict[str, list[float] | None]:
    """Sizes that an answer may have; None where they say nothing (see `equality.size`). Unreadable answers are left out."""
    sizes: dict[str, list[float] | None] = {}
    jobs: dict[str, Job] = {}
    for form, answer in forms.items():
        if len(answer) > MAX_QUICK:
            continue
        parts = expressions(answer)
        plain = [one for one in map(number, parts or []) if one]
        if parts is None:
            sizes[form] = None
        elif len(plain) == len(parts):
            largest = max(float(abs(one.value)) for one in plain)
            sizes[form] = [largest, largest / 100] if any(one.percent for one in plain) else [largest]
        else:
            jobs[form] = ("size", answer)
    for form, found in zip(jobs, verifier.run(list(jobs.values())), strict=True):
        if found != "unreadable" and found is not False:
            sizes[form] = None if found is None else [found]
    return sizes


def _same(answer: str, others: Sequence[str], verifier: Verifier) -> list[bool]:
    """Whether each of the others equals the answer, whichever of the two is taken as the gold."""
    tolerance = verifier.options.tolerance
    by = EqualityOptions(tolerance=tolerance)
    found = [{decide(answer, other, by), decide(other, answer, by)} for other in others]
    jobs: list[tuple[int, Job]] = []
    for i, (other, both) in enumerate(zip(others, found, strict=True)):
        if None in both and False not in both:
            jobs.append((i, ("equal", answer, other, tolerance)))
            if "=" in answer + other:  # between expressions the direction makes no difference
                jobs.append((i, ("equal", other, answer, tolerance)))
    for (i, _), equal in zip(jobs, verifier.run([job for _, job in jobs]), strict=True):
        found[i] = found[i] - {None} | {bool(equal)}
    return [both == {True} for both in found]
