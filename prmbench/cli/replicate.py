"""The `replicate` command: the paper from one command, in the miniature or on real backbones."""

from __future__ import annotations

import functools
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
    world: Annotated[
        str, typer.Option(help="miniature, or a folder of recipes: a path, or one that ships, such as qwen3-0.6b")
    ] = "miniature",
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="0 to this many minus one; default: 6, with recipes 1; with one nothing is decided"),
    ] = None,
    pair_seeds: Annotated[
        int | None,
        typer.Option(
            min=2, help="seeds of DistRL and GRPO with IPVRM, whose difference is small; default: as of all else"
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="of the miniature: processes, one thread each; default: one a core")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="of recipes: print every command with its cost, as a shell script; run none"),
    ] = False,
    launch: Annotated[
        str,
        typer.Option(help="of recipes: what starts a command on several devices: 'accelerate launch --config_file F'"),
    ] = "",
    rows: Annotated[
        Path | None,
        typer.Option(
            help="of the miniature: folder of finished runs' figures, which machines share; taken from and added to"
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="folder for the pages")] = Path("prmbench-results/replicate"),
) -> None:
    """The paper's tables and figure, in the miniature or on real backbones: orderings, and a verdict for every claim."""
    from prmbench.studies.recipe_world import RecipeWorld, start_process
    from prmbench.studies.replicate import plan_runs, replicate
    from prmbench.studies.world import MiniatureWorld

    recipes = None
    if world != "miniature" and rows is not None:
        raise UserError(
            "--rows goes with the miniature: real backbones keep their figures in the folders of their runs"
        )
    if world != "miniature":
        recipes = RecipeWorld(world, functools.partial(start_process, launch=launch))
    elif dry_run or launch:
        raise UserError(
            "--dry-run and --launch go with a folder of recipes: name one by --world, such as --world qwen3-0.6b"
        )
    if dry_run and recipes is not None:
        runs = plan_runs(table or [], figure or [], recipes.facts)[2]
        for line in recipes.plan(runs, range(seeds or recipes.facts.seeds)):
            typer.echo(line)
        return
    pages = replicate(
        table or [],
        figure or [],
        world=recipes or MiniatureWorld(rows),
        seeds=seeds,
        pair_seeds=pair_seeds,
        workers=workers,
        output=output,
    )
    typer.echo(f"claims: {pages.counts}")
    typer.echo(f"tables: {pages.markdown}")
    typer.echo(f"page:   {pages.html}")
