"""What replicates: the claims by verdict, and pictures of why, from the rows of `prmbench replicate` in the miniature."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from prmbench.benchmarks.parts import to_svg
from prmbench.miniature.decisions import DecisionKind
from prmbench.miniature.solutions import FORMATS
from prmbench.reports.pages import markdown_table
from prmbench.reports.reported import read_reported
from prmbench.resources import resource_folder
from prmbench.stats.seeds import SeedMean, seed_mean
from prmbench.studies import figures
from prmbench.studies.claims import MARGIN_SHARE, VERDICTS, JudgedClaim, count_verdicts, family, judge
from prmbench.studies.figures import Results, RunFigure, count_seeds
from prmbench.studies.measure_decisions import RARE, TOKEN_KINDS
from prmbench.studies.measure_reward_models import BEST_OF
from prmbench.studies.our_tables import PLACES, RATIOS
from prmbench.studies.paper_claims import CLAIMS
from prmbench.studies.paper_tables import RIVALS
from prmbench.studies.pictures import reliability_diagram
from prmbench.studies.replicate import TEST, claims_table
from prmbench.studies.runs import StudyRun
from prmbench.studies.settings import BEST, LABELS

COLOURS = {"appears": "#00867e", "does not appear": "#be1e2d", "practically equal": "#3b5ba5", "undecided": "#9a9a9a"}
"""Colour of each verdict."""
COMPARED = ("grpo", "grpo ipvrm", BEST)
"""Policies whose moves are drawn."""
FAR_BEHIND = ("q_rm", "endo", "reinforce q_rm", "sft")
"""Rivals that are far behind all others here, as the first seeds showed; to beat them says little."""
KINDS: tuple[DecisionKind, ...] = get_args(DecisionKind)
RELIABLE = ("implicit_prm", "ipvrm m=0", "ipvrm", "ipvrm m=10")
"""Reward models whose values are drawn against true ones."""
SHIFTS = ("dpo", "implicit_prm", "ipvrm_late", "ipvrm", "ipvrm m=0", "ipvrm m=10")
"""Reward models whose F1 is drawn seed by seed."""
ADDED_AT = (10, 13)
"""Numbers of seeds at which the undecided claims were counted, and more seeds were planned."""
CLIP = 4.0
"""Differences of more than so many times the paper's effect are drawn at the edge."""


def verdict_counts(judged: Sequence[JudgedClaim]) -> str:
    """Count the verdicts of the paper's claims, a row for each of its tables.

    Args:
        judged: The claims; ours are left out.
    """
    paper = [one for one in judged if not one.claim.ours]
    rows = []
    for where in [*dict.fromkeys(family(one.claim) for one in paper), "all"]:
        mine = [one for one in paper if where in (family(one.claim), "all")]
        counts = [sum(one.verdict == verdict for one in mine) for verdict in VERDICTS]
        starred = sum(not one.holds_after_holm for one in mine)
        rows.append([where, str(len(mine)), *(str(n) if n else "" for n in counts), str(starred) if starred else ""])
    return markdown_table(["paper", "claims", *VERDICTS, "not after Holm"], rows)


def easy_claims(judged: Sequence[JudgedClaim]) -> str:
    """Say how many of the paper's claims that appear say little, and why.

    Args:
        judged: The claims; ours are left out.
    """
    appear = [one.claim for one in judged if not one.claim.ours and one.verdict == "appears"]
    tuned, cost = (sum(one.tables == {number} for one in appear) for number in ("11", "13"))
    rivals = [one.smaller for one in appear if not one.tables & {"11", "13"}]
    behind = sum(isinstance(one, RunFigure) and one.run.name in FAR_BEHIND for one in rivals)
    return (
        f"Of the {len(appear)} claims that appear, {behind + tuned + cost} say little: against "
        f"{', '.join(LABELS[name] for name in FAR_BEHIND[:-1])} or the {LABELS[FAR_BEHIND[-1]]} policy, which are far behind "
        f"everything here ({behind}), about candidate sets, to which the world was tuned ({tuned}), and about the cost of a step "
        f"({cost})."
    )


