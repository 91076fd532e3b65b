"""A TD probe on the screen and on a report's page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.parts import Cell, Picture, Section, ShownTable, about, to_svg
from prmbench.benchmarks.tables import new_table, number, probe_heading, safe
from prmbench.benchmarks.td_probe.plot import draw_td_probe
from prmbench.benchmarks.td_probe.schema import P_MIN, BranchGroup, TDProbeMetrics
from prmbench.benchmarks.td_probe.words import SIGNALS, TD_COLUMNS, TD_NOTE
from prmbench.data.traces import Trace
from prmbench.results.schema import Entry, Estimate

WITH_INTERVAL = (0, 1)
"""Columns that have room for an interval; the entry has them all."""


def render(entry: Entry[TDProbeMetrics]) -> RenderableType:
    """Signals of branches against the outcomes of their rollouts.

    Args:
        entry: The entry.
    """
    metrics, rules = entry.metrics, entry.benchmark.settings
    sampling = rules["sampling"]
    lines = [
        *probe_heading(entry, "TD probe"),
        f"{metrics.branches.n_branches:,} branches ({rules['top']} likeliest next tokens of {metrics.branches.n_states:,} states, "
        f"together {100 * metrics.mass:.1f}% of the probability), {metrics.rollouts_per_branch} rollouts each at temperature "
        f"{sampling['temperature']:g}, top-p {sampling['top_p']:g}; {100 * metrics.truncated:.1f}% truncated.",
    ]
    parts: list[RenderableType] = [*map(safe, lines), *_group("all branches", metrics.branches)]
    if metrics.candidates is not None:
        parts += _group(f"branches with pi >= {P_MIN} in states that have several", metrics.candidates)
    table = new_table("by position in the response", "", ("branches", "pass rate, %", "AUC of V", "Pearson of TD"))
    for one in metrics.positions:
        table.add_row(
            f"{100 * one.low:.0f} to {100 * one.high:.0f}%",
            f"{one.n_branches:,}",
            f"{100 * one.pass_rate:.1f}",
            number(one.value_auc),
            number(one.td_pearson),
        )
    note = f"{TD_NOTE} Brackets: 95% intervals over problems; those of the other columns are in the entry."
    return Group(*parts, table, safe(note))


def _group(title: str, group: BranchGroup) -> list[RenderableType]:
    table = new_table(title, "", list(TD_COLUMNS.values()))
    for name, result in group.signals.items():
        cells = [getattr(result, column) for column in TD_COLUMNS]
        table.add_row(SIGNALS[name], *(number(x if i in WITH_INTERVAL else _bare(x), 2) for i, x in enumerate(cells)))
    about = (
        f"{group.n_branches:,} branches of {group.n_states:,} states; right {number(group.pass_rate, 2)}; reliability of a "
        f"branch's share {number(group.reliability, 2)}, within states {number(group.within_reliability, 2)}."
    )
    return [table, about, *map(safe, group.notes)]


def _bare(estimate: Estimate) -> Estimate:
    return Estimate(value=estimate.value)


def section(measured: Measured, traces: Sequence[Trace] | None) -> Section:
    """The probe's part of a report: signals of all branches and of candidates, and along the response.

    Args:
        measured: The entry and its items.
        traces: Not used.
    """
    entry, metrics = measured.entry, measured.entry.metrics
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
            ShownTable(["tokens", "pass rate", "AUC of V(s')", "Pearson of TD"], along),
        )
    )
    picture = Picture(
        to_svg(draw_td_probe(measured), "TD and value against outcomes"),
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


def _signals(group: BranchGroup) -> ShownTable:
    rows = [
        (SIGNALS[name], [Cell.of(getattr(result, figure)) for figure in TD_COLUMNS])
        for name, result in group.signals.items()
    ]
    return ShownTable(["signal", *(TD_COLUMNS | {"within_corrected": "in state, true"}).values()], rows)
