"""The `train` commands: models from recipes."""

from __future__ import annotations

import functools
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from prmbench.cli.common import interruptible
from prmbench.errors import ArgumentError, nearest
from prmbench.progress import announce_loading

if TYPE_CHECKING:
    from prmbench.training.plan import Launch, Sharding

_STRICT = "refuse data with a row of no use; without, a few are left out, counted and named"
_DRY_RUN = "check the recipe and print steps, tokens and a memory estimate; loads no model, needs no hub"

_DEVICES = "of a dry run: number of devices"
_LAUNCH = "of a dry run: what the devices divide: ddp, zero1, zero2, zero3 or fsdp"
_DEVICE_MEMORY = "of a dry run: memory of a device in GiB; it says whether the run fits"
_THROUGHPUT = "of a dry run: tokens a second of one device; it says the hours"

train = typer.Typer(help="Train models from recipes.", no_args_is_help=True)


@train.command(name="sft")
@interruptible
def train_sft_command(
    recipe: Annotated[str, typer.Argument(help="YAML recipe; a name such as miniature/sft.yaml is one that ships")],
    override: Annotated[list[str] | None, typer.Option("--set", help="a.b=value, over the recipe")] = None,
    strict: Annotated[bool, typer.Option("--strict", help=_STRICT)] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY_RUN)] = False,
    devices: Annotated[int, typer.Option(min=1, help=_DEVICES)] = 1,
    launch: Annotated[str, typer.Option(help=_LAUNCH)] = "fsdp",
    device_memory: Annotated[float | None, typer.Option(min=0.001, help=_DEVICE_MEMORY)] = None,
    throughput: Annotated[float | None, typer.Option(min=0.001, help=_THROUGHPUT)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="of a dry run: print the plan as JSON")] = False,
) -> None:
    """Supervised fine-tuning, on ids tokenized as they are at evaluation."""
    from prmbench.training.recipes.read import load_recipe
    from prmbench.training.sft.recipe import SFTRecipe

    checked = load_recipe(recipe, SFTRecipe, [*(override or ()), *(["strict=true"] if strict else [])])
    if dry_run:
        _show_plan(checked, _launch(devices, launch, device_memory, throughput), as_json=as_json)
        return
    announce_loading(checked.model)
    from prmbench.training.sft.run import train_sft

    result = train_sft(checked, log=typer.echo)
    if result is None:
        return
    rate = f", pass rate {result.pass_rate:.1%}" if result.pass_rate is not None else ""
    became = "cut" if checked.overlong == "truncate" else "left out"
    typer.echo(
        f"{result.steps:,} steps on {result.n_records:,} records ({result.n_overlong:,} too long, {became}){rate}"
    )
    typer.echo(f"checkpoint: {result.output}")


