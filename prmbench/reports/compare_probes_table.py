"""A comparison of TD probes on the screen, and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from prmbench.benchmarks.probe_tables import TD_COLUMNS
from prmbench.benchmarks.tables import MINIATURE
from prmbench.reports.compare_probes import FEW, ProbeMeasured, ProbePair
from prmbench.reports.compare_table import SIGNIFICANT, shown_p

SIGNALS = {
    "td": "TD",
    "value": "V(s')",
    "abs_value": "|V(s')|",
    "mean_value": "v_bar(s')",
    "probability": "probability",
}
NAMES = TD_COLUMNS | {"within_corrected": "in state, true", "agreement": "tau-b in state"}
"""Those of the probe's own table, and short enough for two subjects beside each other."""


def render_probes(probes: list[ProbeMeasured], pairs: list[ProbePair], n_resamples: int) -> RenderableType:
    """Every pair as a table of differences with 95% intervals, and which of them are no chance."""
    needed = math.ceil(2 * sum(len(pair.figures) for pair in pairs) / SIGNIFICANT)
    group = probes[0].entry.metrics.branches
    parts: list[RenderableType] = [
        f"td-probe: {len(probes)} subjects on the same {group.n_branches:,} branches of {group.n_states:,} states"
    ]
    if any(probe.entry.miniature for probe in probes):
        parts.append(MINIATURE)
    if (n := probes[0].n_telling) < FEW:
        parts.append(f"Only {n} problems have right and wrong rollouts: intervals and p of so few are too narrow.")
    for pair in pairs:
        parts += [_table(pair), *(escape(line) for line in _sentences(pair))]
    if n_resamples < needed:
        parts.append(
            f"{n_resamples:,} resamples are too few for the correction of so many figures to find any: use --resamples {needed}."
        )
    return Group(*parts)


def as_json(probes: list[ProbeMeasured], pairs: list[ProbePair]) -> dict[str, Any]:
    """Every figure, p before and after the correction."""
    return {
        "benchmark": probes[0].entry.benchmark.name,
        "problems_right_and_wrong": probes[0].n_telling,
        "entries": [{"name": probe.name, "entry": str(probe.path)} for probe in probes],
        "pairs": [asdict(pair) for pair in pairs],
    }


def _table(pair: ProbePair) -> Table:
    table = Table(
        title=escape(f"{pair.first} minus {pair.second} [95% interval, problems drawn]"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
    )
    for i, title in enumerate(["", "", pair.first, pair.second, "difference", "Holm p"]):
        table.add_column(
            escape(title),
            justify="right" if i > 1 else "left",
            no_wrap=i not in (2, 3),
            min_width=6 if i in (2, 3) else None,
        )
    for signal, name in SIGNALS.items():
        rows = [one for one in pair.figures if one.signal == signal]
        for i, one in enumerate(rows):
            difference = f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
            numbers = [f"{one.first:.3f}", f"{one.second:.3f}", difference, shown_p(one.p_holm)]
            table.add_row("" if i else name, NAMES[one.figure], *numbers)
        if rows:
            table.add_section()
    return table


def _sentences(pair: ProbePair) -> list[str]:
    above: dict[tuple[str, bool], list[str]] = {}
    for one in pair.figures:
        if one.p_holm < SIGNIFICANT:
            above.setdefault((one.signal, one.value > 0), []).append(NAMES[one.figure])
    if not above:
        return ["No figure differs significantly (Holm over all figures of all pairs)."]
    lines = []
    for (signal, of_first), figures in above.items():
        higher, lower = (pair.first, pair.second) if of_first else (pair.second, pair.first)
        lines.append(f"{SIGNALS[signal]}: {higher} is significantly above {lower}: {'; '.join(figures)}.")
    return lines
