"""The command line: every command is a thin call into the library, which is imported only when a command runs."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer

from prmbench.errors import UserError

Command = TypeVar("Command", bound=Callable[..., None])


def _interruptible(command: Command) -> Command:
    """Ctrl-C ends a command with one sentence and exit code 130."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as stop:
            kept = str(stop) or "stopped; what was written before is kept, and the same command goes on from there"
            print(kept, file=sys.stderr)
            raise typer.Exit(130) from None

    return cast(Command, run)


app = typer.Typer(
    help="Evaluate process reward models for math reasoning, and train the models it evaluates.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
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


@app.command(name="eval")
@_interruptible
def eval_command(
    ctx: typer.Context,
    rm: Annotated[str | None, typer.Option(help="reward model: a checkpoint folder or a Hub id")] = None,
    reference: Annotated[str | None, typer.Option(help="pi_ref of an implicit reward model: folder or Hub id")] = None,
    kind: Annotated[
        str | None, typer.Option(help="how to score: implicit, endo, or a plugin's; over the card's")
    ] = None,
    benchmark: Annotated[str, typer.Option(help="processbench")] = "processbench",
    subset: Annotated[list[str] | None, typer.Option(help="subset to use; may be repeated; default: all")] = None,
    data: Annotated[
        Path | None, typer.Option(help="file or folder of traces; default: $PRMBENCH_DATA_DIR, then the Hub")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only N traces of each subset, a fixed sample")] = None,
    from_items: Annotated[
        Path | None, typer.Option(help="recompute every metric from an items file, without a model")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder of the run; default: one under prmbench-results/")] = None,
    name: Annotated[str | None, typer.Option(help="name on tables; default: the checkpoint's")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the entry as JSON on stdout, nothing else")] = False,
    objective: Annotated[
        str | None, typer.Option(help="what it was trained with (ipvrm, implicit_prm, dpo, ...)")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="scale of token values")] = None,
    margin: Annotated[float | None, typer.Option(help="margin m of the objective")] = None,
    discount: Annotated[float | None, typer.Option(help="EndoRM's discount of V(s')")] = None,
    system: Annotated[str | None, typer.Option(help="system message before the problem")] = None,
    separator: Annotated[
        str | None, typer.Option(help="text between steps; \\n is a newline; default: a blank line")
    ] = None,
    step_prefix: Annotated[str | None, typer.Option(help="text before each step, {i} its number: 'Step {i}: '")] = None,
    template_arg: Annotated[
        list[str] | None, typer.Option(help="chat template argument: enable_thinking=false")
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="Jinja chat template to use instead of the tokenizer's")
    ] = None,
    end_of_turn: Annotated[
        str | None, typer.Option(help="token that ends a turn; default: as the chat template has it")
    ] = None,
    plugin: Annotated[
        Path | None, typer.Option(help="Python file that registers a kind of your own; it is run")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (float32 on CPU, bfloat16 on CUDA), float32, bfloat16, float16")
    ] = "auto",
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="padded tokens of a batch")] = None,
    skip_overlong: Annotated[bool, typer.Option(help="leave out traces longer than the model's positions")] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="run code that the checkpoint carries")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="of folds, resamples and the random baseline; default: 0")
    ] = None,
    resamples: Annotated[int | None, typer.Option(min=0, help="bootstrap resamples; default: 10000")] = None,
) -> None:
    """Evaluate a reward model: ProcessBench under every scoring protocol, with intervals and an honest threshold."""
    if benchmark != "processbench":
        raise UserError(f"--benchmark {benchmark}: not known; expected processbench")
    if (rm is None) == (from_items is None):
        raise UserError(
            "pass either --rm CKPT (a checkpoint folder or Hub id) or --from-items FILE; `prmbench demo` needs neither"
        )
    if from_items is not None:
        _recompute(ctx, from_items, output, resamples, seed, as_json=as_json)
        return

    from prmbench.api import evaluate
    from prmbench.benchmarks.processbench import RunOptions
    from prmbench.benchmarks.processbench_metrics import Plan
    from prmbench.engines.loading import LoadOptions
    from prmbench.engines.processes import current_share

    tokens: dict[str, Any] = {
        "system": system,
        "separator": separator.replace("\\n", "\n") if separator is not None else None,
        "step_prefix": step_prefix,
        "template_args": dict(_template_argument(text) for text in template_arg) if template_arg else None,
        "end_of_turn": end_of_turn,
    }
    share = current_share(cpu=device == "cpu")
    _quiet_libraries()
    assert rm is not None
    found = evaluate(
        rm,
        data=data,
        subsets=subset,
        limit=limit,
        output=output,
        name=name,
        options=RunOptions(
            plan=Plan().changed(resamples, seed),
            batch_tokens=batch_tokens,
            skip_overlong=skip_overlong,
            share=share,
        ),
        reference=reference,
        kind=kind,
        load_options=LoadOptions(device, dtype, trust_remote_code),
        chat_template=chat_template,
        plugin=plugin,
        tokens={key: value for key, value in tokens.items() if value is not None},
        objective=objective,
        beta=beta,
        margin=margin,
        discount=discount,
    )
    if found is not None:
        _show(*found, as_json=as_json)


