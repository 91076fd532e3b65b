"""How a model computes attention, by the names of transformers, and what a name needs to be there."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from prmbench.errors import nearest

if TYPE_CHECKING:
    import torch

_PACKAGES = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
}
"""The module of each flash attention, and the package that brings it."""

_ANYWHERE = ("eager", "sdpa")
"""Those that compute on any device. flex_attention has no gradient on a CPU, and compiles there for minutes."""

_MASKED = (*_ANYWHERE, "flex_attention")
"""Those that are shown by a mask which tokens belong together. All others are told where sequences begin."""

ATTENTION = (*_MASKED, *_PACKAGES)
"""Names of attention implementations. The id of a kernel on the Hub (``owner/name``) is one too."""


def is_masked(name: str | None) -> bool:
    """Say whether an attention implementation takes a mask, and any type of numbers.

    Args:
        name: Its name; None: the default one, which does.
    """
    return name is None or name in _MASKED


def unknown_attention(name: str) -> str | None:
    """Say what is wrong with the name of an attention implementation.

    Args:
        name: The name.

    Returns:
        What was expected; None where nothing is wrong.
    """
    if name in ATTENTION or _is_kernel(name):
        return None
    return f"expected {', '.join(ATTENTION)}, or the id of a kernel, OWNER/NAME{nearest(name, ATTENTION)}"


def missing_for_attention(name: str, device: torch.device) -> str | None:
    """Say what an attention implementation lacks on this machine.

    Args:
        name: A name that `unknown_attention` finds nothing wrong with.
        device: Where the model is to compute.

    Returns:
        What is missing and how to mend it; None where nothing is missing.
    """
    if name in _ANYWHERE:
        return None
    if device.type != "cuda":
        return f"needs a CUDA device, not {device.type}; use sdpa"
    module, package = _PACKAGES.get(name, ("kernels", "kernels"))
    # Of flash attention, transformers takes the kernel of the Hub where the package is not there.
    if not is_masked(name) and all(importlib.util.find_spec(one) is None for one in (module, "kernels")):
        return f"needs the package {package}, which is not installed (pip install {package}); or use sdpa"
    return None


def _is_kernel(name: str) -> bool:
    owner, _, rest = name.partition("/")
    return bool(owner and rest)
