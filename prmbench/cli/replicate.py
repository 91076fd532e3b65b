"""The `replicate` command: the paper from one command, in the miniature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prmbench.cli.common import interruptible


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
    from prmbench.studies.replicate import replicate

    pages = replicate(table or [], figure or [], seeds=seeds, workers=workers, output=output)
    typer.echo(f"claims: {pages.counts}")
    typer.echo(f"tables: {pages.markdown}")
    typer.echo(f"page:   {pages.html}")
