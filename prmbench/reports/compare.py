"""Compare entries on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prmbench.benchmarks.differences import Comparison, check_choice
from prmbench.benchmarks.registry import load_measured
from prmbench.errors import UserError
from prmbench.results.schema import check_resamples


def compare(paths: Sequence[str | Path], *, n_resamples: int = 10_000, seed: int = 0, **choice: Any) -> Comparison:
    """Compare every two entries.

    Args:
        paths: Two entries or more: entry files, or the folders of runs.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples, and of crossfit's folds.
        choice: What is compared, where the benchmark leaves a choice: ``protocol`` and ``thresholds`` (ProcessBench), ``n``
            (Best-of-N). None stands for the benchmark's default.

    Returns:
        The comparison; it can be rendered, and written as JSON.

    Raises:
        UserError: Entries of different benchmarks or of other items, or a choice that means nothing to the benchmark.

    Examples:
        >>> first, _ = prmbench.evaluate("CKPT", data="my-traces.jsonl", output="first")
        >>> second, _ = prmbench.evaluate("SFT", kind="endo", data="my-traces.jsonl", output="second")
        >>> found = prmbench.compare(["first", "second"], n_resamples=100)
        >>> list(found.to_frame()["subset"])
        ['my-traces', 'mean']
    """
    if len(paths) < 2:
        raise UserError("compare: expected two entries or more")
    check_resamples(n_resamples)
    measured = [load_measured(path) for path in paths]
    names = {one.benchmark.name for one in measured}
    if len(names) > 1:
        raise UserError(f"{' and '.join(sorted(names))}: entries of different benchmarks cannot be compared")
    benchmark = measured[0].benchmark
    given = {name: value for name, value in choice.items() if value is not None}
    check_choice(benchmark, given)
    return benchmark.compare(measured, n_resamples=n_resamples, seed=seed, **given)
