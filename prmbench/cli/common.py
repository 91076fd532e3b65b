"""What every command of the command line shares."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import typer
from typer.core import TyperGroup

from prmbench.errors import ArgumentError, UserError, as_flags, printable

if TYPE_CHECKING:
    from rich.console import Console

Command = TypeVar("Command", bound=Callable[..., None])

FLAGS = {
    "as_json": "json",
    "form": "format",
    "n_resamples": "resamples",
    "override": "set",
    "overrides": "set",
    "prices": "price",
    "sizes": "n",
    "subsets": "subset",
    "template_args": "template-arg",
}
"""Flags of arguments whose name on the command line is another than in Python."""

OTHER_NAMES = {
    ("--model", "--checkpoint", "--ckpt", "--model-path", "--pretrained"): ("--rm", "--policy"),
    ("--reward-model", "--prm"): ("--rm",),
    ("--reference-model", "--ref", "--ref-model"): ("--reference",),
    ("--dataset", "--input", "--file"): ("--data", "--problems", "--rollouts"),
    ("--task", "--tasks"): ("--benchmark",),
    ("--batch-size", "--bs"): ("--batch-tokens",),
    ("--out", "--output-dir", "--save-dir"): ("--output",),
    ("--num-samples", "--samples", "--num-generations", "--best-of", "--votes"): ("--n",),
    ("--max-tokens", "--max-length"): ("--max-new-tokens",),
    ("--tp", "--tensor-parallel-size", "--num-gpus", "--gpus"): ("--tensor-parallel",),
    ("--dp", "--data-parallel-size"): ("--data-parallel",),
    ("--system-prompt",): ("--system",),
    ("--adapter", "--lora", "--peft"): ("--rm", "--policy"),
}
"""What other tools call an option, and what it is called here."""


class Suggesting(TyperGroup):
    """The group of all commands. Of an option that a command does not have, it names the one that other tools call so."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Args:
            ctx: What the parser knows of the call.
        """
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Typer's versions bring the class NoSuchOption from different places.
            asked: Any = error
            if type(error).__name__ == "NoSuchOption" and asked.ctx is not None:
                has = {name for one in asked.ctx.command.params for name in one.opts}
                meant = (here for theirs, here in OTHER_NAMES.items() if asked.option_name in theirs)
                asked.possibilities = [name for names in meant for name in names if name in has] or asked.possibilities
            raise


def interruptible(command: Command) -> Command:
    """Make a command of a function: its errors name flags, and Ctrl-C ends it with one sentence and exit code 130.

    Args:
        command: The function.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            for name, value in kwargs.items():
                for one in value if isinstance(value, list) else [value]:
                    if isinstance(one, str | Path):
                        _check_text(name, str(one))
            command(*args, **kwargs)
        except UserError as error:
            raise UserError(as_flags(str(error), {**_benchmark_flags(), **FLAGS})) from None
        except KeyboardInterrupt as stop:
            kept = str(stop) or "stopped; what was written before is kept, and the same command goes on from there"
            print(kept, file=sys.stderr)
            raise typer.Exit(130) from None

    return cast(Command, run)


def console() -> Console:
    """What tables are printed on: as wide as the terminal or ``COLUMNS`` says, and 120 columns where neither does."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)


def _benchmark_flags() -> dict[str, str]:
    """Flags of benchmarks' own options that have another name than the option."""
    from prmbench.benchmarks.registry import BENCHMARKS

    every = [one for name in BENCHMARKS.names() for one in dataclasses.fields(BENCHMARKS.find(name).options)]
    return {one.name: one.metadata["flag"] for one in every if one.metadata.get("flag")}


def quiet_libraries() -> None:
    """Keep transformers from printing warnings and progress of its own."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _check_text(name: str, value: str) -> None:
    """Raise ArgumentError where the value of an option is no text in UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ArgumentError(name, printable(value), "is no text in UTF-8; write it in UTF-8") from None
