"""Presets on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from prmbench.benchmarks.tables import safe
from prmbench.reward_models.presets import Preset


def table(presets: Mapping[str, Preset]) -> RenderableType:
    """A row for each preset: its name, how it scores, and the checkpoints that it is for; then what each was verified against.

    Args:
        presets: The presets by name.
    """
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("preset", "kind", "checked", "for"):
        shown.add_column(title, no_wrap=title in ("preset", "kind"), overflow="fold")
    for name, one in presets.items():
        shown.add_row(name, one.card["kind"], "verified" if one.verified else "unverified", safe(one.of))
    against = Table(box=None, padding=(0, 2, 0, 0))
    against.add_column("verified against", no_wrap=True)
    against.add_column(overflow="fold")
    for name, one in presets.items():
        against.add_row(name, safe(str(one.verified) if one.verified else f"nothing: {one.reason}"))
    return Group(
        shown,
        "",
        against,
        "",
        "verified: the authors' own code was run on tiny checkpoints with real tokenizers, and the scores are the same.",
        "`prmbench presets NAME` shows one in full; `prmbench eval --rm CKPT --preset NAME` uses it.",
    )


def details(name: str, preset: Preset) -> RenderableType:
    """Everything that a preset fixes, a line each.

    Args:
        name: Its name.
        preset: The preset.
    """
    rows = [
        ("preset", name),
        ("for", preset.of),
        ("checked", f"verified against {preset.verified}" if preset.verified else f"unverified: {preset.reason}"),
        *_flat("", preset.card),
        ("read", preset.checked),
    ]
    shown = Table.grid(padding=(0, 2, 0, 0))
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for key, value in rows:
        shown.add_row(safe(key), safe(value))
    return shown


def _flat(prefix: str, fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fields of a card with dotted names; texts quoted, so that spaces and newlines show."""
    found = []
    for key, value in fields.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found += _flat(f"{name}.", value)
        else:
            found.append((name, repr(value) if isinstance(value, str) and not value.isidentifier() else str(value)))
    return found
