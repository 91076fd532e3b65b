r"""The comparison of two expressions that only a worker process makes, with math-verify and latex2sympy.

Imported in workers only: it loads SymPy, and what a model wrote can make SymPy run for ever or eat the memory.
"""

from __future__ import annotations

import logging
import random
import re
import warnings
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

from latex2sympy2_extended import NormalizationConfig  # type: ignore[import-untyped]
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy  # type: ignore[import-untyped]
from latex2sympy2_extended.math_normalization import normalize_latex  # type: ignore[import-untyped]
from math_verify import parse
from math_verify import verify as math_verify
from sympy import (  # type: ignore[import-untyped]
    Derivative,
    Eq,
    Expr,
    Float,
    I,
    Intersection,
    Limit,
    MatrixBase,
    Ne,
    Rational,
    Set,
    Symbol,
    Union,
    nan,
    zoo,
)
from sympy.concrete.expr_with_limits import ExprWithLimits  # type: ignore[import-untyped]
from sympy.core.function import AppliedUndef  # type: ignore[import-untyped]
from sympy.core.relational import Relational  # type: ignore[import-untyped]

from prmbench.verify.clean import clean
from prmbench.verify.decide import EqualityOptions, decide, expressions, relations
from prmbench.verify.numbers import close

# math-verify's own unit rules are off: they drop bare letters (\frac{1}{m} t would equal \frac{1}{m}). Ours are in `units`.
_NORMAL = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_DIGITS = 1000
"""Digits to which irrational numbers must agree. math-verify's 15 would take 1 - 3^-50 for 1 - 3^-51."""
_LAST_DIGITS = Rational(1, 10 ** (_DIGITS - 100))
_POINTS, _TRIES = 8, 60
_MISREAD = re.compile(r"(?<![\w^.}])\d+(?:\.\d+)?\s+[\d.]|(?<![A-Za-z}\\\d.])\d+\s*_")
"""Numbers side by side, and numbers with an index: nothing can be read from them."""
_I = Symbol("i", real=True)
_INDEX = re.compile(r"_\s*(?:i|\{[^{}]*i[^{}]*\})|\(\s*i\s*\)|(?<![A-Za-z])i\s*=")


class _Reader(_Latex2Sympy):  # type: ignore[misc]  # it has no types
    r"""latex2sympy without its mixed numbers: it reads ``2(3)`` and ``2\binom{4}{2}`` as sums. Ours are in `numbers`."""

    def convert_postfix_list(self, arr: Any, i: int = 0) -> Any:
        left = self.convert_postfix(arr[i]) if i + 1 < len(arr) else None
        if not isinstance(left, Expr | MatrixBase):
            return super().convert_postfix_list(arr, i)
        right = self.convert_postfix_list(arr, i + 1)
        matrices = any(getattr(one, "is_Matrix", False) for one in (left, right))
        return (self.mat_mul_flat if matrices else self.mul_flat)(left, right)


