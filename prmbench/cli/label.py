"""The `label` command: labels of steps by continuations of a policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from prmbench.cli.common import interruptible, quiet_libraries
from prmbench.cli.options import (
    DATA,
    LOADING,
    OUTPUT,
    SAMPLING,
    Flag,
    named_revisions,
    policy_loading,
    sampling_of,
    shared,
    with_flags,
)

_FLAGS = {
    **shared(
        "limit",
        *LOADING,
        "system",
        "template_arg",
        "chat_template",
        "date",
        "end_of_turn",
        "separator",
        "verifier",
        "seed",
        "as_json",
    ),
    **shared(
        policy={"required": True},
        prompt={"help": "prompt template; default: that of the rollouts, else boxed"},
        temperature={"default": 1.0},
        top_p={"default": 1.0},
        top_k={"default": 0},
        max_new_tokens={"help": "tokens of a whole response; a continuation cut here is wrong", "default": 2048},
        output={"help": "folder to write labels.jsonl into; the same command goes on there", "required": True},
        batch_tokens={"help": "tokens of a batch, continuations at full length", "default": 16_384},
    ),
    "k": Flag("k", int, "continuations from the end of each step", SAMPLING, 8, low=1),
    "adaptive": Flag("adaptive", bool, "leave a state when its label is decided", SAMPLING, False),
    "rule": Flag("rule", str, "any, threshold, gain: how labels follow", DATA, "any"),
    "threshold": Flag("threshold", float, "of the rule; default: 0.5, of gain 0", DATA, low=-1, high=1),
    "dry_run": Flag("dry_run", bool, "show the budget and sample nothing", OUTPUT, False),
}
_ARGUMENTS = {
    "solutions": Annotated[
        Path,
        typer.Argument(
            help="rollouts (file or run folder), or {problem, answer, steps} or {problem, answer, solution} records"
        ),
    ]
}


def _label(**values: Any) -> None:
    """Label steps: sample continuations from the end of each, and count those that are right."""
    values = named_revisions(values)
    from typing import get_args

    from prmbench.data.prompts import find_prompt
    from prmbench.data.rollout_labels import LABELS_NAME
    from prmbench.data.rollouts import prompt_of
    from prmbench.engines.processes import current_share
    from prmbench.engines.sampling import SamplingParams
    from prmbench.errors import ArgumentError, nearest
    from prmbench.policies.labelling import budget, label
    from prmbench.policies.policy import load_policy, policy_encoder
    from prmbench.policies.state_counts import LabelOptions
    from prmbench.policies.states import load_marked
    from prmbench.reward_models.loading import read_template
    from prmbench.stats.rollout_labels import Rule
    from prmbench.verify import VerifierOptions

    # What is asked for.
    if values["engine"] == "api":
        raise ArgumentError(
            "engine", "api", "a solution is continued by its token ids, which a server of chats does not take"
        )
    rule, known = values["rule"], get_args(Rule)
    if rule not in known:
        raise ArgumentError("rule", rule, f"not known{nearest(rule, known)}; expected {', '.join(known)}")
    options = LabelOptions(values["k"], rule, values["threshold"], values["adaptive"])
    params, verifier = SamplingParams(**sampling_of(values)), VerifierOptions.parse(values["verifier"])
    quiet_libraries()
    share = current_share(cpu=values["device"] == "cpu")
    loading = policy_loading(values)
    if (text := loading["chat_template"]) is not None:
        loading["chat_template"] = read_template(text)

    # What is to be sampled, said before any weights are loaded.
    name = values["prompt"] or prompt_of(values["solutions"]) or "boxed"
    template, engine = find_prompt(name), loading.pop("engine")
    encoder = policy_encoder(values["policy"], template, **loading)
    marked, name = load_marked(values["solutions"], encoder, values["prompt"], values["limit"])
    planned = budget(marked, options, params.max_new_tokens)
    if share.main:
        typer.echo(planned.sentence(), err=not values["dry_run"])
    if values["dry_run"]:
        return
    # The labels.
    found = label(
        load_policy(values["policy"], template, engine=engine, **loading),
        marked,
        values["output"],
        prompt=name,
        options=options,
        params=params,
        seed=values["seed"] or 0,
        batch_tokens=values["batch_tokens"],
        share=share,
        verifier=verifier,
    )
    if found is None:
        return
    # What is said of them.
    counts = {
        name: sum(getattr(one, name) for one in found.values()) for name in ("successes", "trials", "cut", "tokens")
    }
    if values["as_json"]:
        typer.echo(json.dumps({"solutions": len(marked), "states": len(found), **counts}))
        return
    typer.echo(
        f"{len(marked):,} solutions, {len(found):,} states: {counts['successes']:,} of {counts['trials']:,} continuations "
        f"are right, {counts['cut']:,} were cut; {counts['tokens']:,} tokens sampled"
    )
    typer.echo(f"labels: {values['output'] / LABELS_NAME}")


label_command = interruptible(with_flags(_label, _FLAGS, _ARGUMENTS))
