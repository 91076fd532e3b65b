"""Gold answers that nothing can equal: told before a run samples anything."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prmbench.data.problems import Problem
from prmbench.errors import UserError, shortened
from prmbench.verify import Verifier, VerifierOptions
from prmbench.verify.clean import clean, word
from prmbench.verify.decide import MAX_QUICK, expressions
from prmbench.verify.extract import read_gold
from prmbench.verify.numbers import based, number


def check_golds(problems: Sequence[Problem], verifier: Verifier) -> str | None:
    """Look for gold answers that are empty, or that no answer can equal but the same text.

    Args:
        problems: The problems.
        verifier: Reads what is no plain number and no word.

    Returns:
        A warning with the number of unreadable gold answers and an example; None where all can be read.

    Raises:
        UserError: A gold answer is empty.
    """
    _refuse_empty(problems)
    golds = {one.id: read_gold(one.answer) for one in problems}
    asked = list(dict.fromkeys(gold for gold in golds.values() if not _is_plain(gold)))
    readable = dict(zip(asked, verifier.run([("readable", gold) for gold in asked]), strict=True))
    bad = [one for one in problems if not readable.get(golds[one.id], True)]
    if not bad:
        return None
    return (
        f"{_some(len(bad), len(problems))} no mathematics that can be read, for example that of problem '{bad[0].id}': "
        f"'{shortened(golds[bad[0].id])}'; only the same text counts as right there"
    )


def checked_verifier(
    problems: Sequence[Problem], options: VerifierOptions | None = None, *, quiet: bool = False
) -> Verifier:
    """Make a verifier for problems whose gold answers have been looked at, and print the warning about them on stderr.

    Args:
        problems: The problems.
        options: The conventions that verdicts follow; None means the defaults.
        quiet: Whether to warn of nothing, as processes other than the first do.

    Returns:
        The verifier, to be closed.

    Raises:
        UserError: A gold answer is empty.
    """
    _refuse_empty(problems)
    verifier = Verifier(options)
    warning = None if quiet else check_golds(problems, verifier)
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)
    return verifier


def _refuse_empty(problems: Sequence[Problem]) -> None:
    empty = [one for one in problems if not read_gold(one.answer)]
    if empty:
        raise UserError(
            f"{_some(len(empty), len(problems))} empty, for example that of problem '{empty[0].id}'; "
            "every problem needs an answer that completions can be verified against"
        )


def _some(n: int, total: int) -> str:
    return f"{n:,} of {total:,} gold answers {'is' if n == 1 else 'are'}"


def _is_plain(gold: str) -> bool:
    """Whether a gold answer can be read without math-verify."""
    if len(gold) > MAX_QUICK:
        return False
    body = clean(gold).body
    return bool(word(body) or based(body)) or all(map(number, expressions(gold) or ["no number"]))
