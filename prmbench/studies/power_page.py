"""The page of what a number of seeds can decide: the spread of every claim over pilot seeds, and the seeds that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prmbench.reports.pages import markdown_table
from prmbench.reports.reported import read_reported
from prmbench.resources import resource_folder
from prmbench.stats.power import POWER, smallest_effect
from prmbench.studies.claims import JudgedClaim, judge
from prmbench.studies.figures import Results, count_seeds
from prmbench.studies.paper_claims import CLAIMS

SEEDS = 20
"""Planned seeds of the tables."""


def write_power(pilot: Results, tables: Results) -> list[str]:
    """Write the figures of the page.

    Args:
        pilot: Rows of the pilot seeds by run.
        tables: Rows of the tables' seeds by run, whose spread is shown beside that of the pilot. Runs may be without seeds.

    Returns:
        Paragraphs of the page.
    """
    judged = _claims(pilot)
    seen = [one.spread for one in _claims(tables)] if count_seeds(tables) else [math.nan] * len(judged)
    hours = sum(run.seconds for run in pilot) / 3600
    with_effect = [one for one in judged if one.seeds_needed is not None]
    enough = [one for one in with_effect if (one.seeds_needed or 0) <= SEEDS]
    small = [one for one in judged if one.margin > 0 and _decided(one) <= one.margin]
    return [
        "## What the seeds can decide",
        f"Pilot seeds: {count_seeds(pilot)}. Of {len(judged)} claims the paper prints an effect in the claim's direction for "
        f"{len(with_effect)}. {SEEDS} seeds decide an effect of that size with {POWER:.0%} power for {len(enough)} of these. For "
        f"{len(small)} of all claims they decide even a difference as small as the margin.",
        f"The budget: {SEEDS * hours:.0f} hours of one core, {hours:.1f} a seed.",
        *_compared(judged, seen, count_seeds(tables)),
        "## Every claim",
        "Spread: the standard deviation of the paired difference between pilot seeds. Decided: the smallest true difference that "
        f"the planned seeds decide with {POWER:.0%} power. Seen: the spread of the tables' own seeds.",
        markdown_table(
            ["paper", "claim", "the paper's effect", "spread", "seeds for it", "decided", "margin", "seen"],
            [_cells(*both) for both in zip(judged, seen, strict=True)],
        ),
    ]


def _claims(results: Results) -> list[JudgedClaim]:
    """Judge the claims of the paper."""
    judged = judge(CLAIMS, results, read_reported(resource_folder("leaderboards")))
    return [one for one in judged if not one.claim.ours]


def _compared(judged: Sequence[JudgedClaim], seen: Sequence[float], n_seeds: int) -> list[str]:
    """Say how the spread of the tables' seeds compares with the pilot's, where both are known."""
    ratios = [spread / one.spread for one, spread in zip(judged, seen, strict=True) if one.spread > 0 and spread > 0]
    if not ratios:
        return []
    low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    return [
        f"The {n_seeds} seeds of the tables show what the pilot was worth: their spread is {middle:.1f} times the pilot's for the "
        f"claim in the middle, and between {low:.1f} and {high:.1f} times for eight claims in ten."
    ]


def _decided(claim: JudgedClaim) -> float:
    """The smallest difference that the planned seeds decide; NaN where the spread is not known."""
    return smallest_effect(SEEDS, claim.spread)


def _cells(claim: JudgedClaim, seen: float) -> Sequence[str]:
    digits = claim.claim.digits + 1

    def text(value: float) -> str:
        return "n/a" if math.isnan(value) else f"{value:.{digits}f}"

    return [
        claim.claim.where,
        claim.claim.text,
        claim.paper_said,
        text(claim.spread),
        str(claim.seeds_needed or ""),
        text(_decided(claim)),
        f"{claim.margin:.{digits}f}" if claim.margin else "",
        text(seen),
    ]