@app.command(name="rollout")
@_interruptible
def rollout_command(
    policy: Annotated[str, typer.Option(help="policy: a checkpoint folder or a Hub id")],
    problems: Annotated[Path, typer.Option(help="file of problems: {id, problem, answer} records")],
    output: Annotated[Path, typer.Option(help="folder to write rollouts.jsonl into; the same command goes on there")],
    n: Annotated[int, typer.Option(min=1, help="completions of each problem")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first N problems")] = None,
    prompt: Annotated[str, typer.Option(help="prompt template: boxed, bare, answer-line, number")] = "boxed",
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="nucleus")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="0: all tokens")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="a completion cut here is truncated: wrong")] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="of all completions")] = 0,
    batch_tokens: Annotated[int, typer.Option(min=1, help="tokens of a batch, completions at full length")] = 16_384,
    chat_template: Annotated[Path | None, typer.Option(help="Jinja chat template instead of the tokenizer's")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16")] = "auto",
    trust_remote_code: Annotated[bool, typer.Option(help="run code that the checkpoint carries")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON")] = False,
) -> None:
    """Sample completions of problems and verify their answers."""
    from prmbench.data.problems import load_problems
    from prmbench.data.prompts import find_prompt
    from prmbench.engines.loading import LoadOptions
    from prmbench.engines.sampling import SamplingParams
    from prmbench.reward_models.loading import read_template
    from prmbench.rollouts import load_policy, rollout, summarise

    template = find_prompt(prompt)
    loaded = load_problems(problems, limit)
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=max_new_tokens)
    _quiet_libraries()
    found = rollout(
        load_policy(
            policy,
            template,
            LoadOptions(device, dtype, trust_remote_code),
            read_template(chat_template) if chat_template else None,
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

train = typer.Typer(help="Train models from recipes.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(train, name="train")


@train.command(name="sft")
@_interruptible
def train_sft_command(
    recipe: Annotated[str, typer.Argument(help="YAML recipe; a name such as miniature/sft.yaml is one that ships")],
    override: Annotated[list[str] | None, typer.Option("--set", help="a.b=value, over the recipe")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY_RUN)] = False,
    devices: Annotated[int, typer.Option(min=1, help="of a dry run: devices that share weights and moments")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="of a dry run: print the plan as JSON")] = False,
) -> None:
    """Supervised fine-tuning, on ids tokenized as they are at evaluation."""
    from prmbench.training.recipes import load_recipe
    from prmbench.training.sft import SFTRecipe, train_sft

    checked = load_recipe(recipe, SFTRecipe, override or ())
    if dry_run:
        _show_plan(checked, devices, as_json=as_json)
        return
    result = train_sft(checked, log=typer.echo)
    rate = f", pass rate {result.pass_rate:.1%}" if result.pass_rate is not None else ""
    typer.echo(
        f"{result.steps:,} steps on {result.n_records:,} records ({result.n_overlong:,} too long, left out){rate}"
    )
    typer.echo(f"checkpoint: {result.output}")


@train.command(name="rm")
@_interruptible
def train_rm_command(
    recipe: Annotated[str, typer.Argument(help="YAML recipe; a name such as qwen3-0.6b/ipvrm.yaml is one that ships")],
    override: Annotated[list[str] | None, typer.Option("--set", help="a.b=value, over the recipe")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY_RUN)] = False,
    devices: Annotated[int, typer.Option(min=1, help="of a dry run: devices that share weights and moments")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print the result (or plan) as JSON, nothing else")] = False,
) -> None:
    """Train a reward model: IPVRM and its variants, Implicit PRM, DPO-RM, Q-RM."""
    from prmbench.training.recipes import load_recipe
    from prmbench.training.rm import RMRecipe, train_rm

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


@app.command()
@_interruptible
def demo(
    backbone: Annotated[str, typer.Option(help="llama-small, llama-large, qwen3-small, qwen3-large")] = "llama-small",
    pass_rate: Annotated[float, typer.Option(min=0.01, max=1, help="at which training of the policy stops")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="of everything")] = 0,
) -> None:
    """From nothing to a trained policy, verified rollouts and a ProcessBench-style table, in a miniature world."""
    from prmbench.miniature.build import Build
    from prmbench.miniature.demo import run_demo
    from prmbench.miniature.view import show

    _quiet_libraries()
    result = run_demo(Build(backbone=backbone, pass_rate=pass_rate, seed=seed), log=typer.echo)
    show(result)


