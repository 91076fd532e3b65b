"""The picture of a calibration probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.calibration.schema import CalibrationMetrics, StateResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_calibration(measured: Measured) -> Figure:
    """Draw the reliability of the whole response's value under both links, and the Brier score along the response.

    Where the truth is labels by rollouts: the reliability of the values at the ends of steps.

    Args:
        measured: The entry and its items.
    """
    from matplotlib.figure import Figure

    metrics: CalibrationMetrics = measured.entry.metrics
    if metrics.states is not None:
        return _draw_states(metrics.states)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    diagram, along = figure.subplots(1, 2)
    diagram.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, link in metrics.parts[-1].links.items():
        x, y, size = np.array(link.diagram).T
        diagram.scatter(x, y, s=12 + 300 * size, alpha=0.7, label=name)
    diagram.set(
        xlabel="predicted probability", ylabel="share right", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal"
    )
    upto = [100 * part.upto for part in metrics.parts]
    for name in metrics.parts[0].links:
        along.plot(upto, [part.links[name].brier.value or 0 for part in metrics.parts], marker="o", label=name)
    along.axhline(metrics.brier_constant, color="0.6", linestyle="--", linewidth=1, label="pass rate for everyone")
    along.set(xlabel="share of the response, %", ylabel="Brier score", ylim=(0, None))
    for axis in (diagram, along):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.25)
    return figure


def _draw_states(states: StateResult) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.8), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, link in states.named_links.items():
        x = np.array([predicted for predicted, _, _ in link.diagram])
        size = np.array([share for _, _, share in link.diagram])
        # A bin without an interval has one that is as high as its point.
        y, low, high = np.array(
            [
                [one.value if end is None else end for end in (one.value, one.low, one.high)]
                for _, one, _ in link.diagram
            ],
            dtype=float,
        ).T
        dots = axis.scatter(x, y, s=12 + 300 * size, alpha=0.7, label=name)
        axis.vlines(x, low, high, color=dots.get_facecolor(), linewidth=1)
    axis.set(
        xlabel="predicted probability",
        ylabel="rate of right continuations",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
    )
    axis.legend(fontsize=8)
    axis.grid(alpha=0.25)
    return figure
