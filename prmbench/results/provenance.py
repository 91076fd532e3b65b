"""Versions of everything that computes, and the provenance of a run."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Protocol

from prmbench.results.schema import Provenance, Run

_LIBRARIES = ("prmbench", "torch", "transformers", "tokenizers", "safetensors", "peft", "accelerate", "numpy")


def versions() -> dict[str, str]:
    """Version of Python and of each library that computes, where installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class Encodes(Protocol):
    """What turns text into ids, and says how."""

    def template_hash(self) -> str:
        """sha256 of everything that shapes the text."""

    def recorded_options(self) -> dict[str, Any]:
        """The options, as provenance records them."""


def run_provenance(
    encoder: Encodes,
    *,
    engine: str,
    device: str,
    dtype: str,
    batch_tokens: int,
    seed: int,
    n_resamples: int,
    started: datetime,
    tokens: int,
    resumed: int,
    cached_tokens: int = 0,
    processes: int = 1,
    service: dict[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> Provenance:
    """Describe how a run that ends now computed its items.

    The parameters are many because each is a field of its own.

    Args:
        encoder: What turned texts into token ids.
        engine: The name of the engine.
        device: Where it computed.
        dtype: In what type.
        batch_tokens: Padded tokens of a batch.
        seed: Seed of everything drawn.
        n_resamples: Bootstrap resamples.
        started: When the run started, in UTC.
        tokens: Tokens run through the subject.
        resumed: Items that were there already.
        cached_tokens: Of the tokens, those whose reference log-probs came from the cache.
        processes: How many processes shared the work.
        service: What a server was asked for; None: there is none.
        warnings: What puts the figures at risk, in words.
    """
    seconds = (datetime.now(UTC) - started).total_seconds()
    return Provenance(
        engine=engine,
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        template_hash=encoder.template_hash(),
        token_options=encoder.recorded_options(),
        versions=versions(),
        seed=seed,
        n_resamples=n_resamples,
        warnings=list(warnings),
        run=Run(
            started=started.isoformat(timespec="seconds"),
            scoring_seconds=round(seconds, 3),
            tokens=tokens,
            cached_tokens=cached_tokens,
            resumed_items=resumed,
            processes=processes,
            service=service,
        ),
    )
