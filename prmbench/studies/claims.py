"""Claims that one figure is larger than another, and the verdict of a paired test over seeds.

Seed by seed the difference of the two figures is taken. Each seed has its own policy, data, models and test items. Where the 95%
Student-t interval of the mean difference is above 0 the claim appears, where it is below 0 the claim does not appear, where it lies
within a margin that is named beforehand the two are practically equal, else the claim is undecided. Where the paper says only
that one is no worse, the same is asked of the difference plus the margin. A seed's figure is a mean over its own items, so their
sampling is part of what differs between seeds. With one seed nothing is decided.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np

from prmbench.reports.reported import PAPER, ReportedTable
from prmbench.stats.paired import holm
from prmbench.stats.power import LEVEL, pairs_needed
from prmbench.stats.seeds import OrderingVerdict, SeedMean, ordering, seed_mean, seed_p_value
from prmbench.studies.figures import Results, RunDifference, RunFigure, RunRatio
from prmbench.studies.runs import StudyRun

Compared = RunFigure | RunDifference | RunRatio | float
"""What a claim compares: a figure over seeds, or a constant."""
VERDICTS: tuple[OrderingVerdict, ...] = get_args(OrderingVerdict)
MARGIN_SHARE = 1 / 3
"""The margin of a claim, as a share of the paper's mean effect, where the claim names no margin of its own."""
MORE_DIGITS = 3
"""Digits that a difference is shown with at most beyond its claim's own, where the end of its interval would be written as 0."""


@dataclass(frozen=True)
class PaperRows:
    """Two rows of a table of the paper, whose difference is the paper's effect.

    Attributes:
        table: Number of the table.
        larger: Method that is said to be above.
        smaller: Method that is said to be below.
        column: Index of the column; the last one is the paper's average.
        smaller_column: Index of the column of the smaller figure, where it is another one.
    """

    table: str
    larger: str
    smaller: str
    column: int = -1
    smaller_column: int | None = None

    def effects(self, reported: Sequence[ReportedTable]) -> dict[str, float]:
        """Return the paper's difference, larger minus smaller, of each backbone that has both rows.

        Args:
            reported: The paper's tables.
        """
        tables = (table for table in reported if (table.source, table.table) == (PAPER, self.table))
        rows = [row for table in tables for row in table.rows]
        found = {(row.backbone, row.method): row.values for row in rows}
        second = self.column if self.smaller_column is None else self.smaller_column
        return {
            backbone: found[backbone, self.larger][self.column] - found[backbone, self.smaller][second]
            for backbone in dict.fromkeys(row.backbone for row in rows)
            if (backbone, self.larger) in found and (backbone, self.smaller) in found
        }


@dataclass(frozen=True)
class Claim:
    """One claim: the larger figure is above the smaller one.

    Attributes:
        where: Its place in the paper, such as ``Tables 1, 12`` or ``Fig. 6, left``; ``ours`` for a claim that the paper does not
            make.
        text: The claim in words.
        larger: The figure that is said to be larger; a number where it is compared with a constant.
        smaller: The figure that is said to be smaller; a number where it is compared with a constant.
        digits: Digits shown after the point.
        note: What else a reader must know.
        sentence: The paper's sentence that it is, shortened, with its section.
        paper: The rows that the paper's effect is read from; None where the paper prints no figures for it.
        margin: Differences up to this size do not matter; None takes a third of the paper's mean effect.
        at_least: Whether the paper says only that the larger figure is no worse: it appears where it is above the smaller one less
            the margin.
    """

    where: str
    text: str
    larger: Compared
    smaller: Compared
    digits: int = 1
    note: str = ""
    sentence: str = ""
    paper: PaperRows | None = None
    margin: float | None = None
    at_least: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is a claim that the paper does not make."""
        return self.where == OURS

    @property
    def tables(self) -> frozenset[str]:
        """Numbers of the paper's tables, figures and sections that it is of: ``{"1", "12"}``, ``{"fig6"}``, ``{"4.3.3"}``."""
        if self.where.startswith("Fig. 6"):
            return frozenset({"fig6"})
        return frozenset(re.findall(r"\d+(?:\.\d+)*", self.where))

    @property
    def runs(self) -> list[StudyRun]:
        """The runs whose figures it compares."""
        compared = [one for one in (self.larger, self.smaller) if not isinstance(one, float | int)]
        return [run for one in compared for run in one.runs]

    def effects(self, reported: Sequence[ReportedTable]) -> dict[str, float]:
        """Return the paper's effect by backbone; none where the paper prints no figures for it.

        Args:
            reported: The paper's tables.
        """
        return {} if self.paper is None else self.paper.effects(reported)

    def margin_from(self, reported: Sequence[ReportedTable]) -> float:
        """Return the margin: the claim's own, or a third of the paper's mean effect; 0 where there is neither.

        Args:
            reported: The paper's tables.
        """
        if self.margin is not None:
            return self.margin
        effects = self.effects(reported)
        return MARGIN_SHARE * max(float(np.mean(list(effects.values()))), 0.0) if effects else 0.0


