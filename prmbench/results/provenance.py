"""Versions of everything that computes."""

from __future__ import annotations

import platform
from importlib import metadata

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
