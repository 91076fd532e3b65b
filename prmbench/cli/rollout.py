"""The `rollout` command: sample completions of problems and verify their answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from prmbench.cli.common import interruptible, quiet_libraries
from prmbench.cli.options import (
    DATA,
    LOADING,
    PROMPT_HELP,
    Flag,
    named_revisions,
    policy_loading,
    sampling_of,
    shared,
    with_flags,
)
from prmbench.progress import announce_loading

_FLAGS = {
    **shared(
        *(
            "limit",
            *LOADING,
            "system",
            "template_arg",
            "chat_template",
            "date",
            "end_of_turn",
            "verifier",
            "seed",
            "as_json",
        )
    ),
    **shared(
        policy={"required": True},
        prompt={"help": PROMPT_HELP, "default": "boxed"},
        n={"kind": int, "help": "completions of each problem", "default": 4, "low": 1},
        temperature={"default": 1.0},
        top_p={"default": 1.0},
        top_k={"default": 0},
        max_new_tokens={"help": "a completion cut here is wrong", "default": 2048},
        output={"help": "folder to write rollouts.jsonl into; the same command goes on there", "required": True},
        batch_tokens={"help": "tokens of a batch, completions at full length", "default": 16_384},
    ),
    "problems": Flag(
        "problems", Path, "problem set by name, or a file of {id, problem, answer} records", DATA, required=True
    ),
}


def _rollout(**values: Any) -> None:
    """Sample completions of problems and verify their answers."""
    values = named_revisions(values)
    from prmbench.data.problem_sets import KNOWN_SETS, find_problems
    from prmbench.data.problems import load_problems
    from prmbench.data.prompts import find_prompt
    from prmbench.data.revisions import split_revision
    from prmbench.verify import VerifierOptions

    # The problems, and how they are put and judged.
    template, verifier = find_prompt(values["prompt"]), VerifierOptions.parse(values["verifier"])
    named = str(values["problems"])
    if not values["problems"].exists() and split_revision(named)[0] in KNOWN_SETS:
        (problems,) = find_problems([named], values["limit"]).values()
    else:
        problems = load_problems(values["problems"], values["limit"])
    announce_loading(values["policy"])

    # The completions. What computes is imported only now, when the line above is shown.
    from prmbench.data.rollouts import FILE_STEM, summarise
    from prmbench.engines.processes import current_share
    from prmbench.engines.sampling import SamplingParams
    from prmbench.policies.policy import load_policy
    from prmbench.policies.rollout import rollout
    from prmbench.reward_models.loading import read_template

    quiet_libraries()
    share = current_share(cpu=values["device"] == "cpu")
    loading = policy_loading(values)
    if (text := loading["chat_template"]) is not None:
        loading["chat_template"] = read_template(text)
    found = rollout(
        load_policy(values["policy"], template, **loading),
        problems,
        values["output"],
        prompt=values["prompt"],
        n=values["n"],
        params=SamplingParams(**sampling_of(values)),
        seed=values["seed"] or 0,
        batch_tokens=values["batch_tokens"],
        share=share,
        verifier=verifier,
    )
    if not share.main:
        return
    # What is said of them.
    summary = summarise(found)
    if values["as_json"]:
        typer.echo(json.dumps(summary.__dict__, indent=2))
        return
    typer.echo(summary.sentence())
    typer.echo(f"rollouts: {values['output'] / f'{FILE_STEM}.jsonl'}")
    typer.echo(f"next:  prmbench train rm RECIPE --set data={values['output']}")
    typer.echo(
        f"next:  prmbench eval --rm CKPT --rollouts {values['output']}   (of a model that did not learn from them)"
    )


rollout_command = interruptible(with_flags(_rollout, _FLAGS))
