"""The `score` command: step scores of a user's own solutions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from prmbench.benchmarks.base import REWARD_MODEL, SAMPLING, TOKENS
from prmbench.cli.common import console, interruptible, quiet_libraries
from prmbench.cli.options import DATA, LOADING, OUTPUT, Flag, loading_of, named_revisions, shared, with_flags
from prmbench.errors import UserError, printable
from prmbench.progress import announce_loading

_ARGUMENTS = {
    "file": Annotated[
        Path, typer.Argument(help="records {problem, steps} or {problem, solution}; a solution is split at blank lines")
    ]
}
_FLAGS = {
    **shared(
        *(REWARD_MODEL | TOKENS | SAMPLING | LOADING | {"n", "prompt", "as_json"}),
        rm={"required": True},
        limit={"help": "only the first N solutions"},
        output={"help": "folder to write scores.jsonl into; default: only shown"},
    ),
    "threshold": Flag(
        "threshold",
        str,
        "predict first errors: a number (logit), or an entry of this model as ENTRY[:RULE[:PROTOCOL]]",
        DATA,
    ),
    "protocol": Flag("protocol", str, "score to show and to threshold; default: process, or step", OUTPUT),
    "show": Flag("show", int, "solutions to show on the terminal", OUTPUT, 5, low=0),
}


def _score(file: Path, **values: Any) -> None:
    """Score the steps of your own solutions; no labels needed."""
    values = named_revisions(values)
    output, threshold, protocol, show = (values[name] for name in ("output", "threshold", "protocol", "show"))
    if output is not None and (output.suffix in (".json", ".jsonl") or output.is_file()):
        raise UserError(f"--output {output}: is the name of a file; expected a folder, scores.jsonl is written into it")

    from prmbench.data.solutions import load_solutions

    # What is asked is checked before the model is loaded, and a threshold before anything is scored.
    solutions = load_solutions(file, values["limit"])
    announce_loading(values["rm"], values["reference"])

    from prmbench.reward_models.loading import load_reward_model
    from prmbench.reward_models.subject import verified_by
    from prmbench.scoring.run import score_solutions
    from prmbench.scoring.threshold import check_protocol, find_threshold, protocols_of

    quiet_libraries()
    model = load_reward_model(values["rm"], **loading_of(values), prompt=values["prompt"])
    known = protocols_of(model)
    check_protocol(protocol, model)
    chosen = None if threshold is None else find_threshold(threshold, model, protocol)
    scored = score_solutions(model, solutions, output=output, threshold=chosen, batch_tokens=values["batch_tokens"])
    # Shown: solutions step by step, then what was found in all.
    if values["as_json"]:
        typer.echo(json.dumps([one.fields() for one in scored], indent=2))
        return

    from prmbench.scoring.view import render

    used = chosen.protocol if chosen else protocol or next(iter(known), None)
    if show:
        console().print(render(solutions, scored, used, chosen, show), highlight=False)
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
        typer.echo(f"preset: {model.card.preset}{'' if verified_by(model.card) else ' (unverified)'}")
    if output is not None:
        typer.echo(f"scores: {output / 'scores.jsonl'}")


score_command = interruptible(with_flags(_score, _FLAGS, _ARGUMENTS))
