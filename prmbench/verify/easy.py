r"""Answers that are decided without math-verify: equal strings, plain numbers, words, number bases, units.

`decide` returns None where it cannot tell; then the answer goes to a worker. Where both decide, they agree, except for
the rules that docs/verification.md lists under "Where we differ from math-verify".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from prmbench.verify.clean import Cleaned, clean, key, word

MAX_ANSWER = 2000
"""Characters of an answer that is looked at at all; a longer one is right only when its text equals the gold's."""
MAX_NUMBER = 60
"""Characters of a plain number; a longer one goes to the worker."""
MAX_EXPONENT = 400
RELATIVE = Fraction(1, 10_000)
"""Two numbers that differ, but agree to six decimals, must agree to this share of the gold as well."""

_DECIMAL = r"(?:\d+(?:\.\d+)?|\.\d+)"
_RATIO = re.compile(
    rf"([-+]?)\s*(?:({_DECIMAL})\s*/\s*({_DECIMAL})|\\frac\s*\{{\s*([-+]?)({_DECIMAL})\s*\}}\s*\{{\s*({_DECIMAL})\s*\}})"
)
_NUMBER = re.compile(
    rf"([-+]?)\s*(?:({_DECIMAL})(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{{\s*([-+]?\d+)\s*\}}|(\d)))?|"
    r"10\s*\^\s*(?:\{\s*([-+]?\d+)\s*\}|(\d)))"
)
_BASED = re.compile(
    r"\(?\s*(-?)([0-9][0-9A-Z]*(?:\.[0-9A-Z]+)?|[A-Z]+[0-9][0-9A-Z]*)\s*\)?\s*_\s*\{?\s*(?:\\text\s*\{)?\s*(\w+)\s*\}*"
)
_BASE_WORDS = {
    w: i
    for i, w in enumerate(
        ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"), start=2
    )
} | {"sixteen": 16}


@dataclass(frozen=True)
class Number:
    """A plain number as it is written.

    Attributes:
        value: exact; for a percentage, the number in front of the sign.
        decimal: written with a decimal point (so that it may be rounded).
        percent: followed by a percent sign.
    """

    value: Fraction
    decimal: bool
    percent: bool


def decide(gold: str, answer: str) -> bool | None:
    """Return whether two answers are equal, or None where only math-verify can tell.

    Args:
        gold: the problem's answer, as its source has it.
        answer: what `extract_answer` found.
    """
    if answer.strip() == gold.strip():
        return True
    if max(len(gold), len(answer)) > MAX_ANSWER:
        return False
    gold_number, answer_number = number(gold), number(answer)
    if gold_number and answer_number:  # most answers; the text rules would change nothing
        return same_number(gold_number, answer_number)
    return decide_cleaned(clean(gold), clean(answer))


def decide_cleaned(gold: Cleaned, answer: Cleaned) -> bool | None:
    """`decide` for answers that went through the text rules."""
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if not answer.body or not gold.body:
        return gold.body == answer.body
    if key(gold.body) == key(answer.body):
        return True
    gold_based, answer_based = based(gold.body), based(answer.body)
    if gold_based or answer_based:
        return gold_based == answer_based
    gold_number, answer_number = number(gold.body), number(answer.body)
    if gold_number and answer_number:
        return same_number(gold_number, answer_number)
    return _same_word(gold.body, answer.body)


def _same_word(gold: str, answer: str) -> bool | None:
    """Words are equal or not; a word and what need not be one (``june 20``) are equal or it is not decided here."""
    words = word(gold), word(answer)
    if not any(words):
        return None
    if word(gold, marked=True) == word(answer, marked=True):
        return True
    return False if all(words) else None


def number(body: str) -> Number | None:
    r"""Read a plain number: ``-1.5``, ``1/2``, ``\frac{1}{2}``, ``6.72 \times 10^{-5}``, ``44\%``; None for all else."""
    if len(body) > MAX_NUMBER or not body.isascii():
        return None
    percent = re.search(r"\s*\\?%$", body)
    if percent:
        body = body[: percent.start()]
    ratio = _RATIO.fullmatch(body)
    if ratio:
        top, bottom = ratio[2] or ratio[5], ratio[3] or ratio[6]
        if Fraction(bottom) == 0:
            return None
        sign = (-1) ** ((ratio[1] == "-") + (ratio[4] == "-"))
        return Number(sign * Fraction(top) / Fraction(bottom), "." in body, bool(percent))
    found = _NUMBER.fullmatch(body)
    if found is None:
        return None
    exponent = int(next((part for part in found.groups()[2:] if part), "0"))
    if abs(exponent) > MAX_EXPONENT:
        return None
    value = Fraction(found[2] or "1") * Fraction(10) ** exponent
    return Number(-value if found[1] == "-" else value, "." in body, bool(percent))


def same_number(gold: Number, answer: Number) -> bool | None:
    r"""Compare two plain numbers; None where rounding to six decimals meets a tie.

    Equal when exactly equal. A decimal also equals a fraction or another decimal (never a whole number) when both round
    to the same six decimals and differ by at most `RELATIVE` of the gold: 1/3 is 0.333333, 1.77e-6 is not 1.9e-6.
    ``44\%`` equals 44 as well as 0.44.
    """
    if gold.percent != answer.percent:
        as_written = _same_value(gold, answer)
        if as_written is not False:
            return as_written
        shares = [Number(n.value / 100, n.decimal, False) if n.percent else n for n in (gold, answer)]
        return _same_value(*shares)
    return _same_value(gold, answer)


def _same_value(gold: Number, answer: Number) -> bool | None:
    if gold.value == answer.value:
        return True
    if not (gold.decimal or answer.decimal):
        return False
    if any(n.value.denominator == 1 and not n.decimal for n in (gold, answer)):
        return False
    if abs(gold.value - answer.value) > RELATIVE * abs(gold.value):
        return False
    scaled = [n.value * 10**6 for n in (gold, answer)]
    if any((2 * s).denominator == 1 and s.denominator == 2 for s in scaled):
        return None
    return round(scaled[0]) == round(scaled[1])


def based(body: str) -> tuple[int, Fraction] | None:
    r"""Read a number with a base (``204_5``, ``-152A_{11}``, ``1101_{\text{two}}``): (base, value); None otherwise.

    A digit that the base does not have makes it no number. (`clean` has taken a base of ten off.)
    """
    found = _BASED.fullmatch(body)
    if found is None or len(body) > MAX_NUMBER:
        return None
    base = int(found[3]) if found[3].isdecimal() else _BASE_WORDS.get(found[3].casefold(), 0)
    whole, _, part = found[2].partition(".")
    digits = [int(c, 36) for c in whole + part]
    if not 2 <= base <= 36 or max(digits) >= base:
        return None
    value = Fraction(0)
    for digit in digits:
        value = value * base + digit
    value /= base ** len(part)
    return base, -value if found[1] else value
