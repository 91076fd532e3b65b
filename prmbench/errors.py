"""The one exception a user's mistake raises, and small helpers to word it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend: one sentence that says what was found, what was expected, and how to mend it.

    The command line prints it without a traceback and exits with code 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known word closest to `word`, or the empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f" (did you mean '{found[0]}'?)" if found else ""


def nearest_path(path: Path, *, folders_only: bool = False) -> str:
    """`nearest` among the files and folders (or the folders alone) beside a path that does not exist."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return nearest(path.name, [p.name for p in beside if p.is_dir() or not folders_only])


def shortened(text: str) -> str:
    """A quoted value, cut to 60 characters."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: str) -> str:
    """Every character that a terminal would act on, as a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an exception's message, for quoting a library's error in one sentence."""
    for line in str(error).split("\n"):
        if line.strip():
            return line.strip()
    return type(error).__name__
