"""A comparison of TD probes on the screen."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table

from prmbench.benchmarks.differences_table import SIGNIFICANT, shown_p
from prmbench.benchmarks.names import differing
from prmbench.benchmarks.parts import MINIATURE
from prmbench.benchmarks.tables import SUBJECT_WIDTH, new_table, safe
from prmbench.benchmarks.td_probe.differences import FEW, ProbeComparison, ProbePair
from prmbench.benchmarks.td_probe.words import TD_COLUMNS

SIGNALS = {
    "td": "TD",
    "value": "V(s')",
    "abs_value": "|V(s')|",
    "mean_value": "v_bar(s')",
    "probability": "probability",
}
NAMES = TD_COLUMNS | {"within_corrected": "in state, true", "agreement": "tau-b in state"}
"""Those of the probe's own table, and short enough for two subjects beside each other."""


def render(comparison: ProbeComparison) -> RenderableType:
    """Every pair as a table of differences with 95% intervals, and which of them are no chance.

    Args:
        comparison: The comparison.
    """
    sides, pairs = comparison.sides, comparison.pairs
    needed = math.ceil(2 * sum(len(pair.figures) for pair in pairs) / SIGNIFICANT)
    group = sides[0].measured.entry.metrics.branches
    parts: list[RenderableType] = [
        f"td-probe: {len(sides)} subjects on the same {group.n_branches:,} branches of {group.n_states:,} states"
    ]
    if any(side.measured.entry.miniature for side in sides):
        parts.append(MINIATURE)
    if (n := sides[0].n_telling) < FEW:
        parts.append(f"Only {n} problems have right and wrong rollouts: intervals and p of so few are too narrow.")
    for pair in pairs:
        parts += [_table(pair), *(safe(line) for line in _sentences(pair))]
    if comparison.n_resamples < needed:
        parts.append(
            f"{comparison.n_resamples:,} resamples are too few for the correction of so many figures to find any: use {needed}."
        )
    return Group(*parts)


def _table(pair: ProbePair) -> Table:
    title = f"{pair.first} minus {pair.second} [95% interval, problems drawn]"
    table = new_table(title)
    table.add_column("", no_wrap=True)
    for name in differing([pair.first, pair.second]):
        table.add_column(safe(name), justify="right", overflow="fold", min_width=SUBJECT_WIDTH)
    for heading in ("difference", "Holm p"):
        table.add_column(heading, justify="right", no_wrap=True)
    for signal, name in SIGNALS.items():
        rows = [one for one in pair.figures if one.signal == signal]
        for i, one in enumerate(rows):
            difference = f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
            numbers = [f"{one.first:.3f}", f"{one.second:.3f}", safe(difference), shown_p(one.p_holm)]
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
