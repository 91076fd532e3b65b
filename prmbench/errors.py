"""What a user's mistake raises, and small helpers to word it.

A message names an argument as Python has it, in the form that `argument` gives: `` `limit=0` `` or `` `output=` ``. The command
line turns that form into its own flags (`as_flags`), so that the library never speaks of flags.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence that says what was found, what was expected, and how to mend it. The command line prints it
    without a traceback and exits with code 2.
    """


class ArgumentError(UserError):
    """A mistake in one argument. Its message begins with the argument, in the form that `argument` gives.

    Attributes:
        name: The argument's name, as the Python function has it.
    """

    name: str

    def __init__(self, name: str, value: object, problem: str) -> None:
        """Word the mistake.

        Args:
            name: The argument's name, as the Python function has it.
            value: What was passed; None where the mistake is that it is there, or is not there.
            problem: What is wrong with it, what was expected, and how to mend it.
        """
        super().__init__(f"{argument(name, value)}: {problem}")
        self.name = name


def argument(name: str, value: object = None) -> str:
    """Name an argument inside a message.

    Args:
        name: The argument's name, as the Python function has it.
        value: The value to show after it; None shows none.

    Returns:
        `` `name=value` `` in backticks, which `as_flags` recognises. A backtick inside the value becomes an apostrophe.
    """
    return f"`{name}={'' if value is None else str(value).replace('`', chr(39))}`"


_ARGUMENT = re.compile(r"`([a-z_]+)=([^`]*)`")


def as_flags(message: str, renamed: Mapping[str, str] | None = None) -> str:
    """Turn the arguments that a message names into flags of the command line.

    Args:
        message: The text of a `UserError`.
        renamed: Flags, without their dashes, of arguments that have another name on the command line.

    Returns:
        The message, with `` `limit=0` `` as ``--limit 0`` and `` `output=` `` as ``--output``.
    """

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        name = (renamed or {}).get(name, name.replace("_", "-"))
        return f"--{name} {value}" if value else f"--{name}"

    return _ARGUMENT.sub(flag, message)


def nearest(word: str, known: Iterable[str]) -> str:
    """Find a known word that the given one may have meant.

    Args:
        word: The word.
        known: The words that are known.

    Returns:
        ``" (did you mean 'x'?)"`` with the closest known word, or the empty string.
    """
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f" (did you mean '{found[0]}'?)" if found else ""


def naming_keywords(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Make a function's error about a keyword that it does not have name the nearest one that it has.

    Args:
        function: The function; it takes no further keywords (``**``).

    Returns:
        The same function, otherwise.
    """
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        for name in kwargs:
            if name not in known:
                raise TypeError(f"{function.__name__}: unexpected keyword '{name}'{nearest(name, known)}")
        return function(*args, **kwargs)

    return call


def nearest_path(path: Path, *, folders_only: bool = False) -> str:
    """Find a file beside a path that does not exist, which may have been meant.

    Args:
        path: The path.
        folders_only: Whether only folders are looked at.

    Returns:
        As `nearest` does.
    """
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return nearest(path.name, [p.name for p in beside if p.is_dir() or not folders_only])


def shortened(text: str) -> str:
    """Cut a value to 60 characters, for quoting it.

    Args:
        text: The value.
    """
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: str) -> str:
    """Replace every character that a terminal would act on by a question mark.

    Args:
        text: The text.
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def first_line(error: BaseException) -> str:
    """Take the first non-empty line of an exception's message, for quoting a library's error in one sentence.

    Args:
        error: The exception.

    Returns:
        The line; the exception's class where its message is empty.
    """
    for line in str(error).split("\n"):
        if line.strip():
            return line.strip()
    return type(error).__name__
