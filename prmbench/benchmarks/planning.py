"""How many items decide a difference: of two entries that were compared, and of policies before a second one is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prmbench.benchmarks.differences import ComparedPair, PairedComparison
from prmbench.benchmarks.tables import safe
from prmbench.stats.power import LEVEL, POWER, pairs_needed, smallest_effect

SAMPLES = (1, 2, 4, 8, 16, 32)
"""Completions of a problem that a plan has a row for."""


@dataclass(frozen=True)
class PairPower:
    """What the items of a comparison can decide.

    Attributes:
        first: The first subject's name.
        second: The second subject's name.
        n: Items that were compared, over all subsets.
        difference: The difference of their means over subsets, in points.
        spread: Standard deviation of the difference of one item, in points: the standard error times the root of n.
        smallest: The smallest difference that so many items decide at 80% power, in points; None where there is no spread.
        points: The difference that a plan was asked for, in points.
        n_for_difference: Items that decide the difference seen, were it the true one; None: more than ten million, or no spread.
        n_for_points: Items that decide `points`; None: more than ten million, or no spread.
    """

    first: str
    second: str
    n: int
    difference: float
    spread: float
    smallest: float | None
    points: float
    n_for_difference: int | None
    n_for_points: int | None


def power_of_pairs(comparison: PairedComparison, points: float) -> list[PairPower]:
    """Say what the items of a comparison can decide, and how many would decide a difference.

    The standard error is read from the 95% paired-bootstrap interval. More items are taken to be more of the same, in every subset
    alike. Where no two resamples differ (the subjects agree on every item, or there is one resample), nothing is known of the
    spread, and nothing can be planned.

    Args:
        comparison: The comparison.
        points: A difference in points, such as 2, to plan for.
    """
    n = sum(len(one.ids) for one in comparison.sides[0].subsets.values())
    return [_power(pair, n, points) for pair in comparison.pairs]


def _power(pair: ComparedPair, n: int, points: float) -> PairPower:
    error = 100 * (pair.mean.high - pair.mean.low) / (2 * 1.959964)
    spread, difference = error * math.sqrt(n), 100 * pair.mean.value
    if not spread > 0:
        return PairPower(pair.first, pair.second, n, difference, 0.0, None, points, None, None)
    return PairPower(
        pair.first,
        pair.second,
        n,
        difference,
        spread,
        smallest_effect(n, spread),
        points,
        pairs_needed(difference, spread),
        pairs_needed(points, spread),
    )


def render_power(found: Sequence[PairPower]) -> RenderableType:
    """Show what comparisons can decide.

    Args:
        found: One row each, planned for the same difference.
    """
    points = found[0].points
    table = Table(title=f"Power: what {found[0].n:,} items decide, at {POWER:.0%}")
    for title in (
        "pair",
        "difference",
        "smallest decided",
        "items for this difference",
        f"items for {points:g} points",
    ):
        table.add_column(title, justify="left" if title == "pair" else "right")
    for one in found:
        table.add_row(
            safe(f"{one.first} - {one.second}"),
            f"{one.difference:+.1f}",
            *(
                ("n/a", "n/a", "n/a")
                if one.smallest is None
                else (f"{one.smallest:.1f}", _count(one.n_for_difference), _count(one.n_for_points))
            ),
        )
    note = f"In points, two-sided at {1 - LEVEL:.0%}. Items for this difference: were it the true one, with as many in each subset."
    if any(one.smallest is None for one in found):
        note += " n/a: the difference is the same in every resample, so nothing is known of its spread."
    return Group(table, Text(note))


def _count(n: int | None) -> str:
    return "over 10 million" if n is None else f"{n:,}"


@dataclass(frozen=True)
class PolicyPlan:
    """Problems that decide a difference of two policies, at a number of completions of each.

    Attributes:
        samples: Completions of each problem.
        alike: Problems where both policies have the same pass rate on every problem but for a constant, so that only sampling is
            noise.
        unrelated: Problems where their pass rates have nothing in common.
    """

    samples: int
    alike: int | None
    unrelated: int | None


def plan_policies(right: Mapping[Any, Sequence[bool]], points: float) -> list[PolicyPlan]:
    """Plan the comparison of this policy with another one that is about as good, on the same problems, with avg@n.

    A problem's difference has the variance 2 E[p (1 - p)] / n from sampling, and up to 2 var(p) from problems that are hard for
    one policy and easy for the other. Both are estimated without bias from the completions of each problem.

    Args:
        right: Whether each completion of each problem is right, at least two of a problem.
        points: The difference to decide, in points.

    Returns:
        A row for each of `SAMPLES`.

    Raises:
        ValueError: A problem has fewer than two completions, or those of each problem are all right or all wrong, so that
            nothing is known of the noise of sampling.
    """
    shares = np.array([np.mean(one) for one in right.values()])
    counts = np.array([len(one) for one in right.values()])
    if counts.min() < 2:
        raise ValueError("a problem has fewer than two completions")
    within = float(np.mean(shares * (1 - shares) * counts / (counts - 1)))
    if within == 0:
        raise ValueError("the completions of each problem are all right or all wrong")
    noise = float(np.mean(shares * (1 - shares) / (counts - 1)))
    between = max(float(np.var(shares, ddof=1)) - noise, 0.0) if len(shares) > 1 else 0.0
    plans = []
    for n in SAMPLES:
        needed = [pairs_needed(points, 100 * math.sqrt(2 * within / n + common)) for common in (0.0, 2 * between)]
        plans.append(PolicyPlan(n, *needed))
    return plans


def render_plan(plans: Sequence[PolicyPlan], points: float, n_problems: int) -> RenderableType:
    """Show a plan.

    Args:
        plans: Its rows.
        points: The difference to decide, in points.
        n_problems: Problems that it was estimated from.
    """
    table = Table(title=f"Problems that decide {points:g} points against another policy, at {POWER:.0%} power")
    for title in ("completions a problem", "if both find the same problems hard", "if nothing is in common"):
        table.add_column(title, justify="right")
    for one in plans:
        table.add_row(str(one.samples), _count(one.alike), _count(one.unrelated))
    note = (
        f"Estimated from {n_problems:,} problems; paired by problem, two-sided at {1 - LEVEL:.0%}. Two "
        "trainings of one start lie nearer the first column; `prmbench compare A B --power` says where, once there are two."
    )
    return Group(table, Text(note))