def quieten() -> None:
    """Silence what math-verify, latex2sympy and SymPy log and warn about."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def warm_up() -> None:
    """Make the first item of a worker as fast as the others: load the grammar's tables and SymPy's lazy modules."""
    equal(r"\frac{\sqrt{3}}{2} + x^2", r"x^2 + \frac{1}{2}\sqrt{3}", None)
    equal(r"1 < x < \sqrt{2}", r"(1, \sqrt{2})", None)


def equal(gold: str, answer: str, tolerance: float | None) -> bool:
    """Compare two answers to the end: what the text rules leave undecided, math-verify decides.

    Args:
        gold: The problem's answer, as its source has it.
        answer: What `extract_answer` found.
        tolerance: See `VerifierOptions`.

    Returns:
        Whether they are equal; False where one cannot be read.
    """
    return bool(decide(gold, answer, EqualityOptions(_same_or_unreadable, tolerance)))


def as_paper(gold: str, completion: str) -> bool | Literal["unparsed"]:
    """Compare as the paper's release does: math-verify with its default settings finds the answer in the whole text.

    Args:
        gold: The problem's answer.
        completion: The whole completion.

    Returns:
        Whether they are equal, or ``unparsed`` where math-verify finds no answer.
    """
    found = parse(completion, parsing_timeout=None)
    wanted = parse(rf"\boxed{{{gold}}}", parsing_timeout=None)
    return bool(math_verify(wanted, found, timeout_seconds=None)) if found else "unparsed"


def _same_or_unreadable(gold: str, answer: str, tolerance: float | None) -> bool:
    try:
        return same_expression(gold, answer, tolerance)
    except MemoryError:
        raise
    except Exception:  # whatever SymPy raises on such input: it could not be shown equal
        return False


def same_expression(gold: str, answer: str, tolerance: float | None) -> bool:
    """Compare two single expressions, relations or sets of numbers.

    math-verify's own time limits are off (they are signals): the caller's process is killed instead.

    Args:
        gold: LaTeX after the text rules.
        answer: LaTeX after the text rules.
        tolerance: See `VerifierOptions`.

    Returns:
        Whether they are equal; False where one cannot be read.
    """
    g, a = _read(gold), _read(answer)
    if g is None or a is None or any(one.has(nan, zoo) for one in (g, a)):
        return False
    if not _INDEX.search(gold) and not _INDEX.search(answer) and r"\sum" not in gold + answer:
        g, a = (one.xreplace({_I: I}) if _I in one.free_symbols else one for one in (g, a))
    decimals = bool(g.atoms(Float)), bool(a.atoms(Float))
    g, a = _exact(g), _exact(a)
    if isinstance(g, Expr) and isinstance(a, Expr):
        if g.free_symbols or a.free_symbols:
            return _same_formula(g, a)
        return _same_value(g, a) or (any(decimals) and _near(g, a, decimals, tolerance))
    if isinstance(g, Ne) and isinstance(a, Ne):
        g, a = Eq(*g.args, evaluate=False), Eq(*a.args, evaluate=False)
    compared: bool = math_verify(g, a, numeric_precision=_DIGITS, allow_set_relation_comp=True, timeout_seconds=None)
    if (
        not compared
        and any(decimals)
        and isinstance(g, MatrixBase)
        and isinstance(a, MatrixBase)
        and g.shape == a.shape
    ):
        return all(_near(x, y, decimals, tolerance) for x, y in zip(g.flat(), a.flat(), strict=True))
    return compared


@lru_cache(maxsize=256)
def _read(text: str) -> Any:
    """Parse an expression, a relation, or several relations as one set of numbers; None where that fails."""
    parts, joint = relations(text)
    try:
        if len(parts) == 1:
            return _parse(text)
        parsed = [_parse(part) for part in parts]
        if len(set().union(*(one.free_symbols for one in parsed))) > 1:
            return None
        if not joint and not any(isinstance(one, Relational) for one in parsed):
            return None  # a list of intervals is no set of numbers
        sets = [_as_set(one) for one in parsed]
        common = Intersection(*sets)
        return Union(*sets) if joint == "or" or (not joint and common.is_empty) else common
    except MemoryError:
        raise
    except Exception:  # whatever the grammar and SymPy raise on such input
        return None


def _as_set(one: Any) -> Any:
    if isinstance(one, Eq) and isinstance(one.rhs, Set):
        return one.rhs
    return one if isinstance(one, Set) else one.as_set()


def _parse(text: str) -> Any:
    if _MISREAD.search(text):
        return None
    text = re.sub(r"(?<![A-Za-z\\])([eE])(?=\s*_)", r"\\text{\1}", text)  # latex2sympy fails on E_1
    if not re.search(r"\\int|\\frac\s*\{\s*d", text):
        text = re.sub(r"(?<![A-Za-z\\])d(?=\s*[A-Za-z\\])", "{d}", text)  # else `dr` is one symbol and `rd` two
    found = _Reader(is_real=True, config=_CONVERSION).parse(normalize_latex(text, _NORMAL))
    # SymPy takes dx/dt for 0, because it does not know that x depends on t.
    return found.xreplace({one: Symbol(str(one)) for one in found.atoms(Derivative) if one.expr.is_Symbol})


def _exact(one: Any) -> Any:
    """Read decimals as they are written: 0.1 is 1/10, and not the nearest binary number."""
    return one.xreplace({number: Rational(str(number)) for number in one.atoms(Float)})


def _same_value(gold: Expr, answer: Expr) -> bool:
    """Compare two numbers: rational ones exactly, others to many digits."""
    difference = (gold - answer).doit()
    if gold == answer or difference.is_Rational:
        return bool(gold == answer or difference == 0)
    size = abs(difference.evalf(15, maxn=_DIGITS))
    return bool(size.is_number and size.is_finite and size < _LAST_DIGITS)


def _near(gold: Any, answer: Any, decimals: tuple[bool, bool], tolerance: float | None) -> bool:
    """Compare two numbers of which some are rounded, real and imaginary part."""
    parts = zip(gold.evalf(40).as_real_imag(), answer.evalf(40).as_real_imag(), strict=True)
    return all(close(Fraction(str(x)), Fraction(str(y)), *decimals, tolerance) for x, y in parts)


def _same_formula(gold: Expr, answer: Expr) -> bool:
    """Compare two expressions with variables: by math-verify, then at random points, where roots defeat simplification."""
    if isinstance(gold, Symbol) and isinstance(answer, Symbol):
        return bool(gold == answer)
    constants = Symbol("C", real=True), Symbol("c", real=True)
    for one, other in (constants, constants[::-1]):  # a constant of integration has no case
        if (
            gold.is_Add
            and answer.is_Add
            and one in gold.args
            and other in answer.args
            and one not in answer.free_symbols
        ):
            answer = answer.xreplace({other: one})
    if gold.free_symbols != answer.free_symbols:
        return bool((gold - answer).simplify() == 0)
    if math_verify(gold, answer, numeric_precision=_DIGITS, timeout_seconds=None):
        return True
    return not (gold - answer).atoms(AppliedUndef, ExprWithLimits, Limit) and _agree(gold, answer)


def _agree(gold: Expr, answer: Expr) -> bool:
    """Whether two formulas are both real at enough random points, or both not, and have the same value there."""
    draw, agreed = random.Random(0), 0
    symbols, complex_valued = sorted(gold.free_symbols, key=str), gold.has(I)
    for _ in range(_TRIES):
        point = {symbol: Rational(draw.randint(-400, 400), draw.randint(60, 99)) for symbol in symbols}
        x, y = (one.evalf(_DIGITS, subs=point) for one in (gold, answer))
        if not (x.is_number and y.is_number and x.is_finite and y.is_finite):
            continue
        if not complex_valued and not (x.is_real and y.is_real):
            if x.is_real or y.is_real:
                return False
            continue
        if abs(x - y) > abs(x) * _LAST_DIGITS:
            return False
        agreed += 1
        if agreed == _POINTS:
            return True
    return False


def size(answer: str) -> float | Literal["unreadable"] | None:
    """Measure an answer, so that unequal answers need not be compared: equal ones have nearly the same size.

    Args:
        answer: What `extract_answer` found.

    Returns:
        The largest absolute value among its expressions, with fixed values for variables; None where that is no number
        that equal answers share; ``unreadable`` where nothing can be parsed.
    """
    texts = expressions(answer)
    if texts is None:
        return None
    found = []
    for text in texts:
        one = _read(text)
        if one is None:
            return "unreadable"
        if not isinstance(one, Expr):
            return None
        values = {symbol: Rational(zlib.crc32(str(symbol).encode()) % 97 + 1, 60) for symbol in one.free_symbols}
        try:
            found.append(abs(complex(one.evalf(15, subs=values | {_I: I}))))
        except (TypeError, ValueError, OverflowError):
            return None
    return max(found)


def readable(gold: str) -> bool:
    """Say whether an answer can be read as mathematics.

    Args:
        gold: A gold answer.

    Returns:
        Whether each of its expressions can be parsed.
    """
    texts = expressions(gold)
    return all(_read(text) is not None for text in ([clean(gold).body.rstrip("% \\")] if texts is None else texts))


JOBS: dict[str, Callable[..., object]] = {"equal": equal, "paper": as_paper, "size": size, "readable": readable}
"""What a worker can be asked for, by name."""