def how_firm(judged: Sequence[JudgedClaim], n_seeds: int) -> str:
    """Say how many of the paper's claims would be undecided under rules that pay for many claims, or for many looks.

    Args:
        judged: The claims; ours are left out.
        n_seeds: Number of seeds.
    """
    paper = [one for one in judged if not one.claim.ours]
    raw = sum(one.verdict == "undecided" for one in paper)
    after_holm = raw + sum(not one.holds_after_holm for one in paper)
    said = (
        f"How firm is this? {raw} of the {len(paper)} claims are undecided by their own intervals. If each star counted as "
        f"undecided, it would be {after_holm}."
    )
    earlier = [n for n in ADDED_AT if n < n_seeds]
    if not earlier:
        return said
    level = 1 - 0.05 / (len(earlier) + 1)
    after_looks = sum(one.verdict_at(level) == "undecided" for one in paper)
    return (
        f"{said} The undecided claims were also counted at {' and '.join(map(str, earlier))} seeds, and each time more seeds were "
        f"planned. Intervals of {level:.1%}, which pay for {len(earlier) + 1} looks by Bonferroni's rule, leave {after_looks} "
        "undecided. This is a cautious bound, because no claim was ever stopped on its own."
    )


def forest(judged: Sequence[JudgedClaim]) -> str:
    """Draw the difference of every claim with its interval, in units of the paper's effect.

    Args:
        judged: The claims; those of ours and those without a margin are left out.

    Returns:
        The picture as SVG. The band is what counts as practically equal; the line at 1 is the paper's effect.
    """
    drawn = [one for one in judged if not one.claim.ours and one.margin > 0 and not np.isnan(one.difference.mean)]
    drawn.sort(key=lambda one: VERDICTS.index(one.verdict), reverse=True)
    figure = Drawing(figsize=(10, 1 + 0.2 * len(drawn)), layout="constrained")
    axis = figure.subplots()
    axis.axvspan(-MARGIN_SHARE, MARGIN_SHARE, color="0.92")
    for x, style in ((0, "-"), (1, ":")):
        axis.axvline(x, color="0.5", linestyle=style, linewidth=0.8)
    for y, one in enumerate(drawn):
        unit = one.margin / MARGIN_SHARE
        low, mean, high = np.clip(
            np.array([one.difference.low, one.difference.mean, one.difference.high]) / unit, -CLIP, CLIP
        )
        colour = COLOURS[one.verdict]
        axis.plot([low, high], [y, y], color=colour, linewidth=1.5)
        axis.plot([mean], [y], "o", color=colour, markersize=4)
    axis.set_yticks(range(len(drawn)), [f"{one.claim.where}: {one.claim.text}" for one in drawn], fontsize=6.5)
    axis.set(xlim=(-CLIP, CLIP), xlabel="difference here, in units of the paper's effect (or of three margins)")
    handles = [axis.plot([], [], "o", color=colour, label=verdict)[0] for verdict, colour in COLOURS.items()]
    axis.legend(handles=handles, fontsize=7, loc="lower right")
    return to_svg(figure, "Every claim of the paper: difference and interval")


def _bars(
    axis: Axes, groups: Sequence[str], cells: Sequence[tuple[str, Sequence[RunFigure]]], results: Results
) -> None:
    """Draw groups of bars with intervals, a bar for each row of cells."""
    width = 0.8 / len(cells)
    for i, (name, row) in enumerate(cells):
        means: list[SeedMean] = [seed_mean(cell.values(results)) for cell in row]
        x = np.arange(len(groups)) + (i - (len(cells) - 1) / 2) * width
        values = [one.mean for one in means]
        error = [0.0 if np.isnan(one.low) else one.mean - one.low for one in means]
        axis.bar(x, values, width, yerr=error, label=name, error_kw={"linewidth": 0.7})
    axis.set_xticks(range(len(groups)), [group.replace(", ", ",\n") for group in groups], fontsize=7)
    axis.grid(axis="y", alpha=0.3)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.2 * (high - low))  # for the legend
    axis.legend(fontsize=7, loc="upper center", ncols=3)


