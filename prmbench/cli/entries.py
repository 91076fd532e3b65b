"""The commands that work on entries: compare, leaderboard, export, report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prmbench.cli.common import console, interruptible
from prmbench.errors import UserError, nearest, printable

if TYPE_CHECKING:
    from prmbench.benchmarks.base import Measured
    from prmbench.benchmarks.differences import Comparison
    from prmbench.benchmarks.planning import PairPower


@interruptible
def compare_command(
    entries: Annotated[list[Path], typer.Argument(help="two entries or more (files or run folders) on the same items")],
    protocol: Annotated[
        str | None, typer.Option(help="ProcessBench: step score of all; default: each entry's first, process or step")
    ] = None,
    thresholds: Annotated[
        str | None, typer.Option(help="ProcessBench: crossfit (default), gsm8k, oracle or fixed")
    ] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Best-of-N: N; default: the largest")] = None,
    groups: Annotated[bool, typer.Option("--groups", help="also by position of the error and by generator")] = False,
    power: Annotated[
        bool, typer.Option("--power", help="also what so many items can decide, and how many would")
    ] = False,
    points: Annotated[
        float | None, typer.Option(min=0.01, max=100, help="difference in points that --power plans for; default: 2")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of folds and resamples")] = 0,
    resamples: Annotated[int, typer.Option(min=1, help="bootstrap resamples")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON, nothing else")] = False,
) -> None:
    """Compare entries on the same items: paired bootstrap, McNemar, the items that flip."""
    from prmbench.reports.compare import compare

    if points is not None and not power:
        raise UserError(f"--points {points:g}: belongs to --power; add it, or leave this out")
    choice = {"protocol": protocol, "thresholds": thresholds, "n": n}
    found = compare(entries, n_resamples=resamples, seed=seed, **choice)
    planned = _power(found, 2.0 if points is None else points) if power else []
    if as_json:
        extra = {"power": [asdict(one) for one in planned]} if power else {}
        typer.echo(json.dumps(found.as_json() | extra, indent=2))
        return
    console().print(found.render(groups=groups))
    if planned:
        from prmbench.benchmarks.planning import render_power

        console().print(render_power(planned))


def _power(found: Comparison, points: float) -> list[PairPower]:
    """What a comparison can decide; refused where it is not one of items."""
    from prmbench.benchmarks.differences import PairedComparison
    from prmbench.benchmarks.planning import power_of_pairs

    if not isinstance(found, PairedComparison):
        name = found.as_json()["benchmark"]
        raise UserError(f"--power: {name} is not compared item by item; leave it out")
    return power_of_pairs(found, points)


@interruptible
def export_command(
    entries: Annotated[list[Path], typer.Argument(help="entries (files or run folders)")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="csv, parquet: every figure; latex, markdown: tables; model-card: a section of one; every-eval-ever, "
            "hf-eval-results, badge: one entry in the format of others",
        ),
    ] = "csv",
    output: Annotated[Path | None, typer.Option(help="file to write; default: printed")] = None,
) -> None:
    """Write entries' figures for other programs and pages."""
    from prmbench.benchmarks.registry import load_measured
    from prmbench.reports import exchange, export
    from prmbench.results.store import write_atomically

    of_several: dict[str, Callable[[Sequence[Measured]], str | bytes]] = {
        "csv": export.to_csv,
        "parquet": export.to_parquet,
        "latex": export.to_latex,
        "markdown": export.to_markdown,
        "model-card": export.to_model_card,
    }
    of_one = {
        "every-eval-ever": exchange.to_every_eval_ever,
        "hf-eval-results": exchange.to_hub_results,
        "badge": exchange.to_badge,
    }
    known = [*of_several, *of_one]
    if form not in known:
        raise UserError(f"--format {form}: expected {', '.join(known[:-1])} or {known[-1]}{nearest(form, known)}")
    if form in of_one and len(entries) > 1:
        raise UserError(f"--format {form}: has one entry a file, {len(entries)} were named; export them one by one")
    measured = [load_measured(path, items=False) for path in entries]
    text: str | bytes = of_one[form](measured[0]) if form in of_one else of_several[form](measured)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, text)
        typer.echo(f"{form}: {output}")
    elif isinstance(text, bytes):
        raise UserError(f"--format {form}: is not printed; name a file with --output")
    else:
        typer.echo(text, nl=False)


@interruptible
def report_command(
    entries: Annotated[
        list[Path], typer.Argument(help="one subject's entries, of any benchmarks (files or run folders)")
    ],
    output: Annotated[Path, typer.Option(help="HTML page to write")] = Path("report.html"),
    data: Annotated[
        str | None, typer.Option(help="traces with their text, file or folder, for the worst items")
    ] = None,
) -> None:
    """Write one page about one subject: tables, pictures, the items it does worst on."""
    from prmbench.data.traces import load_traces
    from prmbench.reports.subject_page import write_report

    typer.echo(f"page: {write_report(entries, output, load_traces(data) if data else None)}")