OURS = "ours"


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and what came out.

    Attributes:
        claim: The claim.
        values: The larger figure minus the smaller one, for each seed.
        margin: The margin that it was judged with.
        effects: The paper's effect by backbone.
        adjusted: The p-value after Holm's rule over the claims of its table; NaN where there is none.
    """

    claim: Claim
    values: list[float]
    margin: float
    effects: dict[str, float]
    adjusted: float = math.nan

    @cached_property
    def difference(self) -> SeedMean:
        """The mean difference over seeds, and its interval."""
        return seed_mean(self.values)

    @property
    def tested(self) -> list[float]:
        """What is tested against 0: the differences, plus the margin where the paper says only that one is no worse."""
        return [one + self.margin for one in self.values] if self.claim.at_least else self.values

    @cached_property
    def verdict(self) -> OrderingVerdict:
        """What follows from intervals of 95%."""
        return self.verdict_at(LEVEL)

    @cached_property
    def p(self) -> float:
        """Two-sided p-value of the paired test; NaN where there is none."""
        return seed_p_value(self.tested)

    @property
    def has_direction(self) -> bool:
        """Whether the verdict is about a direction: the claim appears, or does not."""
        return self.verdict in ("appears", "does not appear")

    @property
    def shown(self) -> str:
        """The difference with its interval, for pages."""
        if np.isnan(self.difference.mean):
            return "n/a: a figure is not defined on some seed"
        digits = self.claim.digits
        if self.has_direction and not self.claim.at_least:
            # The end next to 0 is not written as 0, because the verdict depends on its sign.
            end = min(abs(self.difference.low), abs(self.difference.high))
            digits = next((n for n in range(digits, digits + MORE_DIGITS) if round(end, n)), digits + MORE_DIGITS)
        return with_interval(self.difference, digits, sign=True)

    def verdict_at(self, level: float) -> OrderingVerdict:
        """Judge the claim with intervals of another coverage than 95%.

        Args:
            level: Coverage of the interval, between 0 and 1.
        """
        return ordering(self.tested, [0.0] * len(self.values), level, 0.0 if self.claim.at_least else self.margin)[1]

    @property
    def holds_after_holm(self) -> bool:
        """Whether the verdict, where it is about a direction, stays after Holm's rule at 5%."""
        return not self.has_direction or self.adjusted < 0.05

    @property
    def verdict_shown(self) -> str:
        """The verdict, with a star where it does not stay after Holm's rule, and what it is worth."""
        star = "" if self.holds_after_holm else "*"
        inside = -self.margin <= self.difference.low and self.difference.high <= self.margin
        small = self.has_direction and inside and not self.claim.at_least
        return f"{self.verdict}{star}" + (", within the margin" if small else "")

    @property
    def paper_said(self) -> str:
        """The paper's effect in words: its mean, and on how many of its backbones it has this direction."""
        if not self.effects:
            return ""
        values = list(self.effects.values())
        above = sum(value > 0 for value in values)
        agree = "" if len(values) == 1 else f", {above} of {len(values)} backbones"
        return f"{np.mean(values):+.{max(self.claim.digits, 1)}f}{agree}"

    @property
    def spread(self) -> float:
        """Standard deviation of the differences between seeds; NaN with fewer than two."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan

    @property
    def seeds_needed(self) -> int | None:
        """Seeds that decide the paper's mean effect at 80% power with the spread seen here.

        None where the paper prints no effect in this direction, or the spread is not known. Where the paper says only that one is
        no worse, the margin counts too, as in the test.
        """
        effect = float(np.mean(list(self.effects.values()))) if self.effects else 0.0
        if effect <= 0 or math.isnan(self.spread):
            return None
        return pairs_needed(effect + (self.margin if self.claim.at_least else 0.0), self.spread)


def judge(
    claims: Iterable[Claim], results: Results, reported: Sequence[ReportedTable] = (), longer: Results | None = None
) -> list[JudgedClaim]:
    """Test claims. A claim is undecided where one of its figures is not defined on some seed.

    Args:
        claims: The claims; those that need a run which was not made are left out.
        results: Rows by run.
        reported: The paper's tables, for its effects.
        longer: Rows of runs that were made for more seeds, in the place of `results` for claims that need these runs alone.
    """
    # The difference of each on every seed.
    judged = []
    for claim in claims:
        rows = longer if longer and all(run in longer for run in claim.runs) else results
        if all(run in rows for run in claim.runs):
            n = len(rows[claim.runs[0]])
            first, second = (
                [one] * n if isinstance(one, float | int) else one.values(rows) for one in (claim.larger, claim.smaller)
            )
            values = np.subtract(first, second).tolist()
            judged.append(JudgedClaim(claim, values, claim.margin_from(reported), claim.effects(reported)))
    # Holm's rule within each table.
    adjusted = [math.nan] * len(judged)
    for where in dict.fromkeys(family(one.claim) for one in judged):
        members = [i for i, one in enumerate(judged) if family(one.claim) == where and not math.isnan(one.p)]
        for i, p in zip(members, holm([judged[i].p for i in members]), strict=True):
            adjusted[i] = p
    return [replace(one, adjusted=p) for one, p in zip(judged, adjusted, strict=True)]


def family(claim: Claim) -> str:
    """Name the table that a claim is tested with: what stands before the first comma of its place.

    Args:
        claim: The claim.
    """
    return claim.where.partition(",")[0]


def count_verdicts(judged: Sequence[JudgedClaim]) -> str:
    """Say how many claims came out how.

    Args:
        judged: The claims.
    """
    verdicts = [one.verdict for one in judged]
    return ", ".join(f"{verdicts.count(name)} {name}" for name in VERDICTS)


def with_interval(found: SeedMean, digits: int, *, sign: bool = False) -> str:
    """Write a mean over seeds with its interval, where there is one.

    Args:
        found: The mean and its interval.
        digits: Digits after the point.
        sign: Whether positive numbers get a plus sign.
    """
    plus = "+" if sign else ""
    text = f"{found.mean:{plus}.{digits}f}"
    return text if np.isnan(found.low) else f"{text} [{found.low:{plus}.{digits}f}, {found.high:{plus}.{digits}f}]"
