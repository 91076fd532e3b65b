r"""Plain numbers: how they are written otherwise in LaTeX, how they are read exactly, and when two are equal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

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

# Rewriting. `1,000`, `1 000`, `6.02e23`, `2 1/2`, `0.\overline{3}`, `0.333...`
SURE_COMMA = re.compile(r"(?<=\d)(?:\{,\}|\\text\{,\}|,\s*\\!)\s*(?=\d{3}(?!\d))")
"""A comma that can only separate thousands."""
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,^_])(?<!\d )[1-9]\d{0,2}(?: \d{3})+(?!\d)(?! \d)")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\d.])(\d+\.?\d*|\.\d+)[eE]([-+]?)(\d+)(?![A-Za-z\d.])")
_MIXED = re.compile(
    r"(?<![\w.^}\\])(?<![_^]\{)(\d+)(?:\s*(?:\{\s*)?\\frac\{(\d+)\}\{(\d+)\}(?:\s*\})?|\s+(\d+)/(\d+))(?!\s*[\d.^!(])"
)
_PERIOD = r"\\(?:overline|bar|dot)\s*\{?\s*(\d+)\s*\}?"
_REPEATING = re.compile(rf"(?<![\d.])(\d*)\.(\d*)(?:{_PERIOD}(?:(\d*){_PERIOD})?|\((\d+)\))(?!\d)")
_ENDLESS = re.compile(r"(?<![\d.])(\d+)\.(\d{0,20}?)(\d{1,6}?)\3{2,}\s*(?:\.\.\.|\\l?dots)")


@dataclass(frozen=True)
class Number:
    """A plain number as it is written.

    Attributes:
        value: The exact value; for a percentage, of the number in front of the sign.
        decimal: Whether it is written with a decimal point, so that it may be rounded.
        percent: Whether a percent sign follows.
    """

    value: Fraction
    decimal: bool
    percent: bool


def rewrite_numbers(text: str) -> str:
    r"""Write the numbers inside an answer so that they can only be read one way.

    Thousands are joined, ``6e23`` becomes a power of ten, mixed numbers and repeating decimals become fractions.

    Args:
        text: An answer with spacing commands as spaces and with braces around the parts of its fractions.

    Returns:
        The same answer in plain LaTeX.
    """
    text = _SPACED_THOUSANDS.sub(lambda m: m[0].replace(" ", ""), text)
    joined = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    if "," not in joined and not re.search(r"[(\[]|\\\{", text.split(",")[0].split("=")[-1]):
        text = joined
    text = re.sub(r"(\d)\.(?=[\s/)}\],+*-]|$)", r"\1", text)
    text = re.sub(r"\^\s*(-?\d{2,}|-\d)(?![\d.])", r"^{\1}", text)
    text = re.sub(r"(?<=\d)\s*x\s*(?=10\s*\^)", r" \\times ", text)
    text = _SCIENTIFIC.sub(lambda m: rf"{m[1]} \times 10^{{{m[2].replace('+', '')}{m[3]}}}", text)
    text = _ENDLESS.sub(lambda m: _fraction(m[1], m[2], m[3]), _REPEATING.sub(_repeating, text))
    return _MIXED.sub(_mixed, text)


def _repeating(found: re.Match[str]) -> str:
    r"""``0.1\overline{6}``; ``0.\dot{1}4285\dot{7}`` has dots over the first and last digit of its period."""
    whole, start, period, middle, last, bracketed = found.groups()
    return _fraction(whole or "0", start, bracketed or period + (middle + last if last else ""))


def _fraction(whole: str, start: str, period: str) -> str:
    scale = 10 ** len(start)
    value = Fraction(int(whole + start), scale) + Fraction(int(period), scale * (10 ** len(period) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _mixed(found: re.Match[str]) -> str:
    """Only a proper fraction makes a mixed number: ``4 10/3`` stays as it is, and nothing can be read from it."""
    whole, top, bottom = int(found[1]), int(found[2] or found[4]), int(found[3] or found[5])
    return rf"\frac{{{whole * bottom + top}}}{{{bottom}}}" if top < bottom else found[0]


def number(body: str) -> Number | None:
    r"""Read a plain number.

    Args:
        body: An answer: ``-1.5``, ``1/2``, ``\frac{1}{2}``, ``6.72 \times 10^{-5}``, ``44\%``.

    Returns:
        The number, or None where the answer is something else or is too long.
    """
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


def same_number(gold: Number, answer: Number, tolerance: float | None = None) -> bool:
    r"""Compare two plain numbers.

    A percentage equals its number as well as its share: ``44\%`` is 44 and 0.44.

    Args:
        gold: The gold answer.
        answer: The answer to judge.
        tolerance: See `VerifierOptions`.

    Returns:
        Whether they are equal.
    """
    if close(gold.value, answer.value, gold.decimal, answer.decimal, tolerance):
        return True
    if gold.percent == answer.percent:
        return False
    share, other = (n.value / 100 if n.percent else n.value for n in (gold, answer))
    return close(share, other, gold.decimal, answer.decimal, tolerance)


def close(
    gold: Fraction, answer: Fraction, gold_decimal: bool, answer_decimal: bool, tolerance: float | None = None
) -> bool:
    """Compare two values of which some are written as decimals.

    Equal values are equal. A decimal also equals a fraction, an irrational number or another decimal, but never a whole
    number, when they agree within the tolerance: 1/3 is 0.333333, 1.77e-6 is not 1.9e-6.

    Args:
        gold: Value of the gold answer.
        answer: Value of the answer.
        gold_decimal: Whether the gold answer is written with a decimal point.
        answer_decimal: Whether the answer is.
        tolerance: See `VerifierOptions`.

    Returns:
        Whether the values count as equal.
    """
    if gold == answer:
        return True
    if not (gold_decimal or answer_decimal):
        return False
    difference = abs(gold - answer)
    if tolerance is not None:
        return difference <= Fraction(tolerance) * abs(gold)
    if (gold.denominator == 1 and not gold_decimal) or (answer.denominator == 1 and not answer_decimal):
        return False
    return difference <= RELATIVE * abs(gold) and round(gold * 10**6) == round(answer * 10**6)


def based(body: str) -> tuple[int, Fraction] | None:
    r"""Read a number with a base.

    Args:
        body: An answer: ``204_5``, ``-152A_{11}``, ``1101_{\text{two}}``.

    Returns:
        (base, value), or None where the answer is something else. A digit that the base does not have makes it no number.
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
