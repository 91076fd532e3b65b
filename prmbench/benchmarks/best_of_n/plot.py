"""The picture of Best-of-N entries: accuracy against N."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prmbench.benchmarks.best_of_n.schema import BestOfNMetrics
from prmbench.benchmarks.names import distinct
from prmbench.errors import UserError, printable
from prmbench.results.schema import Entry, what_it_is

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINES = {"pass": "any right", "majority": "majority", "mean": "random choice"}


def plot_best_of_n(entries: Sequence[Entry[BestOfNMetrics]], path: Path, estimator: str = "expected") -> Path:
    """Draw entries into a file; see `draw_best_of_n`.

    Args:
        entries: Entries on the same completions.
        path: The picture, whose name ends in .svg, .png or .pdf.
        estimator: ``expected`` (over all subsets of N) or ``first`` (the first N).

    Returns:
        The path.
    """
    figure = draw_best_of_n(entries, estimator)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def draw_best_of_n(entries: Sequence[Entry[BestOfNMetrics]], estimator: str = "expected") -> Figure:
    """Draw accuracy against N of several reward models, each by its own score, with intervals.

    Args:
        entries: Entries on the same completions.
        estimator: ``expected`` (over all subsets of N) or ``first`` (the first N).

    Raises:
        UserError: No entry, or entries of different completions.
    """
    if not entries:
        raise UserError("no entry to plot")
    # Curves of one figure are of the same completions.
    first = entries[0]
    for entry in entries:
        if entry.benchmark.fingerprint != first.benchmark.fingerprint:
            raise UserError(
                f"'{entry.subject.name}' and '{first.subject.name}' were evaluated on different completions; plot them apart"
            )
    from matplotlib.figure import Figure

    metrics = max((entry.metrics for entry in entries), key=lambda one: (one.sizes[-1], len(one.sizes)))
    ticks = sorted({size for entry in entries for size in entry.metrics.sizes})
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    # What needs no reward model: dashed and grey.
    for name, label in BASELINES.items():
        curve = metrics.mean.baselines[name]
        axis.plot(
            metrics.sizes,
            [100 * (curve[str(n)][estimator].value or 0) for n in metrics.sizes],
            color="0.6",
            linestyle="--",
            linewidth=1,
        )
        axis.annotate(
            label,
            (metrics.sizes[-1], 100 * (curve[str(metrics.sizes[-1])][estimator].value or 0)),
            color="0.4",
            fontsize=8,
        )
    # A curve of each entry, with its interval as a band.
    names = distinct([e.subject.name for e in entries], [what_it_is(e.subject) for e in entries])
    for entry, name in zip(entries, names, strict=True):
        curve = entry.metrics.mean.scores[entry.metrics.own]
        points = [curve[str(n)][estimator] for n in entry.metrics.sizes]
        line = axis.plot(
            entry.metrics.sizes, [100 * (p.value or 0) for p in points], marker="o", label=printable(name)
        )[0]
        if all(p.low is not None for p in points):
            low, high = [100 * (p.low or 0) for p in points], [100 * (p.high or 0) for p in points]
            axis.fill_between(entry.metrics.sizes, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    # Sizes double, so the axis is logarithmic.
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.set(xlabel="N", ylabel="accuracy of the selected completion, %")
    for text in axis.legend(fontsize=8).get_texts():
        text.set_parse_math(False)  # a name with dollar signs is no formula
    return figure
