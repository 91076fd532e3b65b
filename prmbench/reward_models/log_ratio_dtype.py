"""In what type models compute whose log-probs are subtracted: rounding that cancels nowhere else shows in the difference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from prmbench.engines.checkpoint import loaded_files
from prmbench.engines.load import LoadOptions
from prmbench.errors import argument

HEADROOM = 1.15
"""Memory that is wanted, as a multiple of that of the weights: batches need some too, and are halved where it runs out."""


def choose_dtype(
    options: LoadOptions, folders: Sequence[Path], *, share: float | None = None
) -> tuple[LoadOptions, list[str]]:
    """Choose the dtype of models that are held in memory together, where the user leaves it open.

    Elsewhere ``auto`` is bfloat16 on CUDA. Here it is float32 where the models fit, because in bfloat16 half of the step scores of
    a log-ratio can be rounding.

    Args:
        options: Device and dtype as the user asked for.
        folders: Folders of the checkpoints, one for each copy of weights.
        share: Share of the memory that an engine reserves for each model; None where all of them share what is free.

    Returns:
        The options with the dtype decided, and what to warn of.
    """
    if options.dtype != "auto" or options.resolve_device().type != "cuda":
        return options, []
    sizes = [float32_bytes(folder) * HEADROOM for folder in folders]
    free = free_bytes(options)
    fits = sum(sizes) <= free if share is None else max(sizes) <= share * free * options.tensor_parallel
    if fits:
        return dataclasses.replace(options, dtype="float32"), []
    needed, there = (f"{n / 2**30:.1f} GiB" for n in (sum(sizes), free))
    return dataclasses.replace(options, dtype="bfloat16"), [
        f"the model and its reference are loaded in bfloat16: float32 takes about {needed}, and {there} are free. Half of the step "
        f"scores of a log-ratio can be rounding then; use a larger device, or {argument('dtype', 'float32')} if it fits"
    ]


def float32_bytes(folder: Path) -> int:
    """Say how much memory the weights of a checkpoint take in float32.

    Args:
        folder: Folder of the checkpoint.

    Returns:
        Number of bytes.
    """
    from safetensors import safe_open

    total = 0
    for file in loaded_files(folder):
        with safe_open(file, framework="pt") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return 4 * total


def free_bytes(options: LoadOptions) -> int:
    """Ask how much memory is free on a CUDA device.

    Args:
        options: Names the device.

    Returns:
        Number of bytes.
    """
    import torch

    return int(torch.cuda.mem_get_info(options.resolve_device())[0])
