"""A calibration probe on the screen and on a report's page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.calibration.plot import draw_calibration
from prmbench.benchmarks.calibration.schema import CalibrationMetrics
from prmbench.benchmarks.parts import Cell, Picture, Section, ShownTable, about, to_svg
from prmbench.benchmarks.tables import new_table, number, probe_heading, safe
from prmbench.data.traces import Trace
from prmbench.results.schema import Entry

LINKS_NOTE = "margin: the objective's own link, with its margin; naive: the sigmoid of the value."


def render(entry: Entry[CalibrationMetrics]) -> RenderableType:
    """Both links along the response.

    Args:
        entry: The entry.
    """
    metrics = entry.metrics
    table = new_table(f"{metrics.n_rollouts:,} rollouts", "", ("AUC", "link", "mean predicted", "Brier", "ECE"))
    for part in metrics.parts:
        for i, (name, link) in enumerate(part.links.items()):
            first = (f"first {100 * part.upto:.0f}%", number(part.auc)) if i == 0 else ("", "")
            table.add_row(*first, name, *(number(x) for x in (link.predicted, link.brier, link.ece)))
    about = f"Right: {number(metrics.pass_rate)}; Brier score of that as everyone's prediction {metrics.brier_constant:.3f}."
    return Group(*map(safe, probe_heading(entry, "Calibration")), table, about, LINKS_NOTE)


def section(measured: Measured, traces: Sequence[Trace] | None) -> Section:
    """The probe's part of a report: both links along the response.

    Args:
        measured: The entry and its items.
        traces: Not used.
    """
    entry, metrics = measured.entry, measured.entry.metrics
    rows = [
        (
            f"first {100 * part.upto:.0f}%, {name}",
            [Cell.of(x) for x in (part.auc, link.predicted, link.brier, link.ece)],
        )
        for part in metrics.parts
        for name, link in part.links.items()
    ]
    table = ShownTable(["response, link", "AUC", "mean predicted", "Brier score", "calibration error"], rows)
    picture = Picture(
        to_svg(draw_calibration(measured), "Calibration"),
        "Left: predicted probability of a right answer against the share right. Right: Brier score along the response; dashed: "
        f"everyone's prediction the pass rate ({metrics.brier_constant:.3f}).",
    )
    lines = [
        f"{metrics.n_rollouts:,} rollouts, {100 * (metrics.pass_rate.value or 0):.1f}% right",
        LINKS_NOTE,
    ]
    return Section("Calibration", [*about(entry), *lines], [("Times 100", table)], [picture])
