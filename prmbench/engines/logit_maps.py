"""What architectures do to the logits of their output layers, as their configs declare it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

LogitMap = Callable[[torch.Tensor], torch.Tensor]
"""Changes each logit. It keeps the shape."""


def declared_logit_maps(config: Any) -> list[LogitMap]:
    """List the changes to logits that a config declares.

    Args:
        config: Config of transformers, of the part that is a language model.

    Returns:
        The changes that it may mean: a soft cap, or a factor. Empty where it names none.
    """
    known: list[LogitMap] = []
    if cap := getattr(config, "final_logit_softcapping", None):
        known.append(lambda x: torch.tanh(x / cap) * cap)
    for name in ("logit_scale", "lm_head_multiplier"):
        if scale := getattr(config, name, None):
            known.append(functools.partial(torch.mul, scale))
    if scaling := getattr(config, "logits_scaling", None):
        known.append(functools.partial(torch.mul, 1 / scaling))
    return known
