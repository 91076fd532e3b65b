"""The command line: every command is a thin call into the library, which is imported only when a command runs."""

from __future__ import annotations

import atexit
import functools
import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from prmbench.cli.cache import cache
from prmbench.cli.common import interruptible, quiet_libraries
from prmbench.cli.entries import compare_command, export_command, leaderboard, report_command
from prmbench.cli.evaluate import eval_command, probe
from prmbench.cli.replicate import replicate_command
from prmbench.cli.score import score_command
from prmbench.errors import UserError, printable

app = typer.Typer(
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
app.command(name="compare")(compare_command)
app.command(name="export")(export_command)
app.command(name="report")(report_command)
app.command(name="replicate")(replicate_command)
app.add_typer(leaderboard, name="leaderboard")
app.add_typer(probe, name="probe")
app.add_typer(cache, name="cache")


@app.command(name="rollout")
@interruptible
def rollout_command(
    policy: Annotated[str, typer.Option(help="policy: a checkpoint folder or a Hub id")],
    problems: Annotated[Path, typer.Option(help="file of problems: {id, problem, answer} records")],
    output: Annotated[Path, typer.Option(help="folder to write rollouts.jsonl into; the same command goes on there")],
    n: Annotated[int, typer.Option(min=1, help="completions of each problem")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first N problems")] = None,
    prompt: Annotated[str, typer.Option(help="prompt template: boxed, bare, answer-line, number")] = "boxed",
    temperature: Annotated[float, typer.Option(min=0, max=100, help="0: greedy")] = 1.0,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1, help="nucleus")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="0: all tokens")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="a completion cut here is truncated: wrong")] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="of all completions")] = 0,
    batch_tokens: Annotated[int, typer.Option(min=1, help="tokens of a batch, completions at full length")] = 16_384,
    chat_template: Annotated[Path | None, typer.Option(help="Jinja chat template instead of the tokenizer's")] = None,
    engine: Annotated[str, typer.Option(help="where tokens are computed: hf or vllm")] = "hf",
    tensor_parallel: Annotated[int, typer.Option(min=1, help="vllm: devices that share one model")] = 1,
    data_parallel: Annotated[int, typer.Option(min=1, help="vllm: copies of the model, each on its own devices")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16")] = "auto",
    trust_remote_code: Annotated[bool, typer.Option(help="run code that the checkpoint carries")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON")] = False,
) -> None:
    """Sample completions of problems and verify their answers."""
    from prmbench.data.problems import load_problems
    from prmbench.data.prompts import find_prompt
    from prmbench.data.rollouts import summarise
    from prmbench.engines.loading import LoadOptions
    from prmbench.engines.sampling import SamplingParams
    from prmbench.policies.policy import load_policy
    from prmbench.policies.rollout import rollout
    from prmbench.reward_models.loading import read_template

    template = find_prompt(prompt)
    loaded = load_problems(problems, limit)
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=max_new_tokens)
    quiet_libraries()
    found = rollout(
        load_policy(
            policy,
            template,
            LoadOptions(device, dtype, trust_remote_code, tensor_parallel, data_parallel),
            read_template(chat_template) if chat_template else None,
            engine,
        ),
        loaded,
        output,
        prompt=prompt,
        n=n,
        params=params,
        seed=seed,
        batch_tokens=batch_tokens,
    )
    summary = summarise(found)
    if as_json:
        typer.echo(json.dumps(summary.__dict__, indent=2))
        return
    typer.echo(summary.sentence())
    typer.echo(f"rollouts: {output / 'rollouts.jsonl'}")


_DRY_RUN = "check the recipe and print steps, tokens and a memory estimate; loads no model, needs no hub"

tasks = typer.Typer(help="The lm-eval task plug-ins.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(tasks, name="tasks")


@tasks.callback()
def _tasks() -> None:
    pass


@tasks.command(name="path")
def tasks_path() -> None:
    """Print the folder to give to lm-eval's --include_path."""
    from prmbench.resources import resource_folder

    typer.echo(resource_folder("tasks"))


train = typer.Typer(help="Train models from recipes.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(train, name="train")


@train.command(name="sft")
@interruptible
def train_sft_command(
    recipe: Annotated[str, typer.Argument(help="YAML recipe; a name such as miniature/sft.yaml is one that ships")],
    override: Annotated[list[str] | None, typer.Option("--set", help="a.b=value, over the recipe")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY_RUN)] = False,
    devices: Annotated[int, typer.Option(min=1, help="of a dry run: devices that share weights and moments")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="of a dry run: print the plan as JSON")] = False,
) -> None:
    """Supervised fine-tuning, on ids tokenized as they are at evaluation."""
    from prmbench.training.recipes.load import load_recipe
    from prmbench.training.sft.run import SFTRecipe, train_sft

    checked = load_recipe(recipe, SFTRecipe, override or ())
    if dry_run:
        _show_plan(checked, devices, as_json=as_json)
        return
    result = train_sft(checked, log=typer.echo)
    if result is None:
        return
    rate = f", pass rate {result.pass_rate:.1%}" if result.pass_rate is not None else ""
    typer.echo(
        f"{result.steps:,} steps on {result.n_records:,} records ({result.n_overlong:,} too long, left out){rate}"
    )
    typer.echo(f"checkpoint: {result.output}")


