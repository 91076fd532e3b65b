"""What every command of the command line shares."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import typer

from prmbench.errors import UserError, as_flags

Command = TypeVar("Command", bound=Callable[..., None])

FLAGS = {
    "as_json": "json",
    "n_resamples": "resamples",
    "overrides": "set",
    "sizes": "n",
    "subsets": "subset",
    "template_args": "template-arg",
}
"""Flags of arguments whose name on the command line is another than in Python."""


def interruptible(command: Command) -> Command:
    """Make a command of a function: its errors name flags, and Ctrl-C ends it with one sentence and exit code 130.

    Args:
        command: The function.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            raise UserError(as_flags(str(error), FLAGS)) from None
        except KeyboardInterrupt as stop:
            kept = str(stop) or "stopped; what was written before is kept, and the same command goes on from there"
            print(kept, file=sys.stderr)
            raise typer.Exit(130) from None

    return cast(Command, run)


def quiet_libraries() -> None:
    """Keep transformers from printing warnings and progress of its own."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
