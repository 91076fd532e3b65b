r"""The comparison that only a worker process makes: math-verify on the cleaned answers, and a check on what it rounds.

Imported in workers only: it loads SymPy, and what a model wrote can make SymPy run for ever or eat the memory.
"""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

from latex2sympy2_extended import NormalizationConfig  # type: ignore[import-untyped]
from math_verify import LatexExtractionConfig, parse
from math_verify import verify as math_verify
from sympy import Expr  # type: ignore[import-untyped]

from prmbench.verify.clean import clean
from prmbench.verify.easy import RELATIVE

# math-verify's own unit rules are off: they drop bare letters (\frac{1}{m} t would equal \frac{1}{m}). Ours are in clean.
_LATEX = LatexExtractionConfig(
    try_extract_without_anchor=False,
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
    ),
)


def quieten() -> None:
    """Silence what math-verify, latex2sympy and SymPy log and warn about."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def equal(gold: str, answer: str) -> bool:
    """Return whether math-verify takes two answers for equal, after our text rules; False where it cannot parse one.

    math-verify's own time limits are off (they are signals): the caller's process is killed instead.
    """
    parsed_gold, parsed_answer = _parse(clean(gold).body), _parse(clean(answer).body)
    if not parsed_gold or not parsed_answer:
        return False
    if not math_verify(parsed_gold, parsed_answer, allow_set_relation_comp=True, timeout_seconds=None):
        return False
    return "%" in gold + answer or _close(parsed_gold[0], parsed_answer[0])


def warm_up() -> None:
    """Make the first item of a worker as fast as the others: load the grammar's tables and SymPy's lazy modules."""
    equal(r"\frac{\sqrt{3}}{2} + x^2", r"x^2 + \frac{1}{2}\sqrt{3}")
    equal(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"(1, 2]")


def _parse(body: str) -> list[Any]:
    if not _balanced(body):
        return []
    body = re.sub(r"(?<![A-Za-z\\])E(?=_)", r"\\Xi ", body)  # E_1 is a symbol with an index; latex2sympy fails on it
    return parse(rf"\boxed{{{body}}}", [_LATEX], "no_fallback", parsing_timeout=None)


def _balanced(body: str) -> bool:
    r"""Whether every brace is matched, with and without the escaped ones (math-verify counts ``\{`` too)."""
    for counted in (body, re.sub(r"\\.", "", body, flags=re.DOTALL)):
        depth = 0
        for brace in re.findall(r"[{}]", counted):
            depth += 1 if brace == "{" else -1
            if depth < 0:
                return False
        if depth:
            return False
    return True


def _close(gold: Any, answer: Any) -> bool:
    """Whether two real numbers that math-verify rounds to the same six decimals agree relatively too; True for all else."""
    if not (isinstance(gold, Expr) and isinstance(answer, Expr) and gold.is_number and answer.is_number):
        return True
    try:
        gold, answer = gold.doit(), answer.doit()
        if gold == answer:
            return True
        ratio = complex((answer / gold).evalf(15))
    except (ArithmeticError, TypeError, ValueError, AttributeError):
        return True
    return bool(abs(ratio - 1) <= RELATIVE)
