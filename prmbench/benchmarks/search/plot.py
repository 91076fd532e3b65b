"""The picture of an entry of guided search: accuracy against compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.search.metrics import POOLED
from prmbench.benchmarks.search.schema import SearchMetrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_search(measured: Measured) -> Figure:
    """Draw accuracy against operations and against wall time: Best-of-N as a line, each method as points at its budgets.

    Args:
        measured: The entry and its items.
    """
    from matplotlib.figure import Figure

    metrics: SearchMetrics = measured.entry.metrics
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, metrics)
    _draw(right, metrics, seconds=True)
    left.set_ylabel("accuracy, %")
    left.legend(fontsize=8)
    return figure


def _draw(axis: Any, metrics: SearchMetrics, *, seconds: bool = False) -> None:
    known = metrics.compute == "flops"
    if not seconds:
        points = metrics.mean.curve.values()
        at = [(one.flops or 0) / 1e9 if known else one.sampled for one in points]
        for key, style in (("accuracy", "-"), ("weighted", ":"), ("any_right", "--")):
            label = {"accuracy": "best-of-n", "weighted": "weighted vote", "any_right": "any right"}[key]
            values = [100 * (getattr(one, key).value or 0) for one in points]
            axis.plot(at, values, style, color="0.4", linewidth=1, label=label)
    for method in dict.fromkeys(name.rpartition("@")[0] for name in metrics.mean.methods):
        if method in POOLED and not seconds:
            continue
        mine = [one for name, one in metrics.mean.methods.items() if name.rpartition("@")[0] == method]
        cost = [((one.policy_flops or 0) + (one.model_flops or 0)) / 1e9 if known else one.sampled for one in mine]
        x = [one.seconds for one in mine] if seconds else cost
        y = [100 * (one.accuracy.value or 0) for one in mine]
        ends = [(one.accuracy.low, one.accuracy.high) for one in mine]
        below = [max(0.0, v - 100 * low) for v, (low, _) in zip(y, ends, strict=True) if low is not None]
        above = [max(0.0, 100 * high - v) for v, (_, high) in zip(y, ends, strict=True) if high is not None]
        bars = [below, above] if len(below) == len(y) else None
        axis.errorbar(x, y, yerr=bars, marker="o", capsize=2, linewidth=1, label=method)
    if seconds:
        axis.set_xlabel("seconds a problem")
    else:
        axis.set_xscale("log")
        axis.set_xlabel("GFLOPs a problem" if known else "tokens sampled a problem")
