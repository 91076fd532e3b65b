"""The `replicate` command: the paper from one command, in the miniature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prmbench.cli.common import interruptible
from prmbench.errors import UserError


@interruptible
def replicate_command(
    table: Annotated[
        list[str] | None, typer.Option(help="number of a table, or 4.3.3; may be repeated; default: everything")
    ] = None,
    figure: Annotated[list[int] | None, typer.Option(help="6: online updates of IPVRM")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="0 to this many minus one; with one nothing is decided")] = 6,
    workers: Annotated[int | None, typer.Option(min=1, help="processes, one thread each; default: one a core")] = None,
    output: Annotated[Path, typer.Option(help="folder for the pages")] = Path("prmbench-results/replicate"),
) -> None:
    """The paper's tables and figure in the miniature: its orderings beside ours, a verdict for every claim."""
    from prmbench.studies.replicate.claims import CLAIMS
    from prmbench.studies.replicate.layout import ABSENT, NUMBERS, TABLES
    from prmbench.studies.replicate.page import write_pages
    from prmbench.studies.replicate.work import replicate_runs

    if other := [number for number in figure or [] if number != 6]:
        raise UserError(f"--figure {other[0]}: only Fig. 6 has numbers to replicate")
    asked = [*(table or []), *("fig6" for _ in figure or [])]
    for number in asked:
        if number not in (*NUMBERS, *ABSENT):
            shown = ", ".join(n for n in (*NUMBERS, *ABSENT) if n != "fig6")
            raise UserError(f"--table {number}: not known; known: {shown}, and --figure 6")
    layouts = [layout for layout in TABLES if not asked or layout.number in asked]
    absent = [number for number in ABSENT if not asked or number in asked]
    if not layouts:
        raise UserError(f"--table {absent[0]}: {ABSENT[absent[0]]}")
    numbers = {layout.number for layout in layouts}
    of_claims = (
        run for c in CLAIMS if c.tables & numbers for run, _ in (c.larger, c.smaller)
    )  # some are of other tables
    runs = list(dict.fromkeys([*(run for layout in layouts for run in layout.runs), *of_claims]))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}); pass another --output") from None
    found = replicate_runs(runs, range(seeds), workers)
    pages = write_pages(layouts, found, range(seeds), output, absent)
    typer.echo(f"claims: {pages.counts}")
    typer.echo(f"tables: {pages.markdown}")
    typer.echo(f"page:   {pages.html}")
