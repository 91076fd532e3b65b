"""The `serve` command: step scores over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from prmbench.benchmarks.base import REWARD_MODEL, SAMPLING, TOKENS
from prmbench.cli.common import interruptible, quiet_libraries
from prmbench.cli.options import DATA, LOADING, Flag, loading_of, named_revisions, shared, with_flags
from prmbench.data.revisions import split_revision
from prmbench.errors import UserError
from prmbench.progress import announce_loading
from prmbench.resources import install_command

SERVER = "Server"
KEY_VARIABLE = "PRMBENCH_SERVE_KEY"
_LIMITS = {"max_body": "body_bytes", "max_traces": "traces", "max_steps": "steps", "max_tokens": "tokens"}
_FLAGS = {
    **shared(
        *(REWARD_MODEL | TOKENS | SAMPLING | LOADING | {"n", "prompt", "name"}),
        rm={"required": True},
        name={"help": "what the model is called; default: the checkpoint's name"},
    ),
    "threshold": Flag(
        "threshold",
        str,
        "predict first errors: a number (logit), or an entry of this model as ENTRY[:RULE[:PROTOCOL]]",
        DATA,
    ),
    "protocol": Flag("protocol", str, "score to threshold; default: process, or step", DATA),
    "host": Flag("host", str, "address to listen at; 0.0.0.0 is every one of this machine", SERVER, "127.0.0.1"),
    "port": Flag("port", int, "port to listen at; 0: any free one", SERVER, 8100, low=0, high=65_535),
    "server_key_variable": Flag(
        "server_key_variable",
        str,
        f"environment variable with the key that requests must bring (default {KEY_VARIABLE})",
        SERVER,
    ),
    "max_body": Flag("max_body", int, "bytes of a request", SERVER, 8 << 20, low=1),
    "max_traces": Flag("max_traces", int, "traces of a request", SERVER, 256, low=1),
    "max_steps": Flag("max_steps", int, "steps of a trace", SERVER, 1000, low=1),
    "max_tokens": Flag("max_tokens", int, "tokens of a trace", SERVER, 32_768, low=1),
}


def _serve(**values: Any) -> None:
    """Serve step scores of a reward model over HTTP, to applications and to training runs."""
    values = named_revisions(values)
    try:
        from prmbench.serving.run import is_loopback, listen, read_key, serve
    except ModuleNotFoundError as error:
        raise UserError(f"prmbench serve needs the package {error.name}: {install_command('serve')}") from None
    # The key that requests bring.
    variable = values["server_key_variable"] or KEY_VARIABLE
    key = read_key(variable, asked=values["server_key_variable"] is not None)
    # The address is taken before the model is loaded, so that a mistake in it shows at once.
    with listen(values["host"], values["port"]) as opened:
        announce_loading(values["rm"], values["reference"])

        from prmbench.reward_models.loading import load_reward_model
        from prmbench.reward_models.remote import ServerLimits
        from prmbench.scoring.threshold import check_protocol, find_threshold
        from prmbench.serving.app import ScoringService

        # The model, and what is made of its scores.
        quiet_libraries()
        model = load_reward_model(values["rm"], **loading_of(values), prompt=values["prompt"])
        check_protocol(values["protocol"], model)
        chosen = None
        if values["threshold"] is not None:
            chosen = find_threshold(values["threshold"], model, values["protocol"])
        elif values["protocol"] is not None:
            raise UserError("--protocol: goes with --threshold; without one every protocol is given; leave it out")
        # The service, which runs until Ctrl-C.
        service = ScoringService(
            model,
            name=values["name"] or Path(split_revision(values["rm"])[0]).resolve().name,
            limits=ServerLimits(**{field: values[flag] for flag, field in _LIMITS.items()}),
            key=key,
            threshold=chosen,
            batch_tokens=values["batch_tokens"],
        )
        if key is None and not is_loopback(values["host"]):
            print(
                f"warning: whoever reaches {values['host']} may use this server; export {variable} with a key",
                file=sys.stderr,
            )

        def announce(address: str) -> None:
            what = f"{service.served.subject.name} ({model.kind})"
            asks = f"a key ({variable})" if key else "no key"
            typer.echo(
                f"serving {what} at {address}, {asks}: POST /score; GET /model, /health, /metrics. Ctrl-C ends it"
            )
            sys.stdout.flush()

        serve(service, opened, announce)
    typer.echo("stopped")


serve_command = interruptible(with_flags(_serve, _FLAGS))
