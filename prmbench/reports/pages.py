"""A leaderboard as Markdown, and as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from prmbench.benchmarks.tables import shown
from prmbench.reports.escaping import for_html, for_markdown
from prmbench.reports.leaderboard import Board, read_boards
from prmbench.reports.reported import WHY_REPORTED, ReportedTable, read_reported
from prmbench.results.store import write_atomically

MARKDOWN, PAGE = "leaderboard.md", "leaderboard.html"
TEMPLATES = Path(__file__).resolve().parent / "templates"


def environment() -> Environment:
    """The jinja2 environment of all pages. It escapes everything, control characters too: anybody may have written the names."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=for_html,
    )
    made.filters["number"] = lambda value, digits: f"{value:,.{digits}f}"
    return made


def as_html(boards: Sequence[Board], reported: Sequence[ReportedTable]) -> str:
    """Write a leaderboard as one page: tables that sort by a click and filter by a text, readable on a phone, without network.

    Args:
        boards: The measured tables.
        reported: The reported tables.
    """
    return environment().get_template("leaderboard.html").render(boards=boards, reported=reported, why=WHY_REPORTED)


def as_markdown(boards: Sequence[Board], reported: Sequence[ReportedTable]) -> str:
    """Write a leaderboard as Markdown.

    Args:
        boards: The measured tables.
        reported: The reported tables.
    """
    parts = [
        "# Leaderboard\n\nMade by `prmbench leaderboard build` from the entries in `entries/`; `prmbench leaderboard verify` "
        "computes every figure again."
    ]
    for board in boards:
        title = for_markdown(board.title) + (" (miniature: a synthetic world)" if board.miniature else "")
        rows = [
            [str(line.rank or ""), for_markdown(line.name), for_markdown(line.kind), *map(shown, line.cells)]
            for line in board.lines
        ]
        parts.append(
            f"## {title}\n\n{for_markdown(board.about)}.\n\n{markdown_table(['rank', 'subject', 'kind', *board.columns], rows)}"
        )
        parts.append(for_markdown(" ".join(board.notes)))
    if reported:
        parts.append(f"## Reported\n\n{WHY_REPORTED}")
    for table in reported:
        place, title, figure = map(for_markdown, (table.place, table.title, table.figure))
        parts.append(f"### {place}: {title}\n\n{figure}; {for_markdown(table.origin)}.")
        if table.note:
            parts.append(for_markdown(table.note))
        if table.rows:
            rows = [
                [for_markdown(row.backbone), for_markdown(row.method), *texts]
                for row, texts in zip(table.rows, table.texts, strict=True)
            ]
            parts.append(markdown_table(["backbone", "method", *table.columns], rows))
    return "\n\n".join(parts) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table.

    Args:
        header: Its headings; they are escaped.
        rows: Its cells, as they are to stand in the file.
    """
    names = [for_markdown(name) for name in header]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def build(
    folder: Path, *, page: Path | None = None, n_resamples: int = 10_000, seed: int = 0, verify: bool = True
) -> tuple[Path, Path]:
    """Write the Markdown file and the HTML page of a leaderboard.

    Args:
        folder: The leaderboard's folder.
        page: The HTML page to write; None: ``leaderboard.html`` in the folder.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples, and of crossfit's folds.
        verify: Whether every figure is first computed again from its items; without, the tables say so.

    Returns:
        The Markdown file and the page.
    """
    return write_pages(folder, read_boards(folder, n_resamples=n_resamples, seed=seed, verify=verify), page)


def write_pages(folder: Path, boards: Sequence[Board], page: Path | None = None) -> tuple[Path, Path]:
    """Write tables that were read.

    Args:
        folder: The leaderboard's folder.
        boards: Its tables.
        page: The HTML page to write; None: ``leaderboard.html`` in the folder.

    Returns:
        The Markdown file and the page.
    """
    reported = read_reported(folder)
    markdown, html = folder / MARKDOWN, page or folder / PAGE
    write_atomically(markdown, as_markdown(boards, reported))
    html.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(html, as_html(boards, reported))
    return markdown, html
