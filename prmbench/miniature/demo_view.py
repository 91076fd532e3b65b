"""How the demo's results are shown on the screen, each as soon as it is there."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prmbench.benchmarks.best_of_n.table import render as render_best_of_n
from prmbench.benchmarks.processbench.table import render as render_processbench
from prmbench.data.rollouts import Rollout
from prmbench.data.traces import Trace
from prmbench.miniature.build import rollout_steps
from prmbench.miniature.checker import first_wrong_step
from prmbench.miniature.demo import Demo
from prmbench.miniature.targets import Regime
from prmbench.miniature.world import World, parse_problem
from prmbench.progress import duration
from prmbench.scoring.run import Scored
from prmbench.scoring.view import colour, shade

N_SHOWN = 10


class Stages:
    """Titles of the demo's stages, and the seconds that each took.

    Attributes:
        seconds: Seconds that each stage took, by its title.
    """

    def __init__(self) -> None:
        """Start with no stage."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Say what begins, and afterwards how long it took.

        Args:
            title: What is done.
        """
        print(f"\n{len(self.seconds) + 1}. {title}", flush=True)
        start = time.monotonic()
        yield
        self.seconds[title] = time.monotonic() - start
        print(f"   done in {duration(self.seconds[title])}", flush=True)

    def sentence(self) -> str:
        """Say how long everything took."""
        parts = ", ".join(f"{i} {duration(one)}" for i, one in enumerate(self.seconds.values(), start=1))
        return f"Times: {duration(sum(self.seconds.values()))} in all; by stage {parts}."


def show(demo: Demo) -> None:
    """Run the demo and print each result as soon as it is there.

    Args:
        demo: The demo.
    """
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    stages, sizes = Stages(), demo.sizes
    # The policy, and what it writes.
    with stages.stage(f"the policy ({demo.build.backbone}): {demo.build.origin()}"):
        folder = demo.policy_folder
    print(f"   {folder}")
    with stages.stage(f"sample {sizes.samples} completions of each of {sizes.problems} test problems, and verify them"):
        rollouts = demo.rollouts
    console.print(rollouts_table(rollouts[:: max(1, len(rollouts) // 3)][:3], demo.build.world))
    console.print(Text(demo.summary.sentence() + "."))
    console.print(_counts("First errors by kind", demo.errors))
    console.print(_counts("Steps of a rollout", {str(k): v for k, v in demo.lengths.items()}))
    # The first table, which needs no training.
    with stages.stage(
        f"make {sizes.traces} labelled traces in each of three formats, and score them by the policy's own log-probs"
    ):
        endo, endo_path = demo.endo
    console.print(render_processbench(endo))
    # A reward model.
    with stages.stage(
        f"train a reward model on rollouts of {sizes.outcomes:,} training problems, and score the same traces"
    ):
        ipvrm, ipvrm_path = demo.ipvrm
    console.print(render_processbench(ipvrm))
    with stages.stage(f"rerank {sizes.candidates} completions of each of {sizes.reranked} problems"):
        best_of_n, best_path = demo.best_of_n
    console.print(render_best_of_n(best_of_n))
    with stages.stage("compare the miniature with the paper's regime"):
        regime = demo.regime
    console.print(regime_table(regime))
    # Steps in colours, and what to do next.
    console.print(
        Text(
            f"\n{N_SHOWN} solutions with the reward model's score of every step; the colour says how likely the prefix is right:\n"
        )
    )
    console.print(scored_table(demo.scored(N_SHOWN)))
    console.print(Text(stages.sentence()))
    # Not through rich: a command must survive copy and paste, unwrapped.
    print(f"\nnext:  prmbench compare {endo_path.parent} {ipvrm_path.parent}")
    print(f"       prmbench report {ipvrm_path.parent} {best_path.parent} --output report.html")
    print(f"       prmbench eval --rm {demo.reward_model_folder} --data YOUR-TRACES.jsonl")


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


def scored_table(scored: list[tuple[Trace, Scored]], protocol: str = "prefix") -> Table:
    """Make a table with a row for each step: its score in a colour, and whether it is the first error, in truth and as predicted.

    Args:
        scored: Traces with their scores.
        protocol: Which score to show.
    """
    table = Table.grid(padding=(0, 1))
    for column in ("right", "left", "left"):
        table.add_column(justify=column)
    every = np.concatenate([one.scores[protocol] for _, one in scored])
    for trace, one in scored:
        table.add_row("", Text(trace.problem, style="bold"), "")
        for i, (step, value) in enumerate(zip(trace.steps, one.scores[protocol], strict=True)):
            style = colour(shade(value, every, None))
            marks = [
                *(["true first error"] if trace.label == i else []),
                *(["predicted"] if one.first_error == i else []),
            ]
            table.add_row(
                Text(f"{value:.2f}", style=style),
                Text(step, style=style),
                Text(f"<- {', '.join(marks)}" if marks else ""),
            )
        table.add_row("", Text(_outcome(trace.label, one.first_error), style="dim"), "")
    return table


def _outcome(label: int, predicted: int | None) -> str:
    """Say what became of a trace."""
    if label == predicted:
        return "no error, and none is predicted" if label < 0 else "the error is found"
    if label < 0:
        return "no error, but one is predicted"
    return "the error is missed" if predicted == -1 else "another step is predicted"


def regime_table(regime: Regime) -> Table:
    """Make a table of the figures that the world was tuned on, beside what they are to be.

    Args:
        regime: The figures.
    """
    table = Table()
    for title in ("figure", "target", "here"):
        table.add_column(title, justify="left" if title == "figure" else "right")
    for row in regime.rows():
        table.add_row(*row)
    return table


def _counts(title: str, counts: dict[str, int]) -> Text:
    total = sum(counts.values())
    return Text(f"{title}: " + ", ".join(f"{name} {count / total:.1%}" for name, count in counts.items()) + ".")
