"""From rows to what a page shows: cells, orderings, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from prmbench.reports.leaderboard import ReportedTable
from prmbench.stats.seeds import SeedMean, Verdict, ordering, seed_mean
from prmbench.studies.replicate.claims import Claim
from prmbench.studies.replicate.layout import Cell, Layout
from prmbench.studies.replicate.work import Results

VERDICTS: tuple[Verdict, ...] = ("appears", "does not appear", "undecided")


@dataclass(frozen=True)
class Judged:
    """A claim and what came out. difference: larger minus smaller, over seeds. values: the same, seed by seed."""

    claim: Claim
    difference: SeedMean
    verdict: Verdict
    values: list[float]

    @property
    def shown(self) -> str:
        """The difference with its interval."""
        if np.isnan(self.difference.mean):
            return "n/a: a figure is not defined on some seed"
        return with_interval(self.difference, self.claim.digits, sign=True)


def judge(claim: Claim, results: Results) -> Judged | None:
    """Test a claim; None where a run of it was not made. Undecided where a figure is not defined on some seed."""
    (a, larger), (b, smaller) = claim.larger, claim.smaller
    if a not in results or b not in results:
        return None
    first, second = [larger(row) for row in results[a]], [smaller(row) for row in results[b]]
    difference, verdict = ordering(first, second)
    return Judged(claim, difference, verdict, np.subtract(first, second).tolist())


def count_verdicts(verdicts: Sequence[Verdict]) -> str:
    """How many claims came out how, in words."""
    return ", ".join(f"{verdicts.count(name)} {name}" for name in VERDICTS)


def with_interval(found: SeedMean, digits: int, *, sign: bool = False) -> str:
    """A mean over seeds with its interval, where there is one."""
    plus = "+" if sign else ""
    text = f"{found.mean:{plus}.{digits}f}"
    return text if np.isnan(found.low) else f"{text} [{found.low:{plus}.{digits}f}, {found.high:{plus}.{digits}f}]"


def cell_text(cell: Cell | None, results: Results) -> str:
    """A cell's mean over seeds; empty where there is nothing, "n/a" where it is not defined on some seed."""
    if cell is None:
        return ""
    values = [cell.figure(row) for row in results[cell.run]]
    return "n/a" if np.isnan(values).any() else with_interval(seed_mean(values), cell.digits)


def our_ordering(layout: Layout, results: Results) -> str:
    """Rows by their last figure, best first, rows in parentheses (which need no model) left out; "=" where they read the same."""
    means = []
    for name, cells in layout.rows:
        last = cells[-1]
        if last is not None and not name.startswith("("):
            means.append((float(np.mean([last.figure(row) for row in results[last.run]])), name, last.digits))
    means.sort(key=lambda one: -one[0])
    return _ordered([(name, f"{mean:.{digits}f}") for mean, name, digits in means])


def paper_orderings(layout: Layout, reported: Sequence[ReportedTable]) -> list[str]:
    """For each backbone of the paper's table, its methods by their last figure, best first, "=" between equal ones; else what the
    layout says."""
    for table in reported:
        if table.table == layout.number:
            backbones = list(dict.fromkeys(row.backbone for row in table.rows))
            out = []
            for backbone in backbones:
                rows = sorted((r for r in table.rows if r.backbone == backbone), key=lambda r: -r.values[-1])
                out.append(f"{backbone}: " + _ordered([(row.method, f"{row.values[-1]:g}") for row in rows]))
            return out
    return [layout.paper] if layout.paper else []


def _ordered(rows: Sequence[tuple[str, str]]) -> str:
    """Names with their figures, which come best first."""
    parts = [f"{name} {figure}" for name, figure in rows]
    signs = ["", *(" = " if a[1] == b[1] else " > " for a, b in pairwise(rows))]
    return "".join(sign + part for sign, part in zip(signs, parts, strict=True))
