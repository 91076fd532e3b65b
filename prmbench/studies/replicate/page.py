"""The replication as Markdown, one HTML page, and JSON behind both."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from prmbench.reports.leaderboard import read_reported
from prmbench.reports.pages import environment, markdown_table
from prmbench.resources import resource_folder
from prmbench.results.provenance import versions
from prmbench.results.store import write_atomically
from prmbench.studies.replicate.claims import CLAIMS
from prmbench.studies.replicate.judge import Judged, cell_text, count_verdicts, judge, our_ordering, paper_orderings
from prmbench.studies.replicate.layout import ABSENT, NUMBERS, Layout
from prmbench.studies.replicate.pictures import figure_six, learning_curves
from prmbench.studies.replicate.runs import POLICIES, REWARD_MODELS, Lab
from prmbench.studies.replicate.work import Results

TEST = (
    "Each claim was written into the code with its test: the paired difference seed by seed (every seed has its own policy, data, "
    "models and test items), the 95% Student-t interval of its mean above 0: appears; below 0: does not appear; else undecided. "
    "Nothing is corrected for the number of claims: of true ties, one in twenty is decided by chance."
)


@dataclass(frozen=True)
class Section:
    """A table of the page. pictures: SVG made here."""

    heading: str
    unit: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    paper: list[str]
    ours: str
    note: str
    claims: list[Judged]
    pictures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Pages:
    """What was written. counts: of claims by verdict, in words."""

    markdown: Path
    html: Path
    counts: str


def write_pages(
    layouts: Sequence[Layout], results: Results, seeds: Sequence[int], folder: Path, absent: Sequence[str]
) -> Pages:
    """Write ``replicate.md``, ``replicate.html`` and ``replicate.json``.

    Args:
        absent: numbers of tables without a counterpart to mention.
    """
    reported = read_reported(resource_folder("leaderboards"))
    judged = [found for claim in CLAIMS if (found := judge(claim, results)) is not None]
    wanted = {layout.number for layout in layouts}
    # A claim of no table shown (a section's own) is shown at the end.
    shown = [j for j in judged if j.claim.tables & wanted or not j.claim.tables & set(NUMBERS)]
    sections = []
    for layout in layouts:
        pictures = []
        if layout.number == "5":
            pictures = [learning_curves(results)]
        if layout.number == "fig6":
            pictures = [figure_six(results)]
        sections.append(
            Section(
                layout.heading,
                layout.unit,
                layout.columns,
                [(name, [cell_text(cell, results) for cell in cells]) for name, cells in layout.rows],
                paper_orderings(layout, reported),
                our_ordering(layout, results) if layout.number not in ("11", "13", "4.3.3", "fig6") else "",
                layout.note,
                [j for j in shown if layout.number in j.claim.tables],
                pictures,
            )
        )
    others = [j for j in shown if not j.claim.tables & wanted]
    missing = [f"Table {number}: {ABSENT[number]}" for number in absent]
    counts = count_verdicts([j.verdict for j in shown])
    about = (
        f"Seeds {', '.join(map(str, seeds))}. Means over seeds with the 95% Student-t interval of the mean. A synthetic world and "
        "tiny models: only orderings compare with the paper's."
    )
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"about": about, "counts": counts, "test": TEST, "sections": sections, "claims": shown, "others": others}
    html = environment().get_template("replicate.html").render(**facts, missing=missing, versions=versions())
    write_atomically(folder / "replicate.html", html)
    write_atomically(folder / "replicate.md", _markdown(about, counts, sections, shown, others, missing))
    write_atomically(folder / "replicate.json", _json(results, seeds, shown))
    return Pages(folder / "replicate.md", folder / "replicate.html", counts)


def _markdown(
    about: str,
    counts: str,
    sections: Sequence[Section],
    shown: Sequence[Judged],
    others: Sequence[Judged],
    missing: Sequence[str],
) -> str:
    parts = [
        "# The paper's tables in the miniature",
        about,
        "Made by `prmbench replicate`.",
        "## Claims",
        f"{counts}.",
        TEST,
        _claims(shown),
    ]
    for section in sections:
        parts.append(f"## {section.heading}")
        if section.unit:
            parts.append(f"Figures: {section.unit}.")
        parts.append(markdown_table(["", *section.columns], [[name, *cells] for name, cells in section.rows]))
        if section.note:
            parts.append(section.note)
        if section.paper:
            parts.append("The paper:\n\n" + "\n".join(f"- {line}" for line in section.paper))
        if section.ours:
            parts.append(f"Here: {section.ours}.")
        if section.claims:
            parts.append(_claims(section.claims))
    if others:
        parts += ["## Other claims", _claims(others)]
    if missing:
        parts += ["## Without a counterpart", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(parts) + "\n"


def _claims(judged: Sequence[Judged]) -> str:
    rows = [
        [j.claim.where, j.claim.text + (f" ({j.claim.note})" if j.claim.note else ""), j.shown, j.verdict]
        for j in judged
    ]
    return markdown_table(["paper", "claim", "difference", "here"], rows)


def _json(results: Results, seeds: Sequence[int], shown: Sequence[Judged]) -> str:
    """Where every figure comes from: settings of each run, and the file of each seed's row."""
    labs = [Lab(seed) for seed in seeds]
    runs = []
    for run in results:
        settings = POLICIES[run.name] if run.kind == "policy" else REWARD_MODELS.get(run.name)
        files = ["/".join(lab.place(run).parts[-4:]) for lab in labs]
        runs.append({**asdict(run), "settings": settings and asdict(settings), "files": files})
    claims = [
        {
            "where": j.claim.where,
            "claim": j.claim.text,
            "note": j.claim.note,
            "by_seed": [_or_null(value) for value in j.values],
            **{name: _or_null(value) for name, value in asdict(j.difference).items()},
            "verdict": j.verdict,
        }
        for j in shown
    ]
    return json.dumps({"seeds": list(seeds), "versions": versions(), "claims": claims, "runs": runs}, indent=1) + "\n"


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
