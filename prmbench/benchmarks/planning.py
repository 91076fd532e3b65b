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
from scipy.stats import norm

from prmbench.benchmarks.differences import ComparedPair, PairedComparison
from prmbench.benchmarks.tables import safe
from prmbench.errors import UserError
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
        spread: Standard deviation of the difference of one item that stands for all, in points: the standard error times the root
            of n.
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

    The standard error is read from the 95% paired-bootstrap interval, which is too narrow where items are few: resamples spread as
    the items do around their own mean. It is widened by what that comes to, were the items of all subsets equally noisy. More
    items are taken to be more of the same, in every subset alike. Where no two resamples differ (the subjects agree on every item,
    or there is one resample), nothing is known of the spread, and nothing can be planned.

    Args:
        comparison: The comparison.
        points: A difference in points, such as 2, to plan for.
    """
    return [_power(pair, comparison.sizes, points) for pair in comparison.pairs]


def _power(pair: ComparedPair, sizes: Sequence[int], points: float) -> PairPower:
    n, difference = sum(sizes), 100 * pair.mean.value
    error = 100 * (pair.mean.high - pair.mean.low) / (2 * norm.ppf(0.5 + LEVEL / 2))
    if not error > 0:
        return PairPower(pair.first, pair.second, n, difference, 0.0, None, points, None, None)
    of_resamples = sum((size - 1) / size**2 for size in sizes)
    spread = float(error * math.sqrt(n * sum(1 / size for size in sizes) / of_resamples))
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
        # Names whole, on as many lines as they take: those of one model differ in their ends.
        table.add_column(title, justify="left" if title == "pair" else "right", overflow="fold")
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
    note = (
        f"In points, two-sided at {1 - LEVEL:.0%}. Items for this difference: were it the true one, with as many in each subset. "
        "It is as uncertain as the difference is."
    )
    if any(one.smallest is None for one in found):
        note += " n/a: the difference is the same in every resample, so nothing is known of its spread."
    return Group(table, Text(note))


def _count(n: float | None) -> str:
    if n is None:
        return "over 10 million"
    return "n/a" if math.isnan(n) else f"{n:,}"


@dataclass(frozen=True)
class PolicyPlan:
    """Problems that decide a difference of two policies, at a number of completions of each.

    Attributes:
        samples: Completions of each problem.
        alike: Problems where both policies have the same pass rate on every problem but for a constant, so that only sampling is
            noise; None: more than ten million.
        unrelated: Problems where their pass rates have nothing in common; None: more than ten million. NaN where a set has one
            problem, so that nothing is known of how problems differ.
    """

    samples: int
    alike: int | None
    unrelated: float | None


def plan_policies(sets: Mapping[str, Mapping[Any, Sequence[bool]]], points: float) -> list[PolicyPlan]:
    """Plan the comparison of this policy with another one on the same problems, with avg@n, the plain mean over problem sets.

    A problem's difference has the variance (E[p (1 - p)] + E[q (1 - q)]) / n from sampling, and up to 2 var(p) from problems that
    are hard for one policy and easy for the other. p is this policy's pass rate, estimated without bias from the completions of
    each problem. The other's, q, is taken to be higher or lower by the difference on every problem, whichever is noisier. Problems
    are shared between the sets as they are here.

    Args:
        sets: Whether each completion of each problem is right, at least two of a problem, by set and problem.
        points: The difference to decide, in points.

    Returns:
        A row for each of `SAMPLES`.

    Raises:
        UserError: A problem has fewer than two completions, or those of each problem are all right or all wrong, so that nothing
            is known of the noise of sampling.
    """
    every = [completions for problems in sets.values() for completions in problems.values()]
    if min(map(len, every)) < 2:
        raise UserError(
            "nothing can be planned: a problem has fewer than 2 completions, so sampling is not told from problems"
        )
    if all(len(set(one)) == 1 for one in every):
        raise UserError(
            "nothing can be planned: the completions of each problem are all right or all wrong, so nothing is known of the noise "
            "of sampling; take more problems, or a temperature above 0"
        )
    found = [(_noise(list(problems.values()), points / 100), len(problems) / len(every)) for problems in sets.values()]
    plans = []
    for n in SAMPLES:
        # The spread of one problem that stands for all: of the mean over sets, each with its share of the problems.
        alike, unrelated = (
            100 * math.sqrt(sum((sampling / n + among) / share for (sampling, among), share in parts)) / len(sets)
            for parts in ([((sampling, 0.0), share) for (sampling, _), share in found], found)
        )
        needed = math.nan if math.isnan(unrelated) else pairs_needed(points, unrelated)
        plans.append(PolicyPlan(n, pairs_needed(points, alike), needed))
    return plans


def _noise(problems: Sequence[Sequence[bool]], difference: float) -> tuple[float, float]:
    """Variance of a problem's difference with one completion each, and from problems that differ; NaN of a single problem."""
    shares = np.array([np.mean(one) for one in problems])
    counts = np.array([len(one) for one in problems])
    own = float(np.mean(shares * (1 - shares) * counts / (counts - 1)))
    # E[q (1 - q)] with q = p + d or p - d on every problem; the noisier is the one nearer to one half.
    other = own + difference * abs(1 - 2 * float(shares.mean())) - difference**2
    if len(problems) < 2:
        return own + max(other, 0.0), math.nan
    sampled = float(np.mean(shares * (1 - shares) / (counts - 1)))
    return own + max(other, 0.0), 2 * max(float(np.var(shares, ddof=1)) - sampled, 0.0)


def render_plan(plans: Sequence[PolicyPlan], points: float, sizes: Sequence[int]) -> RenderableType:
    """Show a plan.

    Args:
        plans: Its rows.
        points: The difference to decide, in points.
        sizes: Problems of each set that it was estimated from.
    """
    table = Table(title=f"Problems that decide {points:g} points against another policy, at {POWER:.0%} power")
    for title in ("completions a problem", "if both find the same problems hard", "if nothing is in common"):
        table.add_column(title, justify="right")
    for one in plans:
        table.add_row(str(one.samples), _count(one.alike), _count(one.unrelated))
    n = sum(sizes)
    note = f"Estimated from {n:,} problem{'s' * (n != 1)}; paired by problem, two-sided at {1 - LEVEL:.0%}. "
    if len(sizes) > 1:
        note += f"Problems of all {len(sizes)} sets together, shared between them as here. "
    if any(one.unrelated is not None and math.isnan(one.unrelated) for one in plans):
        note += "n/a: one problem says nothing of how problems differ. "
    elif all(one.alike is not None and one.alike == one.unrelated for one in plans):
        note += "No difference between problems shows in these completions, so the columns are equal. "
    note += "Two trainings of one start lie nearer the first column; `prmbench compare A B --power` says where, once there are two."
    return Group(table, Text(note))
