"""Claims that one figure is larger than another, and the verdict of a paired test over seeds.

Seed by seed the difference of the two figures is taken. Each seed has its own policy, data, models and test items. Where the 95%
Student-t interval of the mean difference is above 0 the claim appears, where it is below 0 the claim does not appear, else it is
undecided. A seed's figure is a mean over its own items, so their sampling is part of what differs between seeds. With one seed
nothing is decided.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from prmbench.stats.seeds import OrderingVerdict, SeedMean, ordering
from prmbench.studies.figures import Results, RunFigure
from prmbench.studies.runs import StudyRun

VERDICTS: tuple[OrderingVerdict, ...] = get_args(OrderingVerdict)


@dataclass(frozen=True)
class Claim:
    """One claim: the larger figure is above the smaller one.

    Attributes:
        where: Its place in the paper, such as ``Tables 1, 12`` or ``Fig. 6, left``.
        text: The claim in words.
        larger: The figure that is said to be larger; a number where it is compared with a constant.
        smaller: The figure that is said to be smaller; a number where it is compared with a constant.
        digits: Digits shown after the point.
        note: What else a reader must know.
    """

    where: str
    text: str
    larger: RunFigure | float
    smaller: RunFigure | float
    digits: int = 1
    note: str = ""

    @property
    def tables(self) -> frozenset[str]:
        """Numbers of the paper's tables, figures and sections that it is of: ``{"1", "12"}``, ``{"fig6"}``, ``{"4.3.3"}``."""
        if self.where.startswith("Fig. 6"):
            return frozenset({"fig6"})
        return frozenset(re.findall(r"\d+(?:\.\d+)*", self.where))

    @property
    def runs(self) -> list[StudyRun]:
        """The runs whose figures it compares."""
        return [one.run for one in (self.larger, self.smaller) if isinstance(one, RunFigure)]


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and what came out.

    Attributes:
        claim: The claim.
        difference: The larger figure minus the smaller one: its mean over seeds and the interval of the mean.
        verdict: What follows.
        values: The difference of each seed.
    """

    claim: Claim
    difference: SeedMean
    verdict: OrderingVerdict
    values: list[float]

    @property
    def shown(self) -> str:
        """The difference with its interval, for pages."""
        if np.isnan(self.difference.mean):
            return "n/a: a figure is not defined on some seed"
        return with_interval(self.difference, self.claim.digits, sign=True)


def judge(claims: Iterable[Claim], results: Results) -> list[JudgedClaim]:
    """Test claims. A claim is undecided where one of its figures is not defined on some seed.

    Args:
        claims: The claims; those that need a run which was not made are left out.
        results: Rows by run.
    """
    judged = []
    for claim in claims:
        if all(run in results for run in claim.runs):
            n = len(results[claim.runs[0]])
            first, second = (
                one.values(results) if isinstance(one, RunFigure) else [one] * n
                for one in (claim.larger, claim.smaller)
            )
            judged.append(JudgedClaim(claim, *ordering(first, second), np.subtract(first, second).tolist()))
    return judged


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
