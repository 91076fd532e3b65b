r"""Is one answer the other? Structure, words and plain numbers are compared here, single expressions by math-verify.

An answer is taken apart into lists, sets, tuples, matrices, named values (``x = 3``) and chains (``2+3 = 5``); what remains
are single expressions. In the caller's process `decide` returns None where only math-verify can compare two of them; the pair
then goes to a worker, which calls `decide` again with math-verify as `hard`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

from prmbench.verify.clean import Cleaned, clean, key, word
from prmbench.verify.numbers import based, number, same_number

MAX_ANSWER = 2000
"""Characters of an answer that is looked at at all; a longer one is right only when its text equals the gold's."""
MAX_QUICK = 400
"""Characters of an answer that the text rules read in the caller's process; they are not made for what is longer."""
_MAX_DEPTH, _MAX_PAIRS = 12, 1500
_UNORDERED = frozenset({"one", "list", "set"})

_SEMICOLON = re.compile(r";")
_COMMA = re.compile(
    r",(?:\s*(?:and|or)(?![A-Za-z]))?|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\cup(?=\s*[A-Za-z]\s*[<>\\])"
)
_EQUALS = re.compile(r"(?<![<>!:])=|:=|\\(?:equiv|in|approx|sim|simeq|doteq)(?![A-Za-z])")
_APPROXIMATES = re.compile(r"\\(?:approx|sim|simeq|doteq)(?![A-Za-z])")
_COMPARES = re.compile(r"[<>]|\\(?:le|ge|ne)(?![A-Za-z])")
_SET_OPERATORS = re.compile(r"\\(?:cup|cap|setminus)(?![A-Za-z])")
_SET = re.compile(r"[(\[]|\\(?:\{|cup|cap|setminus|mathbb|emptyset)")
_SIGNS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_TOKEN = re.compile(r"(\\begin|\\langle|\\\{|[(\[{])|(\\end|\\rangle|\\\}|[)\]}])|\\.", re.DOTALL)
_GROUP = re.compile(r"\s*(\\langle|\\\{|[(\[])\0*(\\rangle|\\\}|[)\]])\s*")
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", re.DOTALL)
_SET_BUILDER = re.compile(r"\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?[:|](.*)", re.DOTALL)
_MIXED_IN_WORDS = re.compile(r"(-?\d+) and (?:\\frac\{)?(\d+)(?:\}\{|/)(\d+)\}?")
_LETTER = re.compile(r"\\text\s*\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]")
_HEADER = re.compile(r"(\\?[A-Za-z]+)\s*(?:_\s*\{?\s*(\w+)\s*\}?|\(\s*([A-Za-z](?:\s*,\s*[A-Za-z])*)\s*\))?")
_PARAMETER = re.compile(r"\\mathbb\{[A-Z]\}|\b(?:integer|constant|real|number)")
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))?")


class _Shape(NamedTuple):
    """How an answer is put together.

    Attributes:
        kind: ``one`` expression, a ``list``, a ``set`` in braces, a matrix (``2x1``), or the brackets of a tuple or interval.
        parts: Its elements; of a matrix, row by row.
        text: The answer without brackets around a single expression, and without what names the elements of a set.
    """

    kind: str
    parts: list[str]
    text: str


@dataclass(frozen=True)
class EqualityOptions:
    """How single expressions are compared.

    Attributes:
        hard: Compares two expressions that the rules here cannot compare; None leaves them undecided.
        tolerance: See `VerifierOptions`.
    """

    hard: Callable[[str, str, float | None], bool] | None = None
    tolerance: float | None = None


