"""Probe entries on the screen."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from prmbench.benchmarks.calibration.run import CalibrationEntry
from prmbench.benchmarks.candidate_sets.run import CandidatesEntry
from prmbench.benchmarks.tables import MINIATURE
from prmbench.benchmarks.td_probe.metrics import BranchGroup
from prmbench.benchmarks.td_probe.run import TDProbeEntry
from prmbench.results.schema import Entry, Estimate

SIGNALS = {
    "td": "TD, V(s') - V(s)",
    "value": "V(s')",
    "abs_value": "|V(s')|",
    "mean_value": "v_bar(s')",
    "probability": "probability's change",
    "policy": "log pi of the token",
}
TD_COLUMNS = {
    "auc": "AUC",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "corrected": "true",
    "within": "in state",
    "within_corrected": "true",
    "agreement": "tau-b",
}
TD_NOTE = (
    "AUC, Pearson and Spearman are against single rollouts' outcomes; true: Pearson with the branch's true value, rollout noise "
    "taken out; in state: of deviations from the state's mean; tau-b: within states."
)
LINKS_NOTE = "margin: the objective's own link, with its margin; naive: the sigmoid of the value."

WITH_INTERVAL = (0, 1)
"""Columns that have room for an interval; the entry has them all."""


def figure(estimate: Estimate, digits: int = 3) -> str:
    """A plain figure with its interval."""
    if estimate.value is None:
        return "n/a"
    text = f"{estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [dim]\\[{estimate.low:.{digits}f}, {estimate.high:.{digits}f}][/dim]"


def render_td_probe(entry: TDProbeEntry) -> RenderableType:
    """Signals of branches against the outcomes of their rollouts."""
    metrics, rules = entry.metrics, entry.benchmark.settings
    sampling = rules["sampling"]
    lines = [
        *_head(entry, "TD probe"),
        f"{metrics.branches.n_branches:,} branches ({rules['top']} likeliest next tokens of {metrics.branches.n_states:,} states, "
        f"together {100 * metrics.mass:.1f}% of the probability), {metrics.rollouts_per_branch} rollouts each at temperature "
        f"{sampling['temperature']:g}, top-p {sampling['top_p']:g}; {100 * metrics.truncated:.1f}% truncated.",
    ]
    parts: list[RenderableType] = [*map(escape, lines), *_group("all branches", metrics.branches)]
    if metrics.candidates is not None:
        parts += _group("branches with pi >= 0.1 in states that have several", metrics.candidates)
    table = _table("by position in the response")
    for title in ("branches", "pass rate, %", "AUC of V", "Pearson of TD"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in metrics.positions:
        table.add_row(
            f"{100 * one.low:.0f} to {100 * one.high:.0f}%",
            f"{one.n_branches:,}",
            f"{100 * one.pass_rate:.1f}",
            figure(one.value_auc),
            figure(one.td_pearson),
        )
    note = f"{TD_NOTE} Brackets: 95% intervals over problems; those of the other columns are in the entry."
    return Group(*parts, table, escape(note))


def _group(title: str, group: BranchGroup) -> list[RenderableType]:
    table = _table(title)
    for heading in TD_COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in group.signals.items():
        cells = [getattr(result, column) for column in TD_COLUMNS]
        table.add_row(SIGNALS[name], *(figure(x if i in WITH_INTERVAL else _bare(x), 2) for i, x in enumerate(cells)))
    about = (
        f"{group.n_branches:,} branches of {group.n_states:,} states; right {figure(group.pass_rate, 2)}; reliability of a "
        f"branch's share {figure(group.reliability, 2)}, within states {figure(group.within_reliability, 2)}."
    )
    return [table, about, *map(escape, group.notes)]


def render_candidates(entry: CandidatesEntry) -> RenderableType:
    """Table 11: size and mass of candidate sets."""
    metrics = entry.metrics
    table = _table(f"{metrics.n_rollouts:,} rollouts, {metrics.n_states:,} states")
    for title in ("average size", "mass, %", "states with several, %"):
        table.add_column(title, justify="right", no_wrap=True)
    for p_min, found in metrics.p_min.items():
        table.add_row(
            f"P_min {p_min}", figure(found.size), *(figure(_percent(x), 2) for x in (found.mass, found.several))
        )
    return Group(*map(escape, _head(entry, "Candidate sets")), table, "Brackets: 95% intervals over problems.")


def render_calibration(entry: CalibrationEntry) -> RenderableType:
    """Both links along the response."""
    metrics = entry.metrics
    table = _table(f"{metrics.n_rollouts:,} rollouts")
    for title in ("AUC", "link", "mean predicted", "Brier", "ECE"):
        table.add_column(title, justify="right", no_wrap=True)
    for part in metrics.parts:
        for i, (name, link) in enumerate(part.links.items()):
            first = (f"first {100 * part.upto:.0f}%", figure(part.auc)) if i == 0 else ("", "")
            table.add_row(*first, name, *(figure(x) for x in (link.predicted, link.brier, link.ece)))
    about = f"Right: {figure(metrics.pass_rate)}; Brier score of that as everyone's prediction {metrics.brier_constant:.3f}."
    return Group(*map(escape, _head(entry, "Calibration")), table, about, LINKS_NOTE)


def _bare(estimate: Estimate) -> Estimate:
    return Estimate(value=estimate.value)


def _percent(estimate: Estimate) -> Estimate:
    values = (None if x is None else 100 * x for x in (estimate.value, estimate.low, estimate.high))
    return Estimate(**dict(zip(("value", "low", "high"), values, strict=True)))


def _head(entry: Entry[Any], title: str) -> list[str]:
    kind = ", ".join(part for part in (entry.subject.kind, entry.subject.objective) if part)
    sets = ", ".join(f"{name} ({data.n_items:,} problems)" for name, data in entry.benchmark.subsets.items())
    return [f"{title}: {entry.subject.name} ({kind}), {sets}", *([MINIATURE] if entry.miniature else [])]


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    return table
