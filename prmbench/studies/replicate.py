"""`prmbench replicate`: the paper's tables in the miniature or on real backbones, and a verdict for every claim.

It writes a Markdown file, one HTML page, and the JSON behind both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prmbench.errors import ArgumentError, argument
from prmbench.reports.pages import environment, markdown_table
from prmbench.reports.reported import read_reported
from prmbench.resources import resource_folder
from prmbench.results.provenance import versions
from prmbench.results.store import write_atomically
from prmbench.studies.claims import OURS, JudgedClaim, count_verdicts, judge
from prmbench.studies.figures import Results, count_seeds
from prmbench.studies.layout import Layout, our_ordering, paper_orderings, write_rows
from prmbench.studies.paper_claims import CLAIMS
from prmbench.studies.paper_tables import NUMBERS, paper_tables
from prmbench.studies.pictures import FIGURE_SIX, LEARNING_CURVES, curves
from prmbench.studies.runs import StudyRun
from prmbench.studies.settings import BEST, LABELS
from prmbench.studies.world import MiniatureWorld, StudyWorld, WorldFacts

TEST = (
    "Each claim is a sentence of the paper, or read from a table of it; docs/replicate.md names those that were added or mended "
    "when six seeds had been seen. The test is the paired difference seed by seed (every seed has its own policy, data, models and "
    "test items) and the 95% Student-t interval of its mean. Above 0: appears; below 0: does not appear; within the margin, which "
    "is a third of the paper's mean effect where it prints one: practically equal; else undecided. Where the paper says only that "
    "one is no worse, the margin is added to the difference first. A star marks a verdict that does not stay at 5% after Holm's "
    "rule over its table."
)
PICTURES = {"5": (LEARNING_CURVES, "Learning curves"), "fig6": (FIGURE_SIX, "Fig. 6")}
PAIR = (StudyRun("policy", BEST), StudyRun("policy", "grpo ipvrm"))
"""Two policies whose difference is small beside its spread, so that they may be made for more seeds than all else."""
UNORDERED = ("11", "13", "4.3.3", "fig6", OURS)
"""Tables whose rows are no rivals."""


@dataclass(frozen=True)
class TableSection:
    """A table of the page, with what belongs to it.

    Attributes:
        layout: The table.
        rows: Name and cells of each row.
        paper: The paper's orderings, a line each.
        ours: The ordering here.
        claims: The claims of this table.
        picture: A picture as SVG, made here; empty where there is none.
    """

    layout: Layout
    rows: list[list[str]]
    paper: list[str]
    ours: str
    claims: list[JudgedClaim]
    picture: str


@dataclass(frozen=True)
class ReplicatePages:
    """What was written.

    Attributes:
        markdown: The Markdown file.
        html: The HTML page.
        counts: How many claims came out how, in words.
    """

    markdown: Path
    html: Path
    counts: str


def replicate(
    table: Sequence[str] = (),
    figure: Sequence[int] = (),
    *,
    world: StudyWorld | None = None,
    seeds: int | None = None,
    pair_seeds: int | None = None,
    workers: int | None = None,
    output: Path = Path("prmbench-results/replicate"),
) -> ReplicatePages:
    """Run what the paper's tables need, where it is not kept yet, and write the pages.

    Args:
        table: Numbers of tables, ``1`` to ``14`` or ``4.3.3``. Neither tables nor figures means everything.
        figure: Numbers of figures; only 6 has numbers to replicate.
        world: Where policies, data and problems come from; None is the miniature.
        seeds: Number of seeds, from 0 on; None takes the world's own number. With one seed nothing is decided.
        pair_seeds: Number of seeds of `PAIR`, the two policies whose difference is small; None, or no more than `seeds`, makes
            them for the same seeds as all else.
        workers: Number of processes; None lets the world choose.
        output: Folder for the pages.

    Raises:
        ArgumentError: There is no such table or figure, or the folder cannot be written.
        KeyboardInterrupt: Stopped; the message says how much is kept.
    """
    world = world or MiniatureWorld()
    layouts, absent, runs = plan_runs(table, figure, world.facts)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError("output", output, f"cannot be written ({error.strerror}); name another folder") from None
    of = range(seeds or world.facts.seeds)
    results = world.perform(runs, of, workers)
    pair = [run for run in PAIR if run in runs]
    longer = world.perform(pair, range(pair_seeds), workers) if pair_seeds and pair_seeds > len(of) else {}
    return write_pages(world, layouts, results, of, output, absent, longer)


def plan_runs(
    table: Sequence[str], figure: Sequence[int], facts: WorldFacts
) -> tuple[list[Layout], list[str], list[StudyRun]]:
    """Say what the tables and figures that are asked for need.

    Args:
        table: Numbers of tables, as in `replicate`.
        figure: Numbers of figures.
        facts: What is known of the world.

    Returns:
        The tables to show, the numbers of those without a counterpart, and the runs, each once.

    Raises:
        ArgumentError: There is no such table or figure.
    """
    # What was asked for.
    if other := [number for number in figure if number != 6]:
        raise ArgumentError("figure", other[0], "only Fig. 6 has numbers to replicate")
    asked = [*table, *("fig6" for _ in figure)]
    known = [number for number in (*NUMBERS, *facts.absent) if number != "fig6"]
    for number in table:
        if number not in known:
            raise ArgumentError("table", number, f"not known; known: {', '.join(known)}, and {argument('figure', 6)}")
    tables = [*paper_tables(facts.subsets, facts.notes), *facts.ours]
    layouts = [layout for layout in tables if not asked or layout.number in asked]
    absent = [number for number in facts.absent if not asked or number in asked]
    if not layouts:
        raise ArgumentError("table", absent[0], facts.absent[absent[0]])
    # Claims of a table may need runs of other tables.
    numbers = {layout.number for layout in layouts}
    of_claims = (run for claim in CLAIMS if claim.tables & numbers for run in claim.runs)
    return layouts, absent, list(dict.fromkeys([*(run for layout in layouts for run in layout.runs), *of_claims]))


def write_pages(
    world: StudyWorld,
    layouts: Sequence[Layout],
    results: Results,
    seeds: Sequence[int],
    folder: Path,
    absent: Sequence[str],
    longer: Results | None = None,
) -> ReplicatePages:
    """Write ``replicate.md``, ``replicate.html`` and ``replicate.json``.

    Args:
        world: The world that the rows are of.
        layouts: The tables to show.
        results: Rows by run, of all that the tables need.
        seeds: The seeds that the rows are of.
        folder: Folder to write into.
        absent: Numbers of tables without a counterpart that are to be mentioned.
        longer: Rows of runs that were made for more seeds; claims that need these runs alone are judged with them.
    """
    # Judge the claims; those that are ours are shown apart, at the end.
    reported = read_reported(resource_folder("leaderboards"))
    wanted = {layout.number for layout in layouts}
    found = judge(CLAIMS, results, reported, longer)
    judged = [j for j in found if j.values and not all(map(math.isnan, j.values))]
    lost = [j for j in found if j not in judged and (j.claim.ours or j.claim.tables & wanted)]
    shown = [j for j in judged if j.claim.tables & wanted]
    ours = [j for j in judged if j.claim.ours]
    # Fill the tables.
    sections = [
        TableSection(
            layout,
            write_rows(layout.rows, results),
            paper_orderings(layout, reported),
            "" if layout.number in UNORDERED else our_ordering(layout, results),
            [j for j in shown if layout.number in j.claim.tables],
            curves(results, *PICTURES[layout.number]) if layout.number in PICTURES else "",
        )
        for layout in layouts
    ]
    # Write everything.
    facts: dict[str, Any] = {
        "title": world.facts.title,
        "about": f"Seeds {', '.join(map(str, seeds))}.{_of_pair(longer)} Means over seeds with the 95% Student-t interval of the "
        f"mean. {world.facts.about}",
        "counts": count_verdicts(shown),
        "test": TEST,
        "sections": sections,
        "claims": shown,
        "ours": ours,
        "ours_counts": count_verdicts(ours),
        "missing": [
            *(f"Table {number}: {world.facts.absent[number]}" for number in absent),
            *(f"A claim of {j.claim.where}, whose figures no seed has here: {j.claim.text}." for j in lost),
        ],
        "versions": versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    markdown, html = folder / "replicate.md", folder / "replicate.html"
    write_atomically(html, environment().get_template("replicate.html").render(**facts))
    write_atomically(markdown, _markdown(facts))
    write_atomically(folder / "replicate.json", _json(world, results, seeds, longer or {}, [*shown, *ours]))
    return ReplicatePages(markdown, html, facts["counts"])


def _of_pair(longer: Results | None) -> str:
    if not longer:
        return ""
    names = " and ".join(LABELS[run.name] for run in longer)
    return f" Claims about {names} alone are judged on {count_seeds(longer)} seeds."


def _markdown(facts: dict[str, Any]) -> str:
    parts = [
        f"# {facts['title']}",
        facts["about"],
        "Made by `prmbench replicate`.",
        "## Claims",
        f"{facts['counts']}.",
        facts["test"],
        claims_table(facts["claims"]),
    ]
    for section in facts["sections"]:
        layout = section.layout
        parts += [
            f"## {layout.heading}",
            layout.unit and f"Figures: {layout.unit}.",
            markdown_table(["", *layout.columns], section.rows),
            layout.note,
            section.paper and "The paper:\n\n" + "\n".join(f"- {line}" for line in section.paper),
            section.ours and f"Here: {section.ours}.",
            section.claims and claims_table(section.claims),
        ]
    if facts["ours"]:
        parts += [
            "## Claims of ours",
            f"The paper does not make them: {facts['ours_counts']}.",
            claims_table(facts["ours"]),
        ]
    if facts["missing"]:
        parts += ["## Without a counterpart", "\n".join(f"- {line}" for line in facts["missing"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def claims_table(judged: Sequence[JudgedClaim], *, with_seeds: bool = False) -> str:
    """Write claims as a Markdown table. Where none of them has an effect in the paper, the table has no column for it.

    Args:
        judged: The claims, each with what came out.
        with_seeds: Whether to add the seeds that decide the paper's effect at 80% power.
    """
    has_effects = any(j.effects for j in judged)
    columns = [
        ("paper", [j.claim.where for j in judged]),
        ("claim", [j.claim.text + (f" ({j.claim.note})" if j.claim.note else "") for j in judged]),
        *([("the paper's effect", [j.paper_said for j in judged])] if has_effects else []),
        ("difference here", [j.shown for j in judged]),
        ("margin", [f"{j.margin:.{j.claim.digits + 1}f}" if j.margin else "" for j in judged]),
        ("here", [j.verdict_shown for j in judged]),
        *([("seeds for the paper's effect", [str(j.seeds_needed or "") for j in judged])] if with_seeds else []),
    ]
    rows = zip(*(cells for _, cells in columns), strict=True)
    return markdown_table([title for title, _ in columns], [list(row) for row in rows])


def _json(
    world: StudyWorld, results: Results, seeds: Sequence[int], longer: Results, shown: Sequence[JudgedClaim]
) -> str:
    """Say where every figure comes from: how each run was made, and the file of each seed's row."""
    runs = []
    for run, rows in {**results, **longer}.items():
        of = range(len(rows))
        files = ["/".join(world.place(run, seed).parts[-3:]) for seed in of]
        runs.append({**asdict(run), **world.describe(run, of), "files": files})
    claims = [
        {
            "where": j.claim.where,
            "claim": j.claim.text,
            "sentence": j.claim.sentence,
            "note": j.claim.note,
            "paper": j.effects,
            "margin": j.margin,
            "at_least": j.claim.at_least,
            "by_seed": [_or_null(value) for value in j.values],
            **{name: _or_null(value) for name, value in asdict(j.difference).items()},
            "p": _or_null(j.p),
            "holm": _or_null(j.adjusted),
            "seeds_for_the_paper": j.seeds_needed,
            "verdict": j.verdict,
        }
        for j in shown
    ]
    return json.dumps({"seeds": list(seeds), "versions": versions(), "claims": claims, "runs": runs}, indent=1) + "\n"


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