@app.command()
def schema() -> None:
    """Print the fields of an entry, as Markdown."""
    from prmbench.results.document import entry_fields

    typer.echo(entry_fields(), nl=False)


_WITH_ITEMS = {"from_items", "output", "as_json", "seed", "resamples", "benchmark"}


def _recompute(
    ctx: typer.Context, items: Path, output: Path | None, resamples: int | None, seed: int | None, *, as_json: bool
) -> None:
    given = {name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    if unused := sorted(given - _WITH_ITEMS):
        flags = ", ".join("--" + name.replace("_", "-") for name in unused)
        raise UserError(f"--from-items: {flags} cannot change items that are already scored; leave it out")
    from prmbench.benchmarks.processbench import recompute
    from prmbench.results.store import save_entry

    entry, path = recompute(items, n_resamples=resamples, seed=seed), None
    if output is not None:
        assert entry.items is not None
        folder = items if items.is_dir() else items.parent
        path = save_entry(output, entry, folder / entry.items.file)
    _show(entry, path, as_json=as_json)


def _show_plan(recipe: Any, devices: int, *, as_json: bool) -> None:
    from prmbench.training.plan import make_plan

    plan = make_plan(recipe)
    typer.echo(plan.as_json(devices) if as_json else plan.text(devices))


def _template_argument(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--template-arg {text}: expected NAME=VALUE, for example enable_thinking=false")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _show(entry: Any, path: Path | None, *, as_json: bool) -> None:
    if as_json:
        typer.echo(entry.model_dump_json(indent=2))
        return
    from rich.console import Console

    from prmbench.benchmarks.processbench_table import render

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(render(entry), highlight=False)
    if path is not None:
        # Not through rich: a path must survive copy and paste, unwrapped.
        typer.echo(f"entry: {path}")
        if entry.items is not None and (path.parent / entry.items.file).exists():
            typer.echo(f"next:  prmbench eval --from-items {path.parent / entry.items.file}")


def _quiet_libraries() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def main() -> None:
    """Entry point: a user's mistake is one sentence on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
