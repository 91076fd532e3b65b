r"""Units: what they are called, and taking one off the end of an answer (``12\,\mathrm{m/s^2}``, ``5 cm``, ``7^{\text{th}}``)."""

from __future__ import annotations

import re

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
    "dollar": "dollar usd buck",
    "euro": "euro eur",
    "cent": "cent",
    "ml": "ml milliliter millilitre",
    "l": "l liter litre",
    "mi/h": "mph",
    "km/h": "kmh kmph kph",
    "deg": "deg degree",
    "rad": "rad radian",
    "am": "am",
    "pm": "pm",
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
_FILLERS = frozenset({"per", "square", "squared", "sq", "cubic", "cubed", "cu", "unit"})
_PLAIN = frozenset(word for word in _UNIT_OF if len(word) > 1) | _FILLERS
_SYMBOLS = _PLAIN | frozenset(_UNIT_OF) | frozenset({"n", "j", "w", "v", "k", "a", "c", "hz", "mol", "pa", "ev"})
# Words after a number that are not a unit: dropping them would change the answer.
_NOT_UNITS = frozenset(
    (  # noqa: SIM905 (a list would be sixty lines)
        "and or to by mod sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp sqrt pi max gcd lcm "
        "choose times over plus minus infinity inf hundred thousand million billion trillion dozen percent pct "
        "alpha beta gamma theta if when where for base is not otherwise else i e x y"
    ).split()
)
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_TEXT = r"\\text\s*\{[^{}\\$]*\}" + _POWER
_LAST_TEXT = re.compile(rf"(?<=[\w}})\]%.,\s])(?:\s*(?:/|\\cdot(?![A-Za-z])|\*)?\s*{_TEXT})+$")
_FRACTION_OF_UNITS = re.compile(rf"\\frac\s*\{{\s*({_TEXT})\s*\}}\s*\{{\s*({_TEXT})\s*\}}$")
_LAST_SYMBOLS = re.compile(
    rf"(?<=[\d}})\s])\s*(?<![A-Za-z\\])([A-Za-z]+{_POWER}(?:\s*(?:/|\\cdot(?![A-Za-z])|\*|(?<=\s))\s*[A-Za-z]+{_POWER})*)$"
)
_LAST_WORDS = re.compile(rf"(?<=[\d}}).\s])\s*(?<![A-Za-z\\])([^\W\d_](?:[^\W\d_]|[. ])*?){_POWER}$")
_DANGLING = re.compile(r"(?:[-+*/=<>,;:(\[_^{]|\\[A-Za-z]+)$")
_CLOSED_COMMAND = re.compile(r"\\(?:pi|infty|alpha|beta|gamma|theta|phi|tau|omega|lambda)$")
_NUMBER = re.compile(r"(?=.*(?:\d|\\pi))(?:[^A-Za-z\\]|\\(?:frac|sqrt|pi|cdot|times)(?![A-Za-z]))+")
_CLOCK = re.compile(r"\d{1,2}:\d\d")
_ORDINAL = re.compile(r"(?<=\d)[\s-]*(?:\^\s*)?(?:\{\s*)?(?:\\text\s*\{\s*)?(?:st|nd|rd|th)(?:\s*\})*$")
_TEMPERATURE = re.compile(r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)\s*(?:\\text\s*\{\s*)?[CFK](?:\s*\})?$")
_CURRENCY = re.compile(r"^(?:US|USD|EUR|GBP|Rs\.?|INR|RMB|CNY)\s*(?=\d)")
_OTHER_SCRIPTS = re.compile(r"(?<=[\d})\]%.])\s*[\u0400-\u04ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+$")


def split_unit(text: str) -> tuple[str, str]:
    r"""Take the unit off an answer: a trailing ``\text{...}``, symbols after a number, or words after a number.

    Args:
        text: An answer after the rules for commands.

    Returns:
        The answer without its unit, and the unit's canonical name; the name is empty where we do not know the unit.
    """
    text = _CURRENCY.sub("", _OTHER_SCRIPTS.sub("", _TEMPERATURE.sub("", _ORDINAL.sub("", text))))
    text = _FRACTION_OF_UNITS.sub(r" \1/\2", text)
    found = _LAST_TEXT.search(text)
    if found and found.start() > 0:
        body = text[: found.start()].rstrip()
        dangling = _DANGLING.search(body) and not _CLOSED_COMMAND.search(body)
        inner = " ".join(re.findall(r"\\text\s*\{([^{}]*)\}", found.group()))
        if dangling or body.endswith(r"\text") or set(_words(inner)) & _NOT_UNITS or re.search(r"(?<![\w^-])\d", inner):
            return text, ""
        return body, unit_name(found.group().replace(r"\text", ""))
    for pattern in (_LAST_SYMBOLS, _LAST_WORDS):
        found = pattern.search(text)
        if found and found.start() > 0:
            body, words = text[: found.start()].rstrip(), set(_words(found[1]))
            after_space = text[: found.start(1)].endswith(" ")
            compound = after_space and not set(found[0]).isdisjoint("/^") and words <= _SYMBOLS
            long = after_space and all(len(w) > 2 for w in words) and "/" not in found[0]
            clock = bool(_CLOCK.fullmatch(body)) and words <= {"am", "pm"}
            takes = words <= _PLAIN or compound or long or clock
            if words and takes and (clock or _NUMBER.fullmatch(body)) and not words & _NOT_UNITS:
                return body, unit_name(found[0])
    return text, ""


def unit_name(text: str) -> str:
    """Name a unit.

    Args:
        text: The unit as written, with its powers.

    Returns:
        The canonical name, with ``/`` between the units of a quotient; empty where we do not know every unit in it.
    """
    words = [w for w in _words(text) if w not in _FILLERS]
    known = [_UNIT_OF[w] for w in words if w in _UNIT_OF]
    return "/".join(known) if len(known) == 1 or len(known) == len(words) else ""


def _words(text: str) -> list[str]:
    joined = re.sub(r"\b([ap])\.?\s?m\b\.?", r"\1m", text.casefold())
    return [w if w in _UNIT_OF else w.removesuffix("s") for w in re.findall(r"[^\W\d_]+", joined)]
