"""A device that is not the CPU, without one at hand: tensors that claim to be on it, and hold their numbers on the CPU.

An operation on tensors of both devices raises, as it does on a GPU, with the same exceptions: a number (a tensor without
dimensions) may be on the CPU, and so may the indices of an indexing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class Backend(_DummyBackendModule):
    """What torch asks of a backend beside its operations."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Types that autocast knows."""
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("standin", Backend())  # of the whole process: import this in one of its own
torch.inference_mode = torch.no_grad  # type: ignore[misc,assignment]  # inference mode takes no tensors that hold others
DEVICE = torch.device("standin", 0)

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class OnDevice(torch.Tensor):
    """A tensor that claims to be on `DEVICE`."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.held})"

    def tolist(self) -> Any:
        """Return the numbers as a list, which torch does for its own tensors only."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    here = any(isinstance(one, OnDevice) for one in tensors)
    asked = kwargs.get("device")
    if here and function not in COPIES:
        strangers = tensors[:1] if function in INDEXING else tensors
        if function in INDEXING:
            strangers = [args[0], *args[2:3]]
        for one in strangers:
            if isinstance(one, torch.Tensor) and not isinstance(one, OnDevice) and one.dim() > 0:
                raise RuntimeError(f"{function}: tensors on {DEVICE} and on cpu, of shape {tuple(one.shape)}")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    plain_args, plain_kwargs = tree_map(_held, (args, kwargs))
    found = function(*plain_args, **plain_kwargs)
    if function._schema.is_mutable and args and isinstance(args[0], torch.Tensor) and found is plain_args[0]:
        return args[0]
    goes = torch.device(asked).type == DEVICE.type if asked is not None else here
    return tree_map(_wrap, found) if goes else found


def _held(one: Any) -> Any:
    return one.held if isinstance(one, OnDevice) else one


def _wrap(one: Any) -> Any:
    return OnDevice(one) if isinstance(one, torch.Tensor) and not isinstance(one, OnDevice) else one


class StandIn(TorchDispatchMode):
    """While it is entered, tensors can be made on `DEVICE` and copied to it, though torch has no code for it."""

    def __enter__(self) -> StandIn:
        torch._C._set_only_lift_cpu_tensors(
            True
        )  # `torch.tensor` makes numbers on the CPU and copies them, as an operation
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        return _run(function, args, kwargs or {})


def move(model: torch.nn.Module) -> torch.nn.Module:
    """Put a model on `DEVICE`, in place; tied weights stay tied."""
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                new = made.setdefault(
                    id(parameter), torch.nn.Parameter(OnDevice(parameter.detach()), parameter.requires_grad)
                )
                module._parameters[name] = new
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = OnDevice(buffer)
    return model