@interruptible
def push_command(
    paths: Annotated[list[Path], typer.Argument(help="run folders, and at most one checkpoint folder")],
    repo: Annotated[str, typer.Option(help="repository on the Hub: owner/name")],
    public: Annotated[bool, typer.Option("--public", help="make a new repository public; default: private")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be sent, and send nothing")] = False,
) -> None:
    """Send entries, or a checkpoint with its card and figures, to the Hugging Face Hub."""
    from prmbench.reports.push import pack, push

    shipment = pack(paths, repo)
    for line in shipment.lines():
        typer.echo(line)
    if dry_run:
        typer.echo(f"{len(shipment.files):,} files for the {shipment.repo_type} repository {repo}; nothing was sent")
        return
    typer.echo(f"sent: {push(shipment, private=not public)}")


leaderboard = typer.Typer(help="Tables of entries on the same data: build, add, verify.", no_args_is_help=True)
_FOLDER = "leaderboard folder, with entries/ and reported/; default: the one of this installation"


@leaderboard.command(name="build")
@interruptible
def leaderboard_build(
    folder: Annotated[Path | None, typer.Option(help=_FOLDER)] = None,
    page: Annotated[
        Path | None, typer.Option(help="HTML page to write; default: leaderboard.html in the folder")
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="bootstrap resamples")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="of folds and resamples")] = 0,
    verify: Annotated[bool, typer.Option(help="compute every figure again from its items first")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print the tables as JSON, write nothing")] = False,
) -> None:
    """Write leaderboard.md and one self-contained HTML page."""
    from prmbench.reports import leaderboard as boards
    from prmbench.reports import pages
    from prmbench.reports.reported import read_reported
    from prmbench.resources import resource_folder

    where = folder or resource_folder("leaderboards")
    if as_json:
        found = boards.read_boards(where, n_resamples=resamples, seed=seed, verify=verify)
        typer.echo(boards.as_json(found, read_reported(where)))
        return
    markdown, html = pages.build(where, page=page, n_resamples=resamples, seed=seed, verify=verify)
    typer.echo(f"tables: {markdown}\npage: {html}")


@leaderboard.command(name="add")
@interruptible
def leaderboard_add(
    runs: Annotated[list[Path], typer.Argument(help="run folders (or entry files); each is verified first")],
    folder: Annotated[Path | None, typer.Option(help=_FOLDER)] = None,
    name: Annotated[
        str | None, typer.Option(help="of the entry's folder; default: the subject's, and the benchmark's")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="go over an entry of this name")] = False,
    data: Annotated[str | None, typer.Option(help="traces to check labels against, file or folder")] = None,
) -> None:
    """Verify runs and copy their entries, with items, into a leaderboard."""
    from prmbench.data.traces import load_traces
    from prmbench.reports import leaderboard as boards
    from prmbench.resources import resource_folder

    if name is not None and len(runs) > 1:
        raise UserError("--name: one name for several runs; add them one by one")
    where = folder or resource_folder("leaderboards")
    traces = load_traces(data) if data else None
    for run in runs:
        typer.echo(f"added: {boards.add(run, where, name=name, replace=replace, traces=traces)}")
    typer.echo(f"next:  prmbench leaderboard build{f' --folder {folder}' if folder else ''}")


@leaderboard.command(name="verify")
@interruptible
def leaderboard_verify(
    entries: Annotated[
        list[Path] | None, typer.Argument(help="entries or run folders; default: all of the folder")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help=_FOLDER)] = None,
    data: Annotated[str | None, typer.Option(help="traces to check labels against, file or folder")] = None,
) -> None:
    """Compute every hash and figure again from the items; exit code 1 when something differs."""
    from prmbench.data.traces import load_traces
    from prmbench.reports.leaderboard import entry_folders
    from prmbench.reports.verification import unchecked_subsets, verify_entry
    from prmbench.resources import resource_folder

    traces = load_traces(data) if data else None
    paths = entries or entry_folders(folder or resource_folder("leaderboards"))
    wrong = 0
    for path in paths:
        found = verify_entry(path, traces)
        wrong += bool(found)
        typer.echo(f"{path}: {'as its items say' if not found else f'{len(found)} differences'}")
        for sentence in found:
            typer.echo(f"  {printable(sentence)}")  # it may quote ids of items
        if traces and (missing := unchecked_subsets(path, traces)):
            typer.echo(f"  labels not checked, the data hold no {', '.join(missing)}")
    if wrong:
        raise typer.Exit(1)