def decide(gold: str, answer: str, by: EqualityOptions = EqualityOptions(), depth: int = 0) -> bool | None:
    """Compare two answers.

    Args:
        gold: The problem's answer, as its source has it, or a part of it.
        answer: What `extract_answer` found, or a part of it.
        by: How single expressions are compared.
        depth: How deep inside the two answers these parts are.

    Returns:
        Whether they are equal, or None where that is undecided.
    """
    # Most answers: equal texts, and plain numbers, for which the text rules would change nothing.
    if answer.strip() == gold.strip():
        return True
    if max(len(gold), len(answer)) > MAX_ANSWER or depth > _MAX_DEPTH:
        return False
    if by.hard is None and max(len(gold), len(answer)) > MAX_QUICK:
        return None
    gold_number, answer_number = number(gold), number(answer)
    if gold_number and answer_number:
        return same_number(gold_number, answer_number, by.tolerance)
    g, a = clean(gold), clean(answer)
    if not g.body or not a.body:
        return g.body == a.body
    # Units, and the values for which the answers hold, where both say something.
    if _clock(g) is not None and _clock(g) == _clock(a):
        return True
    if {g.unit, a.unit} == {"deg", "rad"}:
        g, a = _in_radians(g), _in_radians(a)
    elif g.unit and a.unit and g.unit != a.unit:
        return False
    holds: bool | None = True
    if g.condition.startswith("mod ") and a.condition.startswith("mod "):
        holds = g.condition == a.condition
    elif all(_COMPARES.search(c.condition) for c in (g, a)):
        holds = decide(g.condition, a.condition, by, depth + 1)
    found = _same_body(g.body, _with_golds_parameter(g, a), by, depth) if holds is not False else False
    return None if found and holds is None else found


def _in_radians(answer: Cleaned) -> Cleaned:
    return answer if answer.unit == "rad" else answer._replace(body=rf"({answer.body})\cdot\frac{{\pi}}{{180}}")


def _same_body(gold: str, answer: str, by: EqualityOptions, depth: int) -> bool | None:
    if key(gold) == key(answer):
        return True
    gold_number, answer_number = number(gold), number(answer)
    if gold_number and answer_number:
        return same_number(gold_number, answer_number, by.tolerance)
    same = _same_word(gold, answer)
    return _same_shape(gold, answer, by, depth) if same is None else same


def _same_word(gold: str, answer: str) -> bool | None:
    """Words are equal or not; a word and what need not be one (``june 20``) are equal or it is not decided here."""
    words = word(gold), word(answer)
    if not any(words):
        return None
    if word(gold, marked=True) == word(answer, marked=True):
        return True
    return False if all(words) else None


def _same_shape(gold: str, answer: str, by: EqualityOptions, depth: int) -> bool | None:
    """Compare element by element, where both answers have elements."""
    g, a = _shape(gold), _shape(answer)
    kinds = {g.kind, a.kind}
    gold, answer = g.text, a.text
    for shape, text in ((g, gold), (a, answer)):
        chain = _chain(text) if shape.kind == "one" and len(kinds) == 2 else []
        if len(chain) > 1 and _is_name(chain[0]) and _shape(chain[-1]).kind != "one":  # `x \in \{1, 2\}`
            gold, answer = (chain[-1], answer) if shape is g else (gold, chain[-1])
            return decide(gold, answer, by, depth + 1)
    mixed = _MIXED_IN_WORDS.fullmatch(answer)
    if mixed and g.kind == "one":  # `2 and 1/2`, where the gold is no list
        return decide(gold, rf"{mixed[1]} \frac{{{mixed[2]}}}{{{mixed[3]}}}", by, depth + 1)
    # Relations and intervals of a list may stand for one set of numbers together.
    related = _COMPARES.search(gold + answer) or ("list" in kinds and _SET_OPERATORS.search(gold + answer))
    if related and any(not _COMPARES.search(text) and not _SET.search(text) for text in (gold, answer)):
        return False  # a relation is no number
    if related and by.hard is None:
        return None
    if kinds == {"one"} or (not kinds <= _UNORDERED and (related or "one" in kinds)) or (related and "one" in kinds):
        return _same_one(gold, answer, by, depth)
    if kinds <= _UNORDERED and not _in_order(g, a):
        same = _same_elements(g.parts, a.parts, by, depth)
        return _same_one(gold, answer, by, depth) if related and not same else same
    # The order counts in a tuple. Two numbers in other brackets are another interval, a bare pair is no closed interval.
    if len(g.parts) != len(a.parts) or (len(kinds) == 2 and not _is_tuple_twice(kinds, len(g.parts))):
        return False
    return _all(decide(x, y, by, depth + 1) for x, y in zip(g.parts, a.parts, strict=True))


