"""The chat template of a run: the tokenizer's own, one of several that it has, a file, or one that ships."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prmbench.errors import UserError, nearest
from prmbench.resources import resource_folder
from prmbench.reward_models.loading import read_template


def find_template(name: str, own: Mapping[str, str] | None = None) -> str:
    """Find a chat template.

    Args:
        name: A Jinja file, the name of a template that the tokenizer has, or of one that ships (``training/templates``).
        own: Templates of the tokenizer by name; None: it has none with a name.

    Returns:
        The template.

    Raises:
        UserError: There is none of that name.
    """
    if os.path.exists(name):
        return read_template(Path(name))
    if own and name in own:
        return own[name]
    shipped = shipped_templates()
    if name not in shipped:
        known = [*(own or {}), *shipped]
        raise UserError(
            f"chat_template '{name}': no such file, nor a template that ships{nearest(name, known)}: {', '.join(known)}"
        )
    return read_template(shipped[name])


def shipped_templates() -> dict[str, Path]:
    """List the chat templates that ship, by name."""
    return {path.stem: path for path in sorted((resource_folder("training") / "templates").glob("*.jinja"))}
