"""The `train` commands: models from recipes."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from prmbench.cli.common import interruptible
from prmbench.cli.options import Flag, shared, with_flags
from prmbench.errors import ArgumentError, nearest
from prmbench.progress import announce_loading

RECIPE, DRY_RUN = "Recipe", "Dry run"
_FLAGS = {
    flag.name: flag
    for flag in (
        Flag("override", list[str], "a.b=value, over the recipe; may be repeated", RECIPE, flags=("--set",)),
        Flag(
            "strict",
            bool,
            "refuse data with a row of no use; else a few are left out, counted and named",
            RECIPE,
            False,
        ),
        Flag(
            "dry_run",
            bool,
            "check the recipe, print steps, tokens and memory; loads no model, needs no hub",
            DRY_RUN,
            False,
        ),
        Flag("devices", int, "number of devices", DRY_RUN, 1, low=1),
        Flag("launch", str, "what the devices divide: ddp, zero1, zero2, zero3 or fsdp", DRY_RUN, "fsdp"),
        Flag("device_memory", float, "memory of a device in GiB; it says whether the run fits", DRY_RUN, low=0.001),
        Flag("throughput", float, "tokens a second of one device; it says the hours", DRY_RUN, low=0.001),
    )
} | shared(as_json={"help": "print the result (or plan) as JSON on stdout, nothing else"})
train = typer.Typer(help="Train models from recipes.", no_args_is_help=True)


def _overrides(values: dict[str, Any]) -> list[str]:
    """What the command line puts over the recipe."""
    return [*(values["override"] or ()), *(["strict=true"] if values.get("strict") else [])]


def _is_plan(recipe: Any, values: dict[str, Any]) -> bool:
    """Print the plan where a dry run is asked for; else say that the model is loaded."""
    if not values["dry_run"]:
        announce_loading(recipe.model)
        return False
    from prmbench.training.plan import SHARDED, Launch

    if (launch := values["launch"]) not in SHARDED:
        raise ArgumentError("launch", launch, f"expected {', '.join(SHARDED)}{nearest(launch, SHARDED)}")
    where = Launch(values["devices"], launch, values["device_memory"], values["throughput"])
    plan = recipe.plan()
    typer.echo(plan.as_json(where) if values["as_json"] else plan.text(where))
    return True


def _log(values: dict[str, Any]) -> Callable[[str], None]:
    """Where the lines of a training go: beside the JSON, not into it."""
    return functools.partial(print, file=sys.stderr) if values["as_json"] else typer.echo


def _echo_json(output: Path, steps: int, **more: Any) -> None:
    typer.echo(json.dumps({"output": str(output), "steps": steps, **more}, indent=2))


def _train_sft(recipe: str, **values: Any) -> None:
    """Supervised fine-tuning, on ids tokenized as they are at evaluation."""
    from prmbench.training.recipes.read import load_recipe
    from prmbench.training.sft.recipe import SFTRecipe

    checked = load_recipe(recipe, SFTRecipe, _overrides(values))
    if _is_plan(checked, values):
        return
    from prmbench.training.sft.run import train_sft

    result = train_sft(checked, log=_log(values))
    if result is None:
        return
    if values["as_json"]:
        counts = {"records": result.n_records, "overlong": result.n_overlong}
        _echo_json(result.output, result.steps, **counts, pass_rate=result.pass_rate)
        return
    rate = f", pass rate {result.pass_rate:.1%}" if result.pass_rate is not None else ""
    became = "cut" if checked.overlong == "truncate" else "left out"
    typer.echo(
        f"{result.steps:,} steps on {result.n_records:,} records ({result.n_overlong:,} too long, {became}){rate}"
    )
    typer.echo(f"checkpoint: {result.output}")


def _train_rm(recipe: str, **values: Any) -> None:
    """Train a reward model: IPVRM and its variants, Implicit PRM, DPO-RM, Q-RM; or an explicit PRM.

    Explicit PRMs have the objectives step_ce, step_soft, token_pair, beta_binomial and prefix_gain.
    """
    from prmbench.training.recipes.read import load_recipe
    from prmbench.training.reward_models import recipe_type, train_from

    overrides = _overrides(values)
    checked = load_recipe(recipe, recipe_type(recipe, overrides), overrides)
    if _is_plan(checked, values):
        return
    from prmbench.reward_models.card import read_card

    result = train_from(checked, log=_log(values))
    if result is None:
        return
    if values["as_json"]:
        _echo_json(result.output, result.steps, best_step=result.best_step, metrics=result.metrics)
        return
    typer.echo(f"{result.steps:,} steps; the best weights by held-out loss are those of step {result.best_step:,}")
    typer.echo(f"checkpoint: {result.output}")
    card = read_card(result.output) or {}
    # A reference in another tree has only its name in the card, so that no path of this machine travels with it.
    elsewhere = card.get("reference") is None and card.get("reference_name") is not None
    typer.echo(f"next:  prmbench eval --rm {result.output}" + (f" --reference {checked.model}" if elsewhere else ""))


def _train_rl(recipe: str, **values: Any) -> None:
    """Optimise a policy: GRPO, DistRL, PRIME, SPRO, REINFORCE with Q-RM; the reward model may learn with it."""
    from prmbench.training.recipes.read import load_recipe
    from prmbench.training.rl.recipe import RLRecipe

    checked = load_recipe(recipe, RLRecipe, _overrides(values))
    if values["dry_run"]:
        for remark in checked.remarks():
            typer.echo(remark, err=True)
    if _is_plan(checked, values):
        return
    from prmbench.training.rl.run import train_rl

    result = train_rl(checked, log=_log(values))
    if result is None:
        return
    if values["as_json"]:
        updated = result.reward_model and str(result.reward_model)
        _echo_json(result.output, result.steps, evaluations=result.evaluations, reward_model=updated)
        return
    typer.echo(f"{result.steps:,} steps; figures of each are in {result.output / 'rl.json'}")
    typer.echo(f"policy: {result.output}")
    if result.reward_model is not None:
        typer.echo(f"reward model, as updated: {result.reward_model}")
    typer.echo(f"next:  prmbench eval --policy {result.output}")


for _name, _command, _flags, _example in (
    ("sft", _train_sft, _FLAGS, "miniature/sft.yaml"),
    ("rm", _train_rm, _FLAGS, "qwen3-0.6b/ipvrm.yaml"),
    ("rl", _train_rl, {name: flag for name, flag in _FLAGS.items() if name != "strict"}, "qwen3-0.6b/spro.yaml"),
):
    _recipe = typer.Argument(help=f"YAML recipe; a name such as {_example} is one that ships")
    train.command(name=_name)(interruptible(with_flags(_command, _flags, {"recipe": Annotated[str, _recipe]})))


@train.command(name="keys")
def train_keys_command() -> None:
    """Print every key of every recipe, as Markdown."""
    from prmbench.training.document import describe_recipe_keys

    typer.echo(describe_recipe_keys(), nl=False)