def _in_order(gold: _Shape, answer: _Shape) -> bool:
    """Whether the gold names the values of its list (``x = 1, y = 2``) and the answer lists as many without names."""
    names = {chain[0] for chain in map(_chain, gold.parts) if len(chain) > 1}
    return 1 < len(names) == len(gold.parts) == len(answer.parts) and all(
        len(_chain(part)) == 1 for part in answer.parts
    )


def _is_tuple_twice(kinds: set[str], size: int) -> bool:
    """Whether two different kinds of brackets, or brackets and a bare list, can be the same tuple."""
    if "set" in kinds or any(kind[0].isdecimal() for kind in kinds):
        return False
    return size > 2 or kinds in ({"()", "list"}, {"()", r"\langle\rangle"})


def _same_elements(gold: Sequence[str], answer: Sequence[str], by: EqualityOptions, depth: int) -> bool | None:
    """Compare two sets: every element of each has an equal one in the other. Order and repetitions do not count."""
    known = set(map(key, gold))
    if sum(key(one) not in known for one in answer) * len(gold) > _MAX_PAIRS:
        return False
    table: list[list[bool | None]] = []
    for one in answer:
        row = [decide(other, one, by, depth + 1) for other in gold]
        if not any(same is not False for same in row):
            return False
        table.append(row)
    return _all(_any(row) for row in (*table, *zip(*table, strict=True)))


def _all(found: Iterable[bool | None]) -> bool | None:
    """Whether all are true; None when none is false and some are undecided."""
    undecided = False
    for same in found:
        if same is False:
            return False
        undecided = undecided or same is None
    return None if undecided else True


def _any(found: Iterable[bool | None]) -> bool | None:
    opposite = _all(None if same is None else not same for same in found)
    return None if opposite is None else not opposite


def _same_one(gold: str, answer: str, by: EqualityOptions, depth: int) -> bool | None:
    """Compare named values, chains of equations, and single expressions."""
    g, a = _chain(gold, answer), _chain(answer, gold)
    if len(g) == len(a) == 1:
        shorter = (g[0], a[0]) != (gold.strip(), answer.strip())
        return decide(g[0], a[0], by, depth + 1) if shorter else _same_expression(g[0], a[0], by, depth)
    # A base counts: the members of a chain must have one value, and one of them must be written in the gold's base.
    if len(g) == 1 and any(based(member) for member in a):
        read = [_with_base(clean(member).body) for member in a]
        return len({value for _, value in filter(None, read)}) == 1 and _with_base(gold) in read
    # A value against a named one: the value alone is compared, but an equation in several terms is no name.
    if len(g) == 1 or (len(a) == 1 and _is_name(g[0])):
        return decide(g[-1], a[-1], by, depth + 1)
    if len(a) == 1:
        return False
    # Two named values: `f(t) = 2t` is `f(x) = 2x`, and `f \equiv 1` is `f(x) = 1`.
    ours, theirs = _HEADER.fullmatch(g[0]), _HEADER.fullmatch(a[0])
    if ours and theirs and ours[1] == theirs[1]:
        new, old = ((header[2] or header[3] or "").replace(" ", "").split(",") for header in (ours, theirs))
        if [""] in (new, old):
            return decide(g[-1], a[-1], by, depth + 1)
        if len(new) == len(old) and all(x == y or (x.isalpha() and y.isalpha()) for x, y in zip(new, old, strict=True)):
            names = dict(zip([*new, *old], [*old, *new], strict=True))
            return decide(g[-1], _renamed(a[-1], names), by, depth + 1)
    if key(g[0]) == key(a[0]) or any(x[1] == "y" and y[3] for x, y in ((ours, theirs), (theirs, ours)) if x and y):
        return decide(g[-1], a[-1], by, depth + 1)  # `y = 2x` is `f(x) = 2x`
    return by.hard(f"{g[0]}={g[-1]}", f"{a[0]}={a[-1]}", by.tolerance) if by.hard else None


