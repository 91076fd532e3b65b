"""The `data` commands: public data sets, turned into the files that the other commands read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from prmbench.cli.common import interruptible
from prmbench.errors import printable

data = typer.Typer(help="Turn public data sets into files that the other commands read.", no_args_is_help=True)


@data.command(name="eurus")
@interruptible
def eurus_command(
    source: Annotated[str, typer.Argument(help="sft or rl: the set on the Hub; or a downloaded file of either")],
    output: Annotated[Path, typer.Option(help="folder to write chats.jsonl or problems.jsonl into")],
    split: Annotated[str, typer.Option(help="split of the set on the Hub")] = "train",
    data_revision: Annotated[str | None, typer.Option(help="commit, branch or tag of the set on the Hub")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="stop after this many rows that are kept")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the counts as JSON")] = False,
) -> None:
    """Convert Eurus-2-SFT-Data to chats, or Eurus-2-RL-Data to problems; the rows of mathematics are kept."""
    from prmbench.data.importers.eurus import import_eurus

    found = import_eurus(source, output, split=split, limit=limit, data_revision=data_revision)
    counts = {"file": str(found.file), "kept": found.kept, "left_out": found.left_out}
    typer.echo(json.dumps(counts) if as_json else f"{found.sentence()}\n{found.file}")


@data.command(name="steps")
@interruptible
def steps_command(
    sources: Annotated[list[Path], typer.Argument(help="files of step-labelled solutions, as they come")],
    output: Annotated[Path, typer.Option(help="file of traces to write (.jsonl)")],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="prmbench (Socratic-PRMBench too), prm800k, deltabench, rated-steps, math-shepherd, hard2verify, trl-stepwise; "
            "default: found by the fields of each record",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the counts as JSON")] = False,
) -> None:
    """Convert step-labelled solutions of one data set, in one file or several, to one file of traces."""
    from prmbench.data.importers.steps import import_steps

    found = import_steps(sources, output, form=form)
    typer.echo(json.dumps(found.as_json()) if as_json else f"{found.sentence()}\n{found.file}")


@data.command(name="scores")
@interruptible
def scores_command(
    sources: Annotated[list[Path], typer.Argument(help="files of step scores that another tool wrote")],
    output: Annotated[Path, typer.Option(help="file of {id, scores} records to write (.jsonl)")],
    id_field: Annotated[str | None, typer.Option(help="field with the id; default: found by its name")] = None,
    scores_field: Annotated[str | None, typer.Option(help="field with the scores; default: found by its name")] = None,
    column: Annotated[
        int | None,
        typer.Option(help="of steps with several numbers: which is that of a right step, from 0; -1: the last"),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="kept, or what the numbers are, to turn them into logits: probability, logprob")
    ] = "kept",
    as_json: Annotated[bool, typer.Option("--json", help="print the counts as JSON")] = False,
) -> None:
    """Convert step scores of other tools to the records that `prmbench eval --from-items FILE --data TRACES` takes."""
    import dataclasses

    from prmbench.data.importers.step_scores import import_scores

    found = import_scores(sources, output, id_field=id_field, scores_field=scores_field, column=column, scale=scale)
    counts = {**dataclasses.asdict(found), "file": str(found.file)}
    typer.echo(json.dumps(counts) if as_json else f"{found.sentence()}\n{found.file}")


@data.command(name="overlap")
@interruptible
def overlap_command(
    train: Annotated[Path, typer.Argument(help="training records: a file, or a folder of files")],
    evaluation: Annotated[
        str, typer.Argument(help="processbench, a problem set by name, or a file or folder of records")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="print the ids as JSON, nothing else")] = False,
) -> None:
    """Name the problems of a benchmark that training data hold: word by word, or 13 words in a row."""
    from prmbench.data.overlap import WORDS, find_overlap

    found = find_overlap(train, evaluation)
    if as_json:
        typer.echo(
            json.dumps({name: {"n": one.n, "exact": one.exact, "shared": one.shared} for name, one in found.items()})
        )
        return
    for name, one in found.items():
        shares = [f"{len(ids):,} ({len(ids) / max(one.n, 1):.1%})" for ids in (one.exact, one.shared)]
        line = f"{name}: {one.n:,} problems; word by word {shares[0]}, {WORDS} words in a row {shares[1]}"
        first = ", ".join(one.either[:5]) + (f" and {len(one.either) - 5:,} more" if len(one.either) > 5 else "")
        typer.echo(printable(f"{line}: {first}" if first else line))
