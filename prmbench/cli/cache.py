"""The `cache` commands: what is kept between runs, and how to be rid of it."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from prmbench.cli.common import interruptible

cache = typer.Typer(help="Reference log-probs kept between runs.", no_args_is_help=True)


@cache.command(name="list")
@interruptible
def cache_list(
    as_json: Annotated[bool, typer.Option("--json", help="print the list as JSON, nothing else")] = False,
) -> None:
    """Print what is kept: one line a reference, the last used first."""
    from datetime import UTC, datetime

    from prmbench.engines.reference_cache import LIMIT_VARIABLE, LogprobCache

    store = LogprobCache()
    found = store.listed()
    if as_json:
        shown = {"file": str(store.path), "bytes": store.size(), "limit": store.limit}
        typer.echo(json.dumps({**shown, "references": [dataclasses.asdict(one) for one in found]}, indent=2))
        return
    for one in found:
        used = datetime.fromtimestamp(one.used, UTC).strftime("%Y-%m-%d %H:%M")
        typer.echo(
            f"{one.name}  {one.weights[:12]}  {one.engine} {one.device} {one.dtype}  "
            f"{one.tokens:,} tokens, {one.bytes / 2**20:,.1f} MiB  used {used}Z"
        )
    typer.echo(f"{store.path}: {store.size() / 2**20:,.1f} MiB of {store.limit / 2**30:g} GiB ({LIMIT_VARIABLE})")


@cache.command(name="clear")
@interruptible
def cache_clear(
    reference: Annotated[
        str | None, typer.Option(help="only this one: its name in the list, or the start of its hash")
    ] = None,
) -> None:
    """Delete what is kept, of one reference or all."""
    from prmbench.engines.reference_cache import LogprobCache

    store = LogprobCache()
    before = store.size()
    store.clear(reference)
    typer.echo(f"{store.path}: {max(0, before - store.size()) / 2**20:,.1f} MiB freed")