def _same_expression(gold: str, answer: str, by: EqualityOptions, depth: int) -> bool | None:
    if based(gold) or based(answer):
        return based(gold) == based(answer)
    # A percentage is its number as well as its share.
    marked = gold.endswith("%"), answer.endswith("%")
    if not any(marked):
        return by.hard(gold, answer, by.tolerance) if by.hard else None
    gold, answer = gold.rstrip("% \\"), answer.rstrip("% \\")
    same = decide(gold, answer, by, depth + 1)
    if same or all(marked):
        return same
    gold, answer = (
        rf"\frac{{{text}}}{{100}}" if mark else text for text, mark in zip((gold, answer), marked, strict=True)
    )
    return _any([same, decide(gold, answer, by, depth + 1)])


def relations(text: str) -> tuple[list[str], Literal["or", "and", ""]]:
    """Split an expression that consists of several relations or intervals: ``x < -1 or x > 1``.

    Args:
        text: LaTeX after the text rules.

    Returns:
        (relations, what stands between them; empty for commas). Any other expression is one part.
    """
    joint = re.search(r"\\(cup)|(?<![A-Za-z\\])(or|and)(?![A-Za-z])", _top(text))
    parts = _split(text, _COMMA)
    unequal = re.match(r".*\\ne(?![A-Za-z])", parts[0]) if parts else None
    if unequal:  # `x \ne 1, 2`
        parts = [part if _COMPARES.search(part) else unequal[0] + part for part in parts]
    return parts, "" if joint is None else "and" if joint[2] == "and" else "or"


def expressions(answer: str, depth: int = 0) -> list[str] | None:
    """List the single expressions of an answer.

    Args:
        answer: An answer as written, or a part of it.
        depth: How deep inside the answer this part is.

    Returns:
        LaTeX after the text rules; None where answers that look different can be equal: relations, equations, percentages.
    """
    body = clean(answer).body
    if depth > _MAX_DEPTH or _COMPARES.search(body) or ("%" in body and not number(body)):
        return None
    shape = _shape(body)
    if shape.kind == "one":
        chain = _chain(shape.parts[0])
        if len(chain) > 1 and (not _is_name(chain[0]) or "(" in chain[0]):
            return None
        return chain[-1:] if _shape(chain[-1]).kind == "one" else expressions(chain[-1], depth + 1)
    found: list[str] = []
    for part in shape.parts:
        inner = expressions(part, depth + 1)
        if inner is None:
            return None
        found += inner
    return found


@lru_cache(maxsize=4096)
def _shape(body: str) -> _Shape:
    for _ in range(_MAX_DEPTH):
        parts = _split(body, _SEMICOLON)
        if len(parts) > 1:
            parts = [f"({part})" if len(_split(part, _COMMA)) > 1 else part for part in parts]
            return _Shape("list", parts, body)
        parts = [each for part in _split(body, _COMMA) for each in _both_signs(part)]
        if len(parts) > 1:
            return _Shape("list", parts, body)
        matrix = _MATRIX.fullmatch(body)
        if matrix and r"\begin" not in matrix[1]:
            rows = [row.split("&") for row in matrix[1].strip().removesuffix(r"\\").split(r"\\")]
            if len({len(row) for row in rows}) == 1:
                return _Shape(f"{len(rows)}x{len(rows[0])}", [entry for row in rows for entry in row], body)
        group = _GROUP.fullmatch(_top(body))
        if group is None:
            return _Shape("one", [body], body)
        opening, closing, inside = group[1], group[2], body[group.end(1) : group.start(2)]
        if opening == r"\{" and (built := _SET_BUILDER.fullmatch(inside)):
            body = built[1].strip()
            continue
        parts = [part for half in _split(inside, _SEMICOLON) for part in _split(half, _COMMA)]
        if opening == r"\{":
            return _Shape("set", [each for part in parts for each in _both_signs(part)], body)
        if len(parts) > 1:
            return _Shape(opening + closing, parts, body)
        body = inside.strip()  # brackets around a single expression
    return _Shape("one", [body], body)