def shift_picture(results: Results) -> str:
    """Draw F1 of every seed by format, with a thin line that joins the reward models of a seed.

    Args:
        results: Rows by run.

    Returns:
        The picture as SVG.
    """
    figure = Drawing(figsize=(10, 3.8), layout="constrained")
    for axis, form in zip(figure.subplots(1, len(FORMATS), sharey=True), FORMATS, strict=True):
        found = np.array([figures.f1(form).of(name).values(results) for name in SHIFTS])  # [reward models, seeds]
        axis.plot(found, color="0.75", linewidth=0.7)
        for x, one in enumerate(found):
            axis.plot(np.full(len(one), x), one, "o", color="#3b5ba5", markersize=4, alpha=0.7)
            axis.plot([x - 0.25, x + 0.25], [one.mean()] * 2, color="#be1e2d", linewidth=2)
        axis.set_xticks(range(len(SHIFTS)), [LABELS[name] for name in SHIFTS], fontsize=7, rotation=20, ha="right")
        axis.set_title(form)
        axis.grid(axis="y", alpha=0.3)
    figure.axes[0].set_ylabel("F1 (process), %")
    return to_svg(figure, "F1 by format, seed by seed")


def credit_picture(results: Results) -> str:
    """Draw where TD agrees with true values, and where its size goes.

    Args:
        results: Rows by run.

    Returns:
        The picture as SVG.
    """
    figure = Drawing(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _bars(
        left, KINDS, [(LABELS[name], [figures.preferred(kind).of(name) for kind in KINDS]) for name in RATIOS], results
    )
    left.axhline(50, color="0.4", linewidth=0.8)
    left.set(title="TD prefers the way with the higher true value", ylabel="% of decisions")
    shares = [(LABELS[name], [figures.credit("share", kind).of(name) for kind in TOKEN_KINDS]) for name in RATIOS]
    _bars(right, TOKEN_KINDS, shares, results)
    right.set(title="Where abs(TD) goes", ylabel="% of its sum")
    for axis in (left, right):
        axis.set_yticks(range(0, 101, 20))  # the legend stands above 100%
    return to_svg(figure, "TD against exact values")


def moves_picture(results: Results) -> str:
    """Draw what training moves at decisions, in true value.

    Args:
        results: Rows by run.

    Returns:
        The picture as SVG.
    """
    figure = Drawing(figsize=(9, 3.8), layout="constrained")
    axis = figure.subplots()
    _bars(
        axis,
        PLACES,
        [(LABELS[name], [figures.gained(place).of(name) for place in PLACES]) for name in COMPARED],
        results,
    )
    axis.axhline(0, color="0.4", linewidth=0.8)
    axis.set(title="True value that training moves, by decision", ylabel="points a decision")
    return to_svg(figure, "What training moves")


def rare_picture(results: Results) -> str:
    """Draw TD and true advantage of tokens by how likely the SFT policy was to sample them.

    Args:
        results: Rows by run.

    Returns:
        The picture as SVG.
    """
    figure = Drawing(figsize=(6, 3.8), layout="constrained")
    axis = figure.subplots()
    edges = [0.0, *RARE, 1.0]
    groups = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]

    def means(name: str, part: str) -> list[float]:
        rows = [row["rare"] for row in results[StudyRun("credit", name)]]
        found = np.array([[row[i][part] for i in range(len(groups))] for row in rows], dtype=np.float64)
        return [float(column[~np.isnan(column)].mean()) if not np.isnan(column).all() else np.nan for column in found.T]

    for name in RATIOS:
        axis.plot(
            groups, means(name, "td"), marker="o", label=f"TD, {LABELS[name]}", linewidth=2 if name == "ipvrm" else 1
        )
    axis.plot(groups, means("ipvrm", "advantage"), color="0.3", linestyle=":", marker="s", label="true advantage")
    axis.set(xlabel="probability of the token under the SFT policy", ylabel="mean, in standard deviations")
    axis.set_title("Rare tokens: what TD says, and what they are worth")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    return to_svg(figure, "TD of rare tokens")


