"""The demo goes from nothing to a trained policy, verified rollouts and a ProcessBench-style table, in the miniature world."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prmbench.benchmarks.processbench.run import evaluate_traces
from prmbench.benchmarks.processbench.schema import ProcessBenchEntry
from prmbench.data.rollouts import Rollout, Summary, summarise
from prmbench.data.traces import load_traces
from prmbench.miniature.build import Build, rollout_error, rollout_steps, train_policy
from prmbench.miniature.split_data import sample_split, write_traces
from prmbench.miniature.solutions import FORMATS
from prmbench.progress import duration
from prmbench.reward_models.loading import load_reward_model


@dataclass(frozen=True)
class DemoResult:
    """What the demo made.

    Attributes:
        build: What the miniature is made of.
        rollouts: Rollouts of test problems.
        summary: Their summary.
        errors: Number of rollouts by kind of the first error.
        lengths: Number of rollouts by their number of steps.
        entry: The ProcessBench entry.
        entry_path: Its file.
        seconds: Seconds that each stage took.
    """

    build: Build
    rollouts: list[Rollout]
    summary: Summary
    errors: dict[str, int]
    lengths: dict[int, int]
    entry: ProcessBenchEntry
    entry_path: Path
    seconds: dict[str, float]


def run_demo(
    build: Build | None = None,
    *,
    n_problems: int = 600,
    n: int = 4,
    n_traces: int = 400,
    log: Callable[[str], None] = print,
) -> DemoResult:
    """Train a policy, sample and verify rollouts, make traces of them, and evaluate EndoRM on these.

    Args:
        build: What the miniature is made of; None takes the default. Its policy is trained once and kept.
        n_problems: Number of test problems.
        n: Number of completions of each problem.
        n_traces: Number of labelled traces in each format.
        log: Called with a line for every stage and measurement.
    """
    build = build or Build()
    folder = build.folder()
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(title: str) -> Iterator[None]:
        log(f"{len(seconds) + 1}. {title}")
        start = time.monotonic()
        yield
        seconds[title] = time.monotonic() - start
        log(f"   done in {duration(seconds[title])}")

    with stage(f"train a policy from random weights to a pass rate of {build.pass_rate:.0%} ({build.backbone})"):
        policy_folder = train_policy(build, log=lambda line: log(f"   {line}"))
    with stage(f"sample {n} completions of each of {n_problems} test problems, and verify them"):
        _, rollouts = sample_split(build, policy_folder, "test", n_problems, n)
    with stage("make labelled traces in two formats, and evaluate EndoRM on them"):
        data = write_traces(build, rollouts, n_traces, f"test-{n_problems}x{n}")
        found = evaluate_traces(
            load_reward_model(policy_folder, kind="endo"),
            load_traces(data, list(FORMATS)),
            name="miniature policy",
            source=str(policy_folder),
            output=folder / f"endo-{n_problems}x{n}",
            batch_tokens=16_384,
            miniature=True,
        )
    errors = dict(Counter(rollout_error(r, build.world) for r in rollouts).most_common())
    lengths = dict(sorted(Counter(len(rollout_steps(r)) for r in rollouts).items()))
    return DemoResult(build, rollouts, summarise(rollouts), errors, lengths, *found, seconds)