@lru_cache(maxsize=4096)
def _top(body: str) -> str:
    """Blank out what stands inside brackets; the outermost brackets stay."""
    kept, depth, at = [], 0, 0
    for token in _TOKEN.finditer(body):
        kept.append(body[at : token.start()] if depth == 0 else "\0" * (token.start() - at))
        depth -= 1 if token[2] and depth else 0
        kept.append(token[0] if depth == 0 else "\0" * len(token[0]))
        depth += 1 if token[1] else 0
        at = token.end()
    return "".join([*kept, body[at:] if depth == 0 else "\0" * (len(body) - at)])


def _split(body: str, separator: re.Pattern[str]) -> list[str]:
    """Split at separators outside brackets; empty parts are left out."""
    parts, at = [], 0
    for found in separator.finditer(_top(body)):
        parts.append(body[at : found.start()].strip())
        at = found.end()
    return [part for part in (*parts, body[at:].strip()) if part]


def _both_signs(body: str) -> list[str]:
    r"""Write ``1 \pm \sqrt2`` as two expressions."""
    if not _SIGNS.search(body):
        return [body]
    upper, lower = {"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"}
    return [_SIGNS.sub(lambda m: upper[m[1]], body), _SIGNS.sub(lambda m: lower[m[1]], body)]


def _chain(body: str, other: str = "") -> list[str]:
    r"""Split ``x = 2+3 = 5``. What is only approximate is left out, unless nothing else is there or `other` is a decimal."""
    top = _top(body)
    if _COMPARES.search(top) or len(_split(body, _COMMA)) > 1:
        return [body]
    approximate = _APPROXIMATES.search(top)
    plain = number(other)
    if approximate and not (plain and plain.decimal) and not _is_name(body[: approximate.start()]):
        body = body[: approximate.start()]
    return _split(body, _EQUALS) or [body]


def _is_name(text: str) -> bool:
    r"""Whether a left side names a quantity (``f(3)``, ``S_{10}``, ``\frac{AB}{CD}``, ``x + y``): it has no number of its own."""
    bare = re.sub(r"_\s*(?:\{[^{}]*\}|\w)|(?<=[A-Za-z}])\s*\([^()]*\)", "", text)
    return re.search(r"[A-Za-z]", bare) is not None and re.search(r"\d", bare) is None


def _with_base(body: str) -> tuple[int, Fraction] | None:
    plain = number(body)
    return based(body) or ((10, plain.value) if plain else None)


def _clock(answer: Cleaned) -> int | None:
    """Minutes since midnight of ``8:34`` with the unit pm, or of ``20:34``."""
    found = _CLOCK.fullmatch(answer.body)
    if found is None or (found[2] is None and answer.unit not in ("am", "pm")):
        return None
    hour = int(found[1]) % 12 + 12 * (answer.unit == "pm") if answer.unit in ("am", "pm") else int(found[1])
    return 60 * hour + int(found[2] or 0)


def _with_golds_parameter(gold: Cleaned, answer: Cleaned) -> str:
    r"""Give the parameter of an answer (``k\pi, k \in \mathbb{Z}``) the letter that the gold has for it."""
    new, old = (set(_LETTER.findall(body)) for body in (gold.body, answer.body))
    ours, theirs = sorted(old - new), sorted(new - old)
    if not (len(ours) == len(theirs) == 1 and any(_PARAMETER.search(c.condition) for c in (gold, answer))):
        return answer.body
    runs = ours[0] in answer.condition or theirs[0] in gold.condition
    return _renamed(answer.body, {ours[0]: theirs[0]}) if runs else answer.body


def _renamed(text: str, names: dict[str, str]) -> str:
    """Replace single letters that are variables."""
    return _LETTER.sub(lambda m: names.get(m[0], m[0]), text)