def best_of_n_picture(results: Results) -> str:
    """Draw Best-of-N against N, of candidates at the evaluation preset and at temperature 1.

    Args:
        results: Rows by run.

    Returns:
        The picture as SVG.
    """
    figure = Drawing(figsize=(9, 3.6), layout="constrained")
    panels = (("figures", "Evaluation preset (0.6, 0.95)"), ("at_one", "Temperature 1"))
    for axis, (sampled, title) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        for name in RIVALS:
            cells = [figures.best_of(n, sampled).of(name) for n in BEST_OF]
            found = [seed_mean(cell.values(results)) for cell in cells]
            axis.plot(BEST_OF, [one.mean for one in found], marker="o", label=LABELS[name])
            axis.fill_between(BEST_OF, [one.low for one in found], [one.high for one in found], alpha=0.12)
        axis.set_xscale("log", base=2)
        axis.set_xticks(BEST_OF, [str(n) for n in BEST_OF])
        axis.set(title=title, xlabel="N")
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("right, %")
    figure.axes[0].legend(fontsize=7)
    return to_svg(figure, "Best-of-N at two temperatures")


def pictures_of(judged: Sequence[JudgedClaim], results: Results) -> dict[str, tuple[str, str]]:
    """Draw every picture of the page.

    Args:
        judged: The claims.
        results: Rows by run.

    Returns:
        Caption and SVG by the picture's name.
    """
    return {
        "claims": (
            "Every claim: its difference with the 95% interval over seeds, in units of the paper's effect. Grey band: within the "
            f"margin, practically equal. What lies beyond {CLIP:g} effects is drawn at the edge.",
            forest(judged),
        ),
        "shift": (
            "F1 by format. A dot is a seed, a thin line joins the dots of a seed, and a red bar is their mean.",
            shift_picture(results),
        ),
        "credit": ("TD against exact values, by reward model.", credit_picture(results)),
        "rare": ("Tokens that the policy rarely samples.", rare_picture(results)),
        "moves": (
            "What training moves at decisions, by what is decided and which way was likelier.",
            moves_picture(results),
        ),
        "best-of-n": ("Best-of-N by reward model, with 95% intervals over seeds.", best_of_n_picture(results)),
        "values": (
            "Values of prefixes against true ones, by link; a dot's size is its share of prefixes.",
            reliability_diagram(results, RELIABLE),
        ),
    }


def _by_verdict(judged: Sequence[JudgedClaim], verdict: str) -> list[str]:
    """Write the claims with a verdict, under a heading of their own; nothing where no claim has it."""
    found = [one for one in judged if one.verdict == verdict]
    if not found:
        return []
    heading = f"### {verdict[0].upper()}{verdict[1:]}"
    if verdict != "undecided":
        return [heading, claims_table(found)]
    return [
        heading,
        "Beside each: the seeds that decide the paper's effect at 80% power with the spread seen here, where the paper prints it.",
        claims_table(found, with_seeds=True),
    ]


def write(results: Results, pair: Results) -> tuple[list[str], dict[str, str]]:
    """Write the page's figures.

    Args:
        results: Rows by run, of all that the paper's tables need.
        pair: Rows of the runs that were made for more seeds.

    Returns:
        Paragraphs of the page, and pictures by their file's name.
    """
    judged = judge(CLAIMS, results, read_reported(resource_folder("leaderboards")), pair)
    paper, ours = ([one for one in judged if one.claim.ours is mine] for mine in (False, True))
    pictures = pictures_of(judged, results)

    def show(name: str) -> str:
        return f"![{pictures[name][0]}](what-replicates-{name}.svg)"

    n, more = count_seeds(results), count_seeds(pair)
    paragraphs = [
        "## Verdicts",
        f"Seeds: {n}; of DistRL and GRPO with IPVRM: {more}. One seed decides nothing. {TEST}",
        verdict_counts(judged),
        how_firm(judged, n),
        easy_claims(judged),
        show("claims"),
        "Every table of the paper with the figures from here beside it: "
        f"`prmbench replicate --seeds {n} --pair-seeds {more} --rows docs/studies/rows`.",
        *(part for verdict in VERDICTS for part in _by_verdict(paper, verdict)),
        "## Why",
        f"Claims of ours, which the paper does not make: {count_verdicts(ours)}.",
        claims_table(ours),
        *(show(name) for name in pictures if name != "claims"),
    ]
    return paragraphs, {f"what-replicates-{name}.svg": picture for name, (_, picture) in pictures.items()}
