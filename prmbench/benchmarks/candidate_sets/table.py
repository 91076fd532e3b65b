"""Candidate sets on the screen and on a report's page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.candidate_sets.schema import CandidateSetsMetrics
from prmbench.benchmarks.parts import Cell, Section, ShownTable, about
from prmbench.benchmarks.tables import new_table, number, probe_heading, safe
from prmbench.data.traces import Trace
from prmbench.results.schema import Entry, Estimate


def render(entry: Entry[CandidateSetsMetrics]) -> RenderableType:
    """Size and mass of candidate sets (Table 11).

    Args:
        entry: The entry.
    """
    metrics = entry.metrics
    table = new_table(
        f"{metrics.n_rollouts:,} rollouts, {metrics.n_states:,} states",
        "",
        ("average size", "mass, %", "states with several, %"),
    )
    for p_min, found in metrics.p_min.items():
        table.add_row(
            f"P_min {p_min}",
            number(found.size),
            *(number(_percent(x), 2) for x in (found.mass, found.several)),
        )
    return Group(*map(safe, probe_heading(entry, "Candidate sets")), table, "Brackets: 95% intervals over problems.")


def _percent(estimate: Estimate) -> Estimate:
    values = (None if x is None else 100 * x for x in (estimate.value, estimate.low, estimate.high))
    return Estimate(**dict(zip(("value", "low", "high"), values, strict=True)))


def section(measured: Measured, traces: Sequence[Trace] | None) -> Section:
    """The probe's part of a report: size and mass of candidate sets.

    Args:
        measured: The entry and its items.
        traces: Not used.
    """
    entry, metrics = measured.entry, measured.entry.metrics
    rows = [
        (
            f"{p_min} (average size {found.size.value:.3f})",
            [Cell.of(found.mass), Cell.of(found.several)],
        )
        for p_min, found in metrics.p_min.items()
    ]
    table = ShownTable(["P_min", "mass, %", "states with several, %"], rows)
    lines = [f"{metrics.n_rollouts:,} rollouts, {metrics.n_states:,} states"]
    return Section("Candidate sets", [*about(entry), *lines], [("Next tokens with at least P_min", table)], [])
