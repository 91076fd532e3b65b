"""Scored solutions on the terminal: every step with its score, coloured by it, the first error marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prmbench.data.solutions import Solution
from prmbench.errors import printable
from prmbench.scoring.run import Scored, Threshold

STEP_WIDTH = 400
"""Characters of a step that are shown."""


def render(
    solutions: Sequence[Solution],
    scored: Sequence[Scored],
    protocol: str | None,
    threshold: Threshold | None,
    show: int | None = None,
) -> RenderableType:
    """The solutions, from red (low) to green (high): below and above the threshold, or without one by rank among all scores.

    Args:
        scored: of these solutions, in one order. protocol: which score; None: a critic's votes. show: the first this many; the
            others' scores count in the ranks.
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
    """-1 (lowest) to 1 (highest): the share of scores on its side of the threshold that it is beyond; without one, its rank."""
    if threshold is None:
        return float(2 * np.mean(every <= value) - 1)
    if value < threshold.value:
        side = every[every < threshold.value]
        return -float(np.mean(side >= value))
    side = every[every >= threshold.value]
    return float(np.mean(side <= value))


def colour(shade: float) -> str:
    """A colour that is told apart on dark and light terminals: red below 0, green above, grey between."""
    if abs(shade) < 0.2:
        return "default"
    return ("red" if shade < 0 else "green") if abs(shade) > 0.6 else ("yellow" if shade < 0 else "cyan")


def shorten(text: str) -> str:
    """One printable line of a text, cut to `STEP_WIDTH` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= STEP_WIDTH else f"{line[: STEP_WIDTH - 3]}..."
