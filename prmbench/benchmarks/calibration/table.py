"""A calibration probe on the screen and on a report's page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.calibration.plot import draw_calibration
from prmbench.benchmarks.calibration.schema import CalibrationMetrics, StateLink, StateResult
from prmbench.benchmarks.parts import Cell, Picture, Section, ShownTable, about, to_svg
from prmbench.benchmarks.tables import new_table, number, probe_heading, safe
from prmbench.data.traces import Trace
from prmbench.results.schema import Entry, Estimate

LINKS_NOTE = "margin: the objective's own link, with its margin; naive: the sigmoid of the value."
STATES_NOTE = (
    "Brier: against single continuations; error: squared difference from the true rate, the noise of rates taken out; inside: "
    "share of states whose prediction lies in the 95% interval of their rate."
)


def render(entry: Entry[CalibrationMetrics]) -> RenderableType:
    """Both links along the response.

    Args:
        entry: The entry.
    """
    metrics = entry.metrics
    if metrics.states is not None:
        return _render_states(entry, metrics, metrics.states)
    table = new_table(f"{metrics.n_rollouts:,} rollouts", "", ("AUC", "link", "mean predicted", "Brier", "ECE"))
    for part in metrics.parts:
        for i, (name, link) in enumerate(part.links.items()):
            first = (f"first {100 * part.upto:.0f}%", number(part.auc)) if i == 0 else ("", "")
            table.add_row(*first, name, *(number(x) for x in (link.predicted, link.brier, link.ece)))
    about = f"Right: {number(metrics.pass_rate)}; Brier score of that as everyone's prediction {metrics.brier_constant:.3f}."
    return Group(*map(safe, probe_heading(entry, "Calibration")), table, about, LINKS_NOTE)


def _render_states(
    entry: Entry[CalibrationMetrics], metrics: CalibrationMetrics, states: StateResult
) -> RenderableType:
    """One line a link, against labels by rollouts."""
    table = new_table(_states_title(metrics, states), "link", ("mean predicted", "Brier", "error", "ECE", "inside"))
    for name, link in states.named_links.items():
        table.add_row(name, *(number(x) for x in _state_figures(link)))
    lines = [
        f"AUC {number(states.auc)}. Right: {number(metrics.pass_rate)}; that as everyone's prediction has Brier score "
        f"{metrics.brier_constant:.3f}{_constant(states)}.",
        _links_note(states),
        STATES_NOTE,
    ]
    return Group(*map(safe, probe_heading(entry, "Calibration")), table, *lines)


def _states_title(metrics: CalibrationMetrics, states: StateResult) -> str:
    return f"{states.n_states:,} ends of steps of {metrics.n_rollouts:,} solutions, {states.n_continuations:,} continuations each"


def _state_figures(link: StateLink) -> list[Estimate]:
    return [link.predicted, link.brier, link.error, link.ece, link.inside]


def _constant(states: StateResult) -> str:
    return "" if states.error_constant is None else f", error {states.error_constant:.3f}"


def _links_note(states: StateResult) -> str:
    return LINKS_NOTE if len(states.links) > 1 else "The value is a logit: its sigmoid is the prediction."


def section(measured: Measured, traces: Sequence[Trace] | None) -> Section:
    """The probe's part of a report: both links along the response.

    Args:
        measured: The entry and its items.
        traces: Not used.
    """
    entry, metrics = measured.entry, measured.entry.metrics
    if metrics.states is not None:
        return _states_section(measured, metrics, metrics.states)
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


def _states_section(measured: Measured, metrics: CalibrationMetrics, states: StateResult) -> Section:
    """The probe's part of a report where the truth is labels by rollouts."""
    rows = [
        (name, [Cell.of(states.auc), *map(Cell.of, _state_figures(link))]) for name, link in states.named_links.items()
    ]
    columns = ["link", "AUC", "mean predicted", "Brier score", "error", "calibration error", "inside"]
    picture = Picture(
        to_svg(draw_calibration(measured), "Calibration"),
        "Predicted probability that a continuation is right against the rate of right continuations, with 95% intervals over "
        "problems.",
    )
    lines = [
        f"{_states_title(metrics, states)}, {100 * (metrics.pass_rate.value or 0):.1f}% right",
        f"the mean rate as everyone's prediction has Brier score {metrics.brier_constant:.3f}{_constant(states)}",
        _links_note(states),
        STATES_NOTE,
    ]
    return Section(
        "Calibration", [*about(measured.entry), *lines], [("Times 100", ShownTable(columns, rows))], [picture]
    )
