"""Pictures of probe entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prmbench.benchmarks.calibration.run import CalibrationEntry
from prmbench.benchmarks.probe_tables import SIGNALS
from prmbench.benchmarks.td_probe.metrics import BranchItem, columns_of
from prmbench.benchmarks.td_probe.run import TDProbeEntry
from prmbench.results.schema import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_BINS = 8


def draw_td_probe(entry: TDProbeEntry, items: Sequence[BranchItem]) -> Figure:
    """How often branches end right against their TD and their value, in bins of equally many branches; how well both go with
    outcomes along the response."""
    from matplotlib.figure import Figure

    found = columns_of(items, entry.subject)
    share = found.branches.share
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    of_td, of_value, along = figure.subplots(1, 3)
    for axis, name in ((of_td, "td"), (of_value, "value")):
        _binned(axis, found.signals[name], share)
        axis.set(xlabel=SIGNALS[name], ylabel="rollouts that end right, %", ylim=(0, None))
    positions = entry.metrics.positions
    middles = [100 * (one.low + one.high) / 2 for one in positions]
    _with_bars(along, middles, [one.value_auc for one in positions], "AUC of V", 0.5)
    _with_bars(along, middles, [one.td_pearson for one in positions], "Pearson of TD", 0.0)
    along.set(xlabel="position in the response, %", ylim=(-0.5, 1))
    if along.has_data():
        along.legend(fontsize=8)
    for axis in (of_td, of_value, along):
        axis.grid(alpha=0.25)
    return figure


def draw_calibration(entry: CalibrationEntry) -> Figure:
    """Reliability of the whole response's value under both links; and the Brier score along the response."""
    from matplotlib.figure import Figure

    metrics = entry.metrics
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


def _binned(axis: Axes, values: np.ndarray, share: np.ndarray) -> None:
    order = np.argsort(values, kind="stable")
    parts = [part for part in np.array_split(order, N_BINS) if len(part)]
    x = [float(values[part].mean()) for part in parts]
    y = [100 * float(share[part].mean()) for part in parts]
    error = [100 * float(share[part].std() / np.sqrt(len(part))) for part in parts]
    axis.errorbar(x, y, yerr=error, marker="o", linewidth=1, capsize=2)


def _with_bars(axis: Axes, x: list[float], estimates: Sequence[Estimate], label: str, nothing: float) -> None:
    kept = [(at, one) for at, one in zip(x, estimates, strict=True) if one.value is not None]
    if not kept:
        return
    values = np.array([one.value for _, one in kept])
    low, high = (
        np.array([v if end is None else end for v, end in zip(values, ends, strict=True)])
        for ends in ([one.low for _, one in kept], [one.high for _, one in kept])
    )
    bars = np.maximum([values - low, high - values], 0)  # a percentile interval may leave its figure out
    line = axis.errorbar([at for at, _ in kept], values, yerr=bars, marker="o", capsize=2, label=label)[0]
    axis.axhline(nothing, color=line.get_color(), linestyle=":", linewidth=1)
