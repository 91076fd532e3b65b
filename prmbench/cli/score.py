"""The `score` command: step scores of a user's own solutions."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from prmbench.cli.common import interruptible, quiet_libraries
from prmbench.errors import UserError, printable


@interruptible
def score_command(
    file: Annotated[
        Path,
        typer.Argument(help="records {problem, steps} or {problem, solution}; a solution is split at blank lines"),
    ],
    rm: Annotated[str, typer.Option(help="reward model: a checkpoint folder or a Hub id")],
    output: Annotated[Path | None, typer.Option(help="folder to write scores.jsonl into; default: only shown")] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            help="predict first errors: a number (logit), or an entry of this model as ENTRY[:RULE[:PROTOCOL]]"
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="score to show and to threshold; default: process, or step where there is one only"),
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="solutions to show on the terminal")] = 5,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first N solutions")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print all scores as JSON, nothing else")] = False,
    preset: Annotated[
        str | None, typer.Option(help="how a public PRM is scored; `prmbench presets` lists them")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="how to score; over the card's")] = None,
    reference: Annotated[str | None, typer.Option(help="pi_ref of an implicit reward model: folder or Hub id")] = None,
    objective: Annotated[
        str | None, typer.Option(help="what it was trained with (ipvrm, implicit_prm, dpo, ...)")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="scale of token values")] = None,
    n: Annotated[int | None, typer.Option(min=0, help="critic: votes; judge: critiques of a step")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="critic, judge: of a text")] = None,
    chat_template: Annotated[Path | None, typer.Option(help="Jinja chat template instead of the tokenizer's")] = None,
    plugin: Annotated[
        Path | None, typer.Option(help="Python file that registers a kind of your own; it is run")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16")] = "auto",
    engine: Annotated[str, typer.Option(help="where tokens are computed: hf or vllm")] = "hf",
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="padded tokens of a batch")] = None,
    reference_cache: Annotated[
        bool, typer.Option("--reference-cache/--no-reference-cache", help="keep the reference's log-probs between runs")
    ] = True,
    trust_remote_code: Annotated[bool, typer.Option(help="run code that the checkpoint carries")] = False,
) -> None:
    """Score the steps of your own solutions; no labels needed. Whatever else decides scores goes into the checkpoint's card."""
    if output is not None and (output.suffix in (".json", ".jsonl") or output.is_file()):
        raise UserError(f"--output {output}: is the name of a file; expected a folder, scores.jsonl is written into it")

    from prmbench.data.solutions import load_solutions
    from prmbench.engines.loading import LoadOptions
    from prmbench.reward_models.loading import load_reward_model
    from prmbench.reward_models.presets import find_preset
    from prmbench.scoring.run import score_solutions
    from prmbench.scoring.threshold import check_protocol, find_threshold, protocols_of

    solutions = load_solutions(file, limit)
    quiet_libraries()
    sampling = {name: value for name, value in (("n", n), ("max_new_tokens", max_new_tokens)) if value is not None}
    loading: dict[str, Any] = {"objective": objective, "beta": beta, "generation": sampling}
    model = load_reward_model(
        rm,
        reference=reference,
        kind=kind,
        preset=preset,
        load_options=LoadOptions(device, dtype, trust_remote_code),
        chat_template=chat_template,
        plugin=plugin,
        engine=engine,
        reference_cache=reference_cache,
        **loading,
    )
    known = protocols_of(model)
    check_protocol(protocol, model)
    chosen = None if threshold is None else find_threshold(threshold, model, protocol)
    scored = score_solutions(model, solutions, output=output, threshold=chosen, batch_tokens=batch_tokens)
    if as_json:
        typer.echo(json.dumps([one.fields() for one in scored], indent=2))
        return

    from rich.console import Console

    from prmbench.scoring.view import render

    used = chosen.protocol if chosen else protocol or next(iter(known), None)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if show:
        console.print(render(solutions, scored, used, chosen, show), highlight=False)
    n_steps = sum(len(one.n_tokens) for one in scored)
    shown = f", {show} of them shown" if 0 < show < len(scored) else ""
    typer.echo(f"{len(scored):,} solutions, {n_steps:,} steps{shown}; score: {used or 'votes of a critic'}")
    if chosen is not None:
        flagged = sum(one.first_error != -1 for one in scored)
        said = printable(chosen.said)  # names from the entry's file
        typer.echo(
            f"{flagged:,} of {len(scored):,} have a step below {chosen.value:.4g} ({said}): taken for the first error"
        )
    elif not known:
        typer.echo(f"{sum(one.first_error is None for one in scored):,} of {len(scored):,} have no verdict")
    if model.card.preset:
        checked = find_preset(model.card.preset).verified
        typer.echo(f"preset: {model.card.preset}{'' if checked else ' (unverified)'}")
    if output is not None:
        typer.echo(f"scores: {output / 'scores.jsonl'}")
