"""The one exception a user's mistake raises, and small helpers to word it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend: one sentence that says what was found, what was expected, and how to mend it.

    The command line prints it without a traceback and exits with code 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known word closest to `word`, or the empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f" (did you mean '{found[0]}'?)" if found else ""


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an exception's message, for quoting a library's error in one sentence."""
    for line in str(error).split("\n"):
        if line.strip():
            return line.strip()
    return type(error).__name__
