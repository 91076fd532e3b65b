"""How the demo's result is shown on the screen."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prmbench.benchmarks.processbench.table import render
from prmbench.data.rollouts import Rollout
from prmbench.miniature.build import rollout_steps
from prmbench.miniature.demo import DemoResult
from prmbench.miniature.world import World, first_wrong_step, parse_problem
from prmbench.progress import duration

N_SHOWN = 10


def show(result: DemoResult) -> None:
    """Print ten rollouts, what the world looks like, the table, and the times.

    Args:
        result: What the demo made.
    """
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(f"\nTen rollouts (of {len(result.rollouts):,}); the first wrong step is marked:\n")
    shown = result.rollouts[:: max(1, len(result.rollouts) // N_SHOWN)][:N_SHOWN]
    console.print(rollouts_table(shown, result.build.world))
    console.print(Text(result.summary.sentence() + "."))
    console.print(_counts("First errors by kind", result.errors))
    console.print(_counts("Steps of a rollout", {str(k): v for k, v in result.lengths.items()}))
    console.print()
    console.print(render(result.entry))
    times = ", ".join(f"{duration(seconds)} {title}" for title, seconds in result.seconds.items())
    console.print(Text(f"Times: {times}."))
    # Not through rich: a path must survive copy and paste, unwrapped.
    print(f"entry: {result.entry_path}")


def rollouts_table(rollouts: list[Rollout], world: World) -> Table:
    """Make a table with a row for each rollout: problem, steps with the first wrong one marked, verdict.

    Args:
        rollouts: The rollouts.
        world: The world of their problems.
    """
    table = Table(show_lines=True)
    for title in ("problem", "rollout", "gold", "verdict"):
        table.add_column(title)
    for rollout in rollouts:
        steps = rollout_steps(rollout)
        wrong = first_wrong_step(parse_problem(rollout.problem), steps, world)
        text = Text()
        for i, step in enumerate(steps):
            mark, style = ("   <- wrong", "bold red") if i == wrong else ("", "")
            text.append(f"{chr(10) if i else ''}{step}{mark}", style)
        table.add_row(Text(rollout.problem), text, rollout.answer, str(rollout.verdict))
    return table


def _counts(title: str, counts: dict[str, int]) -> Text:
    total = sum(counts.values())
    return Text(f"{title}: " + ", ".join(f"{name} {count / total:.1%}" for name, count in counts.items()) + ".")
