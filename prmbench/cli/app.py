"""The command line: every command is a thin call into the library, which is imported only when a command runs."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from prmbench.cli.cache import cache
from prmbench.cli.common import Suggesting, interruptible, quiet_libraries
from prmbench.cli.data import data
from prmbench.cli.entries import compare_command, export_command, leaderboard, push_command, report_command
from prmbench.cli.evaluate import eval_command, probe
from prmbench.cli.label import label_command
from prmbench.cli.replicate import replicate_command
from prmbench.cli.rollout import rollout_command
from prmbench.cli.score import score_command
from prmbench.cli.serve import serve_command
from prmbench.cli.train import train
from prmbench.errors import UserError, printable

app = typer.Typer(
    cls=Suggesting,
    help="Evaluate process reward models for math reasoning, and train the models it evaluates.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("prmbench"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


app.command(name="eval")(eval_command)
app.command(name="score")(score_command)
app.command(name="serve")(serve_command)
app.command(name="compare")(compare_command)
app.command(name="export")(export_command)
app.command(name="push")(push_command)
app.command(name="report")(report_command)
app.command(name="replicate")(replicate_command)
app.command(name="rollout")(rollout_command)
app.command(name="label")(label_command)
app.add_typer(leaderboard, name="leaderboard")
app.add_typer(probe, name="probe")
app.add_typer(cache, name="cache")
app.add_typer(train, name="train")
app.add_typer(data, name="data")


tasks = typer.Typer(help="The lm-eval task plug-ins.", no_args_is_help=True)
app.add_typer(tasks, name="tasks")


@tasks.command(name="path")
def tasks_path() -> None:
    """Print the folder to give to lm-eval's --include_path."""
    from prmbench.resources import resource_folder

    typer.echo(resource_folder("tasks"))


@app.command()
@interruptible
def demo(
    backbone: Annotated[str, typer.Option(help="llama-small, llama-large, qwen3-small, qwen3-large")] = "llama-small",
    seed: Annotated[int, typer.Option(min=0, help="of everything")] = 0,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="train the policy, too, instead of taking the one that ships")
    ] = False,
) -> None:
    """The whole loop in a miniature world: a policy, its rollouts, a reward model trained, ProcessBench, Best-of-N, step scores."""
    from prmbench.miniature.build import Build
    from prmbench.miniature.demo import Demo
    from prmbench.miniature.demo_view import show

    quiet_libraries()
    show(
        Demo(Build(backbone=backbone, seed=seed, from_scratch=from_scratch), log=lambda line: typer.echo(f"   {line}"))
    )


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON, nothing else")] = False,
) -> None:
    """Print what this installation has (versions, devices, engines, data, cache) and how to get what is missing."""
    import dataclasses

    from prmbench.cli.doctor import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in findings], indent=2))
        return
    width = max(len(one.name) for one in findings)
    for i, one in enumerate(findings):
        if i == 0 or one.group != findings[i - 1].group:
            typer.echo(one.group)
        remedy = f"  ->  {one.remedy}" if one.remedy else ""
        typer.echo(f"  {'ok     ' if one.ok else 'missing'}  {one.name:{width}}  {one.found}{remedy}")


@app.command()
def schema() -> None:
    """Print the fields of an entry, as Markdown."""
    from prmbench.benchmarks.document import entry_fields
    from prmbench.benchmarks.registry import benchmarks

    typer.echo(entry_fields(benchmarks()), nl=False)


@app.command()
@interruptible
def presets(
    name: Annotated[str | None, typer.Argument(help="a preset, to show all of it; default: a table of all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print every detail as JSON, nothing else")] = False,
) -> None:
    """List the presets: how public PRMs are scored, and what each was checked against."""
    import dataclasses

    from prmbench.reward_models.presets import PRESETS, find_preset

    shown = PRESETS if name is None else {name: find_preset(name)}
    if as_json:
        typer.echo(json.dumps({name: dataclasses.asdict(one) for name, one in shown.items()}, indent=2))
        return
    from prmbench.benchmarks.views import as_text
    from prmbench.cli.presets_view import details, table

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
    typer.echo(as_text(table(shown) if name is None else details(name, shown[name]), width))


@app.command()
@interruptible
def plot(
    entries: Annotated[
        list[Path], typer.Argument(help="best-of-n entries (files or run folders) on the same candidates")
    ],
    output: Annotated[Path, typer.Option(help="picture to write: .svg, .png or .pdf")] = Path("best-of-n.svg"),
    estimator: Annotated[str, typer.Option(help="expected or first")] = "expected",
) -> None:
    """Draw accuracy against N for several reward models."""
    from prmbench.benchmarks.best_of_n.metrics import ESTIMATORS
    from prmbench.benchmarks.best_of_n.plot import plot_best_of_n
    from prmbench.benchmarks.registry import find_benchmark, find_entry
    from prmbench.results.schema import read_entry

    if estimator not in ESTIMATORS:
        raise UserError(f"--estimator {estimator}: expected {' or '.join(ESTIMATORS)}")
    if output.suffix not in (".svg", ".png", ".pdf"):
        raise UserError(f"--output {output}: expected a name that ends in .svg, .png or .pdf")
    entry_type = find_benchmark("best-of-n").entry_type
    found = [read_entry(find_entry(path), entry_type) for path in entries]
    typer.echo(f"picture: {plot_best_of_n(found, output, estimator)}")


def main() -> None:
    """Entry point: a user's mistake is one sentence on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)  # it may quote data
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}; name another file or folder", file=sys.stderr)
        sys.exit(2)


def leave(code: int) -> NoReturn:
    """End the process once its exit handlers have run and its output is written, without taking the interpreter down.

    Threads that vLLM leaves behind in native code may abort a process in its last moment, and a run whose files are all written
    would end as failed (-6).

    Args:
        code: The exit code.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def program() -> None:
    """What `prmbench` on a shell runs: `main`, and an end that does not depend on what was loaded."""
    try:
        main()
    except SystemExit as end:
        if "vllm" in sys.modules and (end.code is None or isinstance(end.code, int)):
            leave(end.code or 0)
        raise


if __name__ == "__main__":
    program()
