r"""Text rules that are applied to gold and answer alike before anything is compared (docs/verification.md).

They take away what does not change an answer (dollar signs, spacing commands, units, thousands separators, a degree
sign) and rewrite what math-verify would misread (``1e-5`` is -5 + e to it, ``\frac \pi4`` an error). What is left is
LaTeX again.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from prmbench.verify.extract import matching_braces


class Cleaned(NamedTuple):
    """An answer without its unit, and the unit: a canonical name where we know it, ``""`` where we do not or it is absent."""

    body: str
    unit: str


_UNITS = {
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre",
    "dm": "dm decimeter decimetre",
    "m": "m meter metre",
    "km": "km kilometer kilometre",
    "in": "in inch inche",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "mg": "mg milligram",
    "g": "g gm gram",
    "kg": "kg kilogram",
    "lb": "lb pound",
    "oz": "oz ounce",
    "s": "s sec second",
    "min": "min minute",
    "h": "h hr hour",
    "day": "day",
    "week": "week",
    "month": "month",
    "year": "yr year",
    "dollar": "dollar",
    "cent": "cent",
    "ml": "ml milliliter millilitre",
    "l": "l liter litre",
    "mph": "mph",
    "kmh": "kmh kmph",
    "am": "am",
    "pm": "pm",
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
_PLAIN_UNITS = frozenset(word for word in _UNIT_OF if len(word) > 1) | {"degree", "unit"}
# Words after a number that are not a unit: dropping them would change the answer.
_NOT_UNITS = frozenset(
    (  # noqa: SIM905 (a list would be sixty lines)
        "and or to by mod sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp sqrt pi max min gcd lcm "
        "choose times over plus minus infinity inf hundred thousand million billion trillion dozen percent pct "
        "alpha beta gamma theta if when where for base is"
    ).split()
)
_SYMBOLS = str.maketrans(
    {
        "−": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "∪": r"\cup ",
        "°": r"^\circ",
        "％": r"\%",
        "\u00a0": " ",
        "\u200b": "",
        "€": "",
        "£": "",
    }
)
_WRAPPED = re.compile(r"\\(?:text|mbox|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname)\s*\{([^{}\\]*)\}\.?")
_FONT = re.compile(r"\\(?:textbf|textit|textrm|mathrm|mathbf|mathit|mbox)\s*(?=\{)")
_LAST_TEXT = re.compile(r"(?<=[\w})\]%.,\s])\s*\\text\s*\{([^{}\d\\$]*)\}\s*(?:\^\s*(?:\{\s*\d\s*\}|\d))?$")
_LAST_WORDS = re.compile(r"(?<=[\d}).\s])\s*(?<![A-Za-z\\])([A-Za-z][A-Za-z. ]*)(?:\^\s*(?:\{\s*\d\s*\}|\d))?$")
_DANGLING = re.compile(r"(?:[-+*/=<>,;:(\[_^{]|\\[A-Za-z]+)$")
_CLOSED_COMMAND = re.compile(r"\\(?:pi|infty|alpha|beta|gamma|theta|phi|tau|omega|lambda)$")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\d.])(\d+\.?\d*|\.\d+)[eE]([-+]?)(\d+)(?![A-Za-z\d.])")
_CHOICE = r"\(?[A-Z]\)?"
_BARE_WORDS = re.compile(
    rf"{_CHOICE}(?:\s*(?:,|&|\band\b)\s*{_CHOICE})*|(?=(?:\W*[^\W\d_]){{4}})[^\W\d_]{{2,}}(?:[\s.-]+[^\W\d_]{{2,}})*"
)
_PLAIN = re.compile(r"[-+]?(?:[\d.,/ ]|\\frac|[{}])+")


@lru_cache(maxsize=4096)
def clean(text: str) -> Cleaned:
    r"""Apply the text rules. Cached, because one gold meets many answers; callers cap the length.

    >>> clean(r"$864 \mbox{ inches}^2$.")
    Cleaned(body='864', unit='in')
    """
    text = re.sub(r"\s+", " ", text.translate(_SYMBOLS)).strip()
    text = re.sub(r"\\\$|(?<!\\)\$|(?<!\\)\\[()]|\\displaystyle(?![A-Za-z])", "", text)
    text = re.sub(r"^\s*\\\[|\\\]\s*$", "", text)
    text = re.sub(r"\\!\s*|\{,\}", lambda m: "," if m.group() == "{,}" else "", text)
    text = re.sub(r"(?<!\\)\\(?:[,;:> ]|q?quad(?![A-Za-z]))|~", " ", text).strip()
    text = _unwrap(text if text.endswith("..") else text.removesuffix(".").rstrip())
    text = re.sub(r"\\(?:left|right)(?=[\s(\[\])|.]|\\[{}])\s*", "", text) if r"\begin" not in text else text
    text = re.sub(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))", "", text)
    text = re.sub(r"\s*\b(?:percent|pct)$", r"\\%", text)
    text = re.sub(r"^\(?(-?\d+(?:\.\d+)?)\)?\s*_\s*(?:\{\s*10\s*\}|10)$", r"\1", text)
    text = re.sub(r"^[A-Za-z]\s*\\in(?![A-Za-z])\s*(?=[\[(\\])", "", text)
    text = re.sub(r"\bnp\.(?=[a-z]+\()", r"\\", text)
    text = re.sub(r"^\\text\s*\{[^{}]*\}\s*=\s*(?=\S)", "", _FONT.sub(r"\\text", text))
    text, unit = _split_unit(text)
    text = re.sub(r"(\d)\.(?=[\s/)}\],+*-]|$)", r"\1", text)
    text = _brace_fractions(text)
    text = _SCIENTIFIC.sub(lambda m: rf"{m[1]} \times 10^{{{m[2].replace('+', '')}{m[3]}}}", text)
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}(?:,\s?\d{3})+(?:\.\d+)?", text) and (", " not in text or unit):
        text = text.replace(",", "").replace(" ", "")
    text = re.sub(r"(?<=\{)([1-9]\d{0,2}(?:,\d{3})+)(?=\})", lambda m: m[1].replace(",", ""), text)
    return Cleaned(text.strip(), unit)


def key(body: str) -> str:
    r"""What two cleaned answers are compared by as strings: no spacing, except between two digits, and few braces."""
    body = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", body)
    body = re.sub(r"([_^])\s*\{\s*(\w)\s*\}", r"\1\2", body)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", body)


def word(body: str, *, marked: bool = False) -> str | None:
    r"""The canonical form of an answer in words (``\text{June 20}``, ``(B)``, ``A, C and F``), or None for mathematics.

    Letters in ``\text{}`` are a word at any length; bare ones from four letters on (``abc`` may be a product), or as a
    single capital (a choice); with `marked`, any. Case, spaces, full stops and brackets do not count, nor does the
    order of a list.
    """
    inner = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", body).strip()
    if not re.fullmatch(r"[\w\s().,:;'&-]*", inner) or not re.search(r"[^\W\d_]", inner):
        return None
    if not marked and inner == body and not _BARE_WORDS.fullmatch(inner):
        return None
    parts = [re.sub(r"[\s.()'-]", "", part) for part in re.split(r"[,;&]|\band\b", inner.casefold())]
    if any(re.match(r"\d", part) for part in parts):
        return None
    return ",".join(sorted(filter(None, parts))) or None


def _unwrap(text: str) -> str:
    r"""``\text{13}`` is 13 and ``\mbox{4:30 p.m.}`` is 4:30 p.m.; letters stay marked as text, because that makes a word."""
    whole = _WRAPPED.fullmatch(text)
    if whole is None:
        return text
    inner = whole.group(1).strip().removesuffix(".")
    return inner if re.match(r"[-+.\d]", inner) else rf"\text{{{inner}}}"


def _split_unit(text: str) -> tuple[str, str]:
    r"""Take the unit off: trailing ``\text{...}``, or bare words after a number (``5 cm``, ``12 apples``)."""
    found = _LAST_TEXT.search(text)
    if found and found.start() > 0:
        body = text[: found.start()].rstrip()
        dangling = _DANGLING.search(body) and not _CLOSED_COMMAND.search(body)
        if body and not dangling and not _words(found.group(1)) & _NOT_UNITS and not body.endswith(r"\text"):
            return body, _unit(found.group(1))
        return text, ""
    found = _LAST_WORDS.search(text)
    if found and found.start() > 0:
        body, words = text[: found.start()].rstrip(), _words(found.group(1))
        after_space = text[: found.start(1)].endswith(" ")
        number = _PLAIN.fullmatch(body) or (re.fullmatch(r"\d+:\d\d", body) and words <= {"am", "pm"})
        long = all(len(w) > 2 for w in words) and after_space
        if number and words and not words & (_NOT_UNITS - {"min"}) and (words <= _PLAIN_UNITS or long):
            return body, _unit(found.group(1))
    return text, ""


def _words(text: str) -> set[str]:
    joined = re.sub(r"\b([ap])\.?\s?m\b\.?", r"\1m", text.casefold())
    return {w if w in _UNIT_OF else w.removesuffix("s") for w in re.findall(r"[a-z]+", joined)}


def _unit(text: str) -> str:
    known = [_UNIT_OF[w] for w in sorted(_words(text)) if w in _UNIT_OF]
    return known[0] if len(known) == 1 else ""


def _brace_fractions(text: str) -> str:
    r"""``\dfrac``, ``\tfrac`` and ``\cfrac`` become ``\frac``; single-token arguments (``\frac12``, ``\frac \pi4``) get braces."""
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    if r"\frac" not in text:
        return text
    closed = matching_braces(text)
    token = re.compile(r"\s*(?:(?P<open>\{)|(?P<token>\\[A-Za-z]+|[A-Za-z0-9]))")
    inserts: list[tuple[int, str]] = []
    for found in re.finditer(r"\\frac(?![A-Za-z])", text):
        at = found.end()
        for _ in range(2):
            argument = token.match(text, at)
            if argument is None:
                break
            if argument["open"]:
                at = closed.get(argument.start("open"), len(text)) + 1
            else:
                inserts += [(argument.start("token"), "{"), (argument.end("token"), "}")]
                at = argument.end("token")
    pieces, at = [], 0
    for place, brace in sorted(inserts, key=lambda item: item[0]):
        pieces += [text[at:place], brace]
        at = place
    return "".join([*pieces, text[at:]])
