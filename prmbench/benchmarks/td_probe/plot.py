"""The picture of a TD probe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.td_probe.metrics import columns_of
from prmbench.benchmarks.td_probe.schema import TDProbeMetrics
from prmbench.benchmarks.td_probe.words import SIGNALS
from prmbench.results.schema import Entry, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_BINS = 8


def draw_td_probe(measured: Measured) -> Figure:
    """Draw how often branches end right against their TD and their value, and how well both go with outcomes along the response.

    Args:
        measured: The entry and its items.
    """
    from matplotlib.figure import Figure

    entry: Entry[TDProbeMetrics] = measured.entry
    found = columns_of(measured.items, entry.subject)
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
