"""Models that are divided among processes: the one in training, as the launch says, and those beside it.

The launch divides the model in training, by FSDP2 (accelerate) or ZeRO-3 (DeepSpeed). Left to it, the models beside that one would
be whole on every device. They are divided here, always by FSDP2, which divides a model in place, with or without an optimizer, and
needs no engine of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.training.model.forward import Model, give_logprobs
from prmbench.training.model.launch import uses_fsdp


def allow_fsdp_on_cpu() -> None:
    """Have processes on a CPU divide the model where they were launched to. accelerate asks for FSDP only where it sees GPUs.

    On a CPU it would train whole copies, and not say so.
    """
    state = PartialState()
    if state.distributed_type is DistributedType.MULTI_CPU and uses_fsdp():
        state.distributed_type = DistributedType.MULTI_GPU


def keep_float32(accelerator: Accelerator) -> None:
    """Have a model that FSDP2 divides give its results, and sum its gradients, in float32.

    With bf16 accelerate has both rounded. A log-prob would be off by up to 0.4% of itself, which is more than most token rewards.

    Args:
        accelerator: The accelerator of a trainer, before it wraps the model.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.mixed_precision_policy is not None:
        of_copies = plugin.mixed_precision_policy.param_dtype
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=of_copies, reduce_dtype=torch.float32)


def divides(accelerator: Accelerator) -> bool:
    """Whether the weights of the model in training are divided among the processes.

    Args:
        accelerator: The accelerator of its trainer.
    """
    state = accelerator.state
    if state.distributed_type is DistributedType.DEEPSPEED:
        return bool(state.deepspeed_plugin.zero_stage == 3)
    return state.distributed_type is DistributedType.FSDP


def beside(options: LoadOptions, accelerator: Accelerator) -> LoadOptions:
    """Say how a model beside the one in training is loaded: where it is to be divided, on the CPU.

    Args:
        options: How it would be loaded whole.
        accelerator: The accelerator of the trainer.
    """
    return dataclasses.replace(options, device="cpu") if divides(accelerator) else options


def load_frozen(folder: Path, options: LoadOptions, accelerator: Accelerator, size: int | None = None) -> Model:
    """Load a model beside the one in training that only gives log-probs, divided as that one is.

    Args:
        folder: Its checkpoint.
        options: How its weights are loaded.
        accelerator: The accelerator of the trainer.
        size: Number of token ids, from 0 on, that log-probs are taken over; None: all.

    Returns:
        The model; its forward gives log-probs (`prmbench.training.model.forward.give_logprobs`).
    """
    model = load_causal_lm(folder, beside(options, accelerator)).requires_grad_(False)
    give_logprobs(model, str(folder), size)
    if divides(accelerator):
        divide(model, accelerator)
    return model


def divide(model: Any, accelerator: Accelerator) -> None:
    """Divide a model beside the one in training, a layer at a time. All processes must call it, and then call the model in step.

    Args:
        model: The model, perhaps with an adapter; it is changed in place. What is asked of it must be asked by calling it.
        accelerator: The accelerator of the trainer.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    options: dict[str, Any] = {"mp_policy": plugin.mixed_precision_policy or MixedPrecisionPolicy()} if plugin else {}
    for module in reversed(list(model.modules())):
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, **options)
    fully_shard(model, reshard_after_forward=True, **options)


@contextmanager
def gathered(model: Any, accelerator: Accelerator) -> Iterator[None]:
    """Have a model that FSDP2 divides whole in every process, so that each calls any part of it as often as it needs.

    Args:
        model: The model, as it is trained; any other than one that FSDP2 divides stays as it is.
        accelerator: The accelerator of its trainer.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if parts:
        # FSDP finds out which module is the outermost one when a first one is called.
        model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=accelerator.device), use_cache=False)
        model.set_reshard_after_forward(False)
        for part in parts:
            part.unshard()
    try:
        yield
    finally:
        if parts:
            model.set_reshard_after_forward(bool(accelerator.state.fsdp_plugin.reshard_after_forward))
            for part in parts:
                part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor. All processes must call it.

    Args:
        tensor: A tensor, divided or not.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """Divide a tensor that every process has whole as another one is divided.

    Args:
        tensor: The tensor.
        other: The other one.
    """
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
