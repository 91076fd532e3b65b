"""Scored solutions on the terminal: every step with its score in a colour, and the first error marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prmbench.data.solutions import Solution
from prmbench.errors import printable
from prmbench.scoring.run import Scored
from prmbench.scoring.threshold import Threshold

STEP_WIDTH = 400
"""Characters of a step that are shown."""


def render(
    solutions: Sequence[Solution],
    scored: Sequence[Scored],
    protocol: str | None,
    threshold: Threshold | None,
    show: int | None = None,
) -> RenderableType:
    """Show solutions in colours from red (low) to green (high).

    The colour says how far a score is below or above the threshold; without one, what rank it has among all scores.

    Args:
        solutions: The solutions.
        scored: Their scores, in the same order.
        protocol: Which score to show; None for the votes of a critic.
        threshold: Where scores are divided; None for ranks.
        show: How many solutions to show, from the first on; None for all. The scores of the others count in the ranks.

    Returns:
        What rich prints.
    """
    parts: list[RenderableType] = []
    every = np.concatenate([one.scores[protocol] for one in scored]) if protocol else np.zeros(0)
    for solution, one in list(zip(solutions, scored, strict=True))[:show]:
        parts.append(Text(f"{printable(solution.id)}: {shorten(solution.problem)}", style="bold"))
        table = Table.grid(padding=(0, 1))
        for column in ("right", "right", "left"):
            table.add_column(justify=column)
        for i, step in enumerate(solution.steps):
            text = Text()
            if one.first_error == i:
                text.append("first error: ", style="bold red")
            if protocol:
                value = one.scores[protocol][i]
                style = colour(shade(value, every, threshold))
                table.add_row(f"{i:>4}", Text(f"{value:.3f}", style=style), text.append(shorten(step), style=style))
            else:
                table.add_row(f"{i:>4}", "", text.append(shorten(step), style="default"))
        parts.append(table)
        if one.votes is not None:
            said = ", ".join("no verdict" if v is None else str(v) for v in one.votes)
            parts.append(Text(f"      votes: {said}"))
        if one.first_error == -1:
            parts.append(Text("      no error predicted", style="green"))
        parts.append(Text())
    return Group(*parts)


def shade(value: float, every: NDArray[np.float64], threshold: Threshold | None) -> float:
    """Say how low or high a score is among others.

    Args:
        value: The score.
        every: All scores. float64, shape [n].
        threshold: Where scores are divided; None for the rank among all.

    Returns:
        A number from -1 (lowest) to 1 (highest). With a threshold, its size is the share of the scores on the same side that this
        one is beyond.
    """
    if threshold is None:
        return float(2 * np.mean(every <= value) - 1)
    if value < threshold.value:
        side = every[every < threshold.value]
        return -float(np.mean(side >= value))
    side = every[every >= threshold.value]
    return float(np.mean(side <= value))


def colour(shade: float) -> str:
    """Choose a colour that is told apart on dark and light terminals: red below 0, green above, grey between.

    Args:
        shade: A number from -1 to 1, from `shade`.

    Returns:
        Name of the colour.
    """
    if abs(shade) < 0.2:
        return "default"
    return ("red" if shade < 0 else "green") if abs(shade) > 0.6 else ("yellow" if shade < 0 else "cyan")


def shorten(text: str) -> str:
    """Make one printable line of a text.

    Args:
        text: The text.

    Returns:
        The line, cut to `STEP_WIDTH` characters.
    """
    line = printable(" ".join(text.split()))
    return line if len(line) <= STEP_WIDTH else f"{line[: STEP_WIDTH - 3]}..."
