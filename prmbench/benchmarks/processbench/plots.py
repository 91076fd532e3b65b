"""Pictures of a ProcessBench entry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from prmbench.benchmarks.processbench.schema import TraceItem
from prmbench.stats.calibration import reliability, sigmoid
from prmbench.stats.thresholds import f1_curve, matches

Floats = NDArray[np.float64]

COLOURS = {"crossfit": "C0", "gsm8k": "C1", "oracle": "C2", "fixed": "C3"}


def f1_against_threshold(
    scores: dict[str, list[Floats]], labels: dict[str, list[int]], chosen: dict[str, dict[str, list[float]]]
) -> Figure:
    """Draw F1 of each subset at every threshold, exact, with the thresholds that the threshold rules chose.

    Args:
        scores: Scores of each trace's steps, by subset.
        labels: Index of each trace's first wrong step, -1: none; by subset.
        chosen: Thresholds by subset and threshold rule.
    """
    figure = Figure(figsize=(4.2 * len(scores), 3.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(scores), sharey=True))
    for axis, (name, rows) in zip(axes, scores.items(), strict=True):
        ends, f1 = f1_curve(matches(rows, labels[name]))
        finite = np.concatenate(rows)
        finite = finite[np.isfinite(finite)]
        low, high = np.quantile(finite, [0.005, 0.995]) if len(finite) else (-1.0, 1.0)
        marks = [t for values in chosen[name].values() for t in values if np.isfinite(t)]
        low, high = min([low, *marks]), max([high, *marks])
        room = 0.03 * (high - low) or 1.0
        edge = np.concatenate([[low - room], np.clip(ends, low - room, high + room)])
        axis.stairs(100 * f1, edge, color="0.35", linewidth=1.2, baseline=None)
        for rule, values in chosen[name].items():
            for i, value in enumerate(values):
                at = 100 * f1[np.searchsorted(ends, value)]
                axis.plot([value], [at], "o", color=COLOURS[rule], ms=5, label=rule if i == 0 else None)
        axis.set_title(name, parse_math=False)
        axis.set(xlabel="threshold (logit)", xlim=(low - room, high + room))
        axis.legend(fontsize=8)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("F1, %")
    return figure


def scores_around_errors(scores: dict[str, list[Floats]], labels: dict[str, list[int]]) -> Figure:
    """Draw how steps score before the first error, at it, and after it, and how steps of right traces score.

    Args:
        scores: Scores of each trace's steps, by subset.
        labels: Index of each trace's first wrong step, -1: none; by subset.
    """
    names = ("no error", "before", "first error", "after")
    figure = Figure(figsize=(4.2 * len(scores), 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(scores), sharey=True))
    for axis, (subset, rows) in zip(axes, scores.items(), strict=True):
        parts: dict[str, list[Floats]] = {name: [] for name in names}
        for row, label in zip(rows, labels[subset], strict=True):
            if label < 0:
                parts["no error"].append(row)
                continue
            parts["before"].append(row[:label])
            parts["first error"].append(row[label : label + 1])
            parts["after"].append(row[label + 1 :])
        values = [np.concatenate(parts[name]) if parts[name] else np.zeros(0) for name in names]
        values = [v[np.isfinite(v)] for v in values]
        shown = [(name, v) for name, v in zip(names, values, strict=True) if len(v)]
        axis.boxplot([v for _, v in shown], whis=(5, 95), showfliers=False, widths=0.6)
        axis.set_xticks(range(1, len(shown) + 1), [f"{name}\n{len(v):,}" for name, v in shown], fontsize=8)
        axis.set_title(subset, parse_math=False)
        axis.grid(axis="y", alpha=0.25)
    axes[0].set_ylabel("step score (logit)")
    return figure


def calibration(items: Sequence[TraceItem], scores: Sequence[Floats]) -> tuple[Figure, float]:
    """Draw the reliability of a step score's sigmoid as the probability that nothing up to that step is wrong.

    Steps weigh alike.

    Args:
        items: The items.
        scores: Scores of each item's steps, logits.

    Returns:
        The figure, and the expected calibration error.
    """
    predicted = sigmoid(np.concatenate(list(scores)))
    right = [
        np.arange(len(row)) < (item.label if item.label >= 0 else len(row))
        for item, row in zip(items, scores, strict=True)
    ]
    found = reliability(predicted, np.concatenate(right).astype(np.float64))
    figure = Figure(figsize=(3.6, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    some = found.share > 0
    axis.scatter(found.predicted[some], found.observed[some], s=12 + 300 * found.share[some], alpha=0.8)
    axis.set(xlabel="sigmoid of the score", ylabel="share right so far", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return figure, found.ece()
