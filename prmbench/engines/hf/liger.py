"""Liger's Triton kernels in the place of a model's norms and feed-forward layers."""

from __future__ import annotations

import sys
from typing import Any

from prmbench.errors import UserError

_LEFT_OUT = {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False}
"""What of Liger is not used. Its losses give no log-probs. Its rotary embedding is put in for every model of the process."""


def apply_liger(model: Any, source: str) -> None:
    """Have a model compute its norms and feed-forward layers by Liger's kernels.

    Liger also puts its classes into the module of the architecture, for models that are made later. These are taken out again: a
    checkpoint that is read back on a CPU could not compute with them.

    Args:
        model: The model, on its device; it is changed in place.
        source: What the error calls the checkpoint.

    Raises:
        UserError: There is no CUDA device, Liger is not installed, or it has nothing for the architecture.
    """
    if model.device.type != "cuda":
        raise UserError(f"liger: its kernels need a CUDA device, not {model.device.type}; leave it out")
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError:
        raise UserError(
            "liger: needs the package liger-kernel, which is not installed (pip install liger-kernel); or leave it out"
        ) from None
    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise UserError(f"{source}: liger: has no kernels for a {kind} model; leave it out")
    names = vars(sys.modules[type(model).__module__])
    before = dict(names)
    _apply_liger_kernel_to_instance(model=model, **_LEFT_OUT)
    names.update(before)
