"""Probes on a report's page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prmbench.benchmarks.probe_plots import draw_calibration, draw_td_probe
from prmbench.benchmarks.probe_tables import LINKS_NOTE, SIGNALS, TD_COLUMNS, TD_NOTE
from prmbench.benchmarks.td_probe.metrics import P_MIN, BranchGroup, read_branches
from prmbench.data.traces import Trace
from prmbench.reports.compare import Measured
from prmbench.reports.leaderboard import Cell
from prmbench.reports.parts import Picture, Section, Table, about
from prmbench.reports.plots import to_svg
from prmbench.results.items import read_described


def _td_probe(one: Measured, _: Sequence[Trace] | None) -> Section:
    entry, metrics = one.entry, one.entry.metrics
    groups = {
        "All branches": metrics.branches,
        f"Branches with pi >= {P_MIN} in states that have several": metrics.candidates,
    }
    tables = [
        (
            f"{name} ({group.n_branches:,} of {group.n_states:,} states): AUC and correlations, times 100",
            _signals(group),
        )
        for name, group in groups.items()
        if group is not None
    ]
    along = [
        (
            f"{100 * part.low:.0f} to {100 * part.high:.0f}% ({part.n_branches:,} branches)",
            [Cell(100 * part.pass_rate), Cell.of(part.value_auc), Cell.of(part.td_pearson)],
        )
        for part in metrics.positions
    ]
    tables.append(
        (
            "By position in the response, times 100",
            Table(["tokens", "pass rate", "AUC of V(s')", "Pearson of TD"], along),
        )
    )
    items = read_described(one.path.parent, entry.items, read_branches)
    picture = Picture(
        to_svg(draw_td_probe(entry, items), "TD and value against outcomes"),
        "How often branches end right, in eight bins of their TD and of their value; AUC of the value and correlation of TD "
        "along the response.",
    )
    lines = [
        f"{metrics.rollouts_per_branch} rollouts a branch, {100 * metrics.truncated:.1f}% truncated; "
        f"{100 * (metrics.branches.pass_rate.value or 0):.1f}% right; a state's branches hold {100 * metrics.mass:.1f}% of its "
        "probability",
        TD_NOTE,
        *(f"{name}: {note}" for name, group in groups.items() if group is not None for note in group.notes),
    ]
    return Section("TD probe", [*about(entry), *lines], tables, [picture])


def _signals(group: BranchGroup) -> Table:
    rows = [
        (SIGNALS[name], [Cell.of(getattr(result, figure)) for figure in TD_COLUMNS])
        for name, result in group.signals.items()
    ]
    return Table(["signal", *(TD_COLUMNS | {"within_corrected": "in state, true"}).values()], rows)


def _calibration(one: Measured, _: Sequence[Trace] | None) -> Section:
    entry, metrics = one.entry, one.entry.metrics
    rows = [
        (
            f"first {100 * part.upto:.0f}%, {name}",
            [Cell.of(x) for x in (part.auc, link.predicted, link.brier, link.ece)],
        )
        for part in metrics.parts
        for name, link in part.links.items()
    ]
    table = Table(["response, link", "AUC", "mean predicted", "Brier score", "calibration error"], rows)
    picture = Picture(
        to_svg(draw_calibration(entry), "Calibration"),
        "Left: predicted probability of a right answer against the share right. Right: Brier score along the response; dashed: "
        f"everyone's prediction the pass rate ({metrics.brier_constant:.3f}).",
    )
    lines = [
        f"{metrics.n_rollouts:,} rollouts, {100 * (metrics.pass_rate.value or 0):.1f}% right",
        LINKS_NOTE,
    ]
    return Section("Calibration", [*about(entry), *lines], [("Times 100", table)], [picture])


def _candidates(one: Measured, _: Sequence[Trace] | None) -> Section:
    entry, metrics = one.entry, one.entry.metrics
    rows = [
        (
            f"{p_min} (average size {found.size.value:.3f})",
            [Cell.of(found.mass), Cell.of(found.several)],
        )
        for p_min, found in metrics.p_min.items()
    ]
    table = Table(["P_min", "mass, %", "states with several, %"], rows)
    lines = [f"{metrics.n_rollouts:,} rollouts, {metrics.n_states:,} states"]
    return Section("Candidate sets", [*about(entry), *lines], [("Next tokens with at least P_min", table)], [])


PROBES: dict[str, Callable[[Measured, Sequence[Trace] | None], Section]] = {
    "td-probe": _td_probe,
    "calibration": _calibration,
    "candidates": _candidates,
}
"""A section of each probe's entry."""