@train.command(name="rm")
@interruptible
def train_rm_command(
    recipe: Annotated[str, typer.Argument(help="YAML recipe; a name such as qwen3-0.6b/ipvrm.yaml is one that ships")],
    override: Annotated[list[str] | None, typer.Option("--set", help="a.b=value, over the recipe")] = None,
    strict: Annotated[bool, typer.Option("--strict", help=_STRICT)] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY_RUN)] = False,
    devices: Annotated[int, typer.Option(min=1, help=_DEVICES)] = 1,
    launch: Annotated[str, typer.Option(help=_LAUNCH)] = "fsdp",
    device_memory: Annotated[float | None, typer.Option(min=0.001, help=_DEVICE_MEMORY)] = None,
    throughput: Annotated[float | None, typer.Option(min=0.001, help=_THROUGHPUT)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result (or plan) as JSON, nothing else")] = False,
) -> None:
    """Train a reward model: IPVRM and its variants, Implicit PRM, DPO-RM, Q-RM; or an explicit PRM.

    Explicit PRMs have the objectives step_ce, step_soft, token_pair, beta_binomial and prefix_gain.
    """
    from prmbench.training.prm.recipe import PRMRecipe, is_explicit
    from prmbench.training.recipes.read import load_recipe, read_fields
    from prmbench.training.rm.recipe import RMRecipe

    overrides = [*(override or ()), *(["strict=true"] if strict else [])]
    explicit = is_explicit(read_fields(recipe, overrides)[1].get("objective"))
    checked: PRMRecipe | RMRecipe = load_recipe(recipe, PRMRecipe if explicit else RMRecipe, overrides)  # type: ignore[assignment]
    if dry_run:
        _show_plan(checked, _launch(devices, launch, device_memory, throughput), as_json=as_json)
        return
    announce_loading(checked.model)
    from prmbench.reward_models.card import read_card
    from prmbench.training.prm.run import train_prm
    from prmbench.training.rm.run import train_rm

    log = functools.partial(print, file=sys.stderr) if as_json else typer.echo
    result = train_prm(checked, log=log) if isinstance(checked, PRMRecipe) else train_rm(checked, log=log)
    if result is None:
        return
    if as_json:
        shown = {"output": str(result.output), "steps": result.steps, "best_step": result.best_step}
        typer.echo(json.dumps({**shown, "metrics": result.metrics}, indent=2))
        return
    typer.echo(f"{result.steps:,} steps; the best weights by held-out loss are those of step {result.best_step:,}")
    typer.echo(f"checkpoint: {result.output}")
    card = read_card(result.output) or {}
    # A reference in another tree has only its name in the card, so that no path of this machine travels with it.
    elsewhere = card.get("reference") is None and card.get("reference_name") is not None
    typer.echo(f"next:  prmbench eval --rm {result.output}" + (f" --reference {checked.model}" if elsewhere else ""))


@train.command(name="rl")
@interruptible
def train_rl_command(
    recipe: Annotated[str, typer.Argument(help="YAML recipe; a name such as qwen3-0.6b/spro.yaml is one that ships")],
    override: Annotated[list[str] | None, typer.Option("--set", help="a.b=value, over the recipe")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_DRY_RUN)] = False,
    devices: Annotated[int, typer.Option(min=1, help=_DEVICES)] = 1,
    launch: Annotated[str, typer.Option(help=_LAUNCH)] = "fsdp",
    device_memory: Annotated[float | None, typer.Option(min=0.001, help=_DEVICE_MEMORY)] = None,
    throughput: Annotated[float | None, typer.Option(min=0.001, help=_THROUGHPUT)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result (or plan) as JSON, nothing else")] = False,
) -> None:
    """Optimise a policy: GRPO, DistRL, PRIME, SPRO, REINFORCE with Q-RM; the reward model may learn with it."""
    from prmbench.training.recipes.read import load_recipe
    from prmbench.training.rl.recipe import RLRecipe

    checked = load_recipe(recipe, RLRecipe, override or ())
    if dry_run:
        for remark in checked.remarks():
            typer.echo(remark, err=True)
        _show_plan(checked, _launch(devices, launch, device_memory, throughput), as_json=as_json)
        return
    announce_loading(checked.model)
    from prmbench.training.rl.run import train_rl

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


def _launch(devices: int, sharding: str, device_memory: float | None, throughput: float | None) -> Launch:
    from prmbench.training.plan import SHARDED, Launch

    if sharding not in SHARDED:
        raise ArgumentError("launch", sharding, f"expected {', '.join(SHARDED)}{nearest(sharding, SHARDED)}")
    return Launch(devices, cast("Sharding", sharding), device_memory, throughput)


def _show_plan(recipe: Any, launch: Launch, *, as_json: bool) -> None:
    plan = recipe.plan()
    typer.echo(plan.as_json(launch) if as_json else plan.text(launch))


@train.command(name="keys")
def train_keys_command() -> None:
    """Print every key of every recipe, as Markdown."""
    from prmbench.training.document import recipe_keys

    typer.echo(recipe_keys(), nl=False)
