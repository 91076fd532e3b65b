"""The page of what a number of seeds can decide: the spread of every claim over pilot seeds, and the seeds that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prmbench.reports.pages import markdown_table
from prmbench.reports.reported import read_reported
from prmbench.resources import resource_folder
from prmbench.stats.power import POWER, smallest_effect
from prmbench.studies.claims import JudgedClaim, judge
from prmbench.studies.figures import Results
from prmbench.studies.paper_claims import CLAIMS
from prmbench.studies.replicate import PAIR

SEEDS, PAIR_SEEDS = 10, 15
"""Seeds of the tables, and of the pair whose difference is the smallest."""


def planned_seeds(claim: JudgedClaim) -> int:
    """Return the number of seeds that a claim is judged on.

    Args:
        claim: The claim.
    """
    return PAIR_SEEDS if set(claim.claim.runs) <= set(PAIR) else SEEDS


def write_power(results: Results) -> list[str]:
    """Write the figures of the page.

    Args:
        results: Rows of the pilot seeds by run.

    Returns:
        Paragraphs of the page.
    """
    judged = judge(CLAIMS, results, read_reported(resource_folder("leaderboards")))
    paper = [one for one in judged if not one.claim.ours]
    n_seeds = len(next(iter(results.values())))
    hours = sum(run.seconds for run in results) / 3600
    more = (PAIR_SEEDS - SEEDS) * sum(run.seconds for run in PAIR) / 3600
    with_effect = [one for one in paper if one.seeds_needed is not None]
    enough = [one for one in with_effect if (one.seeds_needed or 0) <= planned_seeds(one)]
    small = [one for one in paper if one.margin > 0 and _decided(one) <= one.margin]
    return [
        "## What the seeds can decide",
        f"Pilot seeds: {n_seeds}. Of {len(paper)} claims the paper prints an effect in the claim's direction for "
        f"{len(with_effect)}. {SEEDS} seeds ({PAIR_SEEDS} for DistRL against GRPO with IPVRM) decide an effect of that size with "
        f"{POWER:.0%} power for {len(enough)} of these. For {len(small)} of all claims they decide even a difference as small as "
        "the margin.",
        f"The budget: {SEEDS * hours + more:.0f} hours of one core, {hours:.1f} a seed.",
        "## Every claim",
        "Spread: the standard deviation of the paired difference between seeds. Decided: the smallest true difference that the "
        f"planned seeds decide with {POWER:.0%} power.",
        markdown_table(
            ["paper", "claim", "the paper's effect", "spread", "seeds for it", "decided", "margin"],
            list(map(_cells, paper)),
        ),
    ]


def _decided(claim: JudgedClaim) -> float:
    """The smallest difference that the planned seeds decide; NaN where the spread is not known."""
    return smallest_effect(planned_seeds(claim), claim.spread)


def _cells(claim: JudgedClaim) -> Sequence[str]:
    digits, decided = claim.claim.digits + 1, _decided(claim)
    return [
        claim.claim.where,
        claim.claim.text,
        claim.paper_said,
        "n/a" if math.isnan(claim.spread) else f"{claim.spread:.{digits}f}",
        str(claim.seeds_needed or ""),
        "n/a" if math.isnan(decided) else f"{decided:.{digits}f}",
        f"{claim.margin:.{digits}f}" if claim.margin else "",
    ]