@train.command(name="rm")
@interruptible
def train_rm_command(
    recipe: Annotated[str, typer.Argument(help="YAML recipe; a name such as qwen3-0.6b/ipvrm.yaml is one that ships")],
    override: Annotated[list[str] | None, typer.Option("--set", help="a.b=value, over the recipe")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY_RUN)] = False,
    devices: Annotated[int, typer.Option(min=1, help="of a dry run: devices that share weights and moments")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print the result (or plan) as JSON, nothing else")] = False,
) -> None:
    """Train a reward model: IPVRM and its variants, Implicit PRM, DPO-RM, Q-RM."""
    from prmbench.training.recipes.load import load_recipe
    from prmbench.training.rm.run import RMRecipe, train_rm

    checked = load_recipe(recipe, RMRecipe, override or ())
    if dry_run:
        _show_plan(checked, devices, as_json=as_json)
        return
    result = train_rm(checked, log=functools.partial(print, file=sys.stderr) if as_json else typer.echo)
    if result is None:
        return
    if as_json:
        shown = {"output": str(result.output), "steps": result.steps, "best_step": result.best_step}
        typer.echo(json.dumps({**shown, "metrics": result.metrics}, indent=2))
        return
    typer.echo(f"{result.steps:,} steps; the best weights by held-out loss are those of step {result.best_step:,}")
    typer.echo(f"checkpoint: {result.output}")
    typer.echo(f"next:  prmbench eval --rm {result.output}")


@train.command(name="rl")
@interruptible
def train_rl_command(
    recipe: Annotated[str, typer.Argument(help="YAML recipe; a name such as qwen3-0.6b/spro.yaml is one that ships")],
    override: Annotated[list[str] | None, typer.Option("--set", help="a.b=value, over the recipe")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY_RUN)] = False,
    devices: Annotated[int, typer.Option(min=1, help="of a dry run: devices that share weights and moments")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print the result (or plan) as JSON, nothing else")] = False,
) -> None:
    """Optimise a policy: GRPO, DistRL, PRIME, SPRO, REINFORCE with Q-RM; the reward model may learn with it."""
    from prmbench.training.recipes.load import load_recipe
    from prmbench.training.rl.recipe import RLRecipe
    from prmbench.training.rl.run import train_rl

    checked = load_recipe(recipe, RLRecipe, override or ())
    if dry_run:
        _show_plan(checked, devices, as_json=as_json)
        return
    result = train_rl(checked, log=functools.partial(print, file=sys.stderr) if as_json else typer.echo)
    if result is None:
        return
    if as_json:
        shown = {"output": str(result.output), "steps": result.steps, "evaluations": result.evaluations}
        typer.echo(json.dumps({**shown, "reward_model": result.reward_model and str(result.reward_model)}, indent=2))
        return
    typer.echo(f"{result.steps:,} steps; figures of each are in {result.output / 'rl.json'}")
    typer.echo(f"policy: {result.output}")
    if result.reward_model is not None:
        typer.echo(f"reward model, as updated: {result.reward_model}")
    typer.echo(f"next:  prmbench eval --policy {result.output}")


@app.command()
@interruptible
def demo(
    backbone: Annotated[str, typer.Option(help="llama-small, llama-large, qwen3-small, qwen3-large")] = "llama-small",
    pass_rate: Annotated[float, typer.Option(min=0.01, max=1, help="at which training of the policy stops")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="of everything")] = 0,
) -> None:
    """From nothing to a trained policy, verified rollouts and a ProcessBench-style table, in a miniature world."""
    from prmbench.miniature.build import Build
    from prmbench.miniature.demo import run_demo
    from prmbench.miniature.demo_view import show

    quiet_libraries()
    result = run_demo(Build(backbone=backbone, pass_rate=pass_rate, seed=seed), log=typer.echo)
    show(result)


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
def presets(
    as_json: Annotated[bool, typer.Option("--json", help="print every detail as JSON, nothing else")] = False,
) -> None:
    """List the presets: how public PRMs are scored, and what each was checked against."""
    import dataclasses

    from prmbench.reward_models.presets import PRESETS

    if as_json:
        typer.echo(json.dumps({name: dataclasses.asdict(one) for name, one in PRESETS.items()}, indent=2))
        return
    for name, one in PRESETS.items():
        typer.echo(
            f"{name}{'' if one.verified else ' (unverified)'}: {one.card['kind']}; {one.of}\n  read: {one.checked}"
        )


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
    from prmbench.benchmarks.registry import find_benchmark
    from prmbench.results.schema import ENTRY_NAME, read_entry

    if estimator not in ESTIMATORS:
        raise UserError(f"--estimator {estimator}: expected {' or '.join(ESTIMATORS)}")
    if output.suffix not in (".svg", ".png", ".pdf"):
        raise UserError(f"--output {output}: expected a name that ends in .svg, .png or .pdf")
    files = [path / ENTRY_NAME if path.is_dir() else path for path in entries]
    entry_type = find_benchmark("best-of-n").entry_type
    typer.echo(f"picture: {plot_best_of_n([read_entry(file, entry_type) for file in files], output, estimator)}")


def _show_plan(recipe: Any, devices: int, *, as_json: bool) -> None:
    plan = recipe.plan()
    typer.echo(plan.as_json(devices) if as_json else plan.text(devices))


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
