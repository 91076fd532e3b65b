"""Starting vLLM within this process, for models that generate and for models that pool."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prmbench.engines.load import LoadOptions
from prmbench.errors import ArgumentError, UserError, argument, first_line
from prmbench.resources import install_command

if TYPE_CHECKING:
    from vllm import LLM


def set_environment(options: LoadOptions) -> None:
    """Set what vLLM reads from the environment when it is imported. What is set already stays.

    Args:
        options: Where the model is loaded, and on how many devices.

    Raises:
        ArgumentError: vLLM is not installed, or there are too few processor cores.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # a process of its own would outlive this one
    if options.resolve_device().type == "cpu":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        if (n := options.tensor_parallel) > 1:  # vLLM's own choice finds no cores for several processes
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "|".join(core_groups(n, "tensor_parallel")))
    require_vllm()


def require_vllm() -> None:
    """Raise ArgumentError, with what to install, where vLLM is not installed. It is not imported, which takes a while."""
    if importlib.util.find_spec("vllm") is None:
        raise ArgumentError("engine", "vllm", f"vLLM is not installed: {install_command('vllm')}")


def start_llm(folder: Path, options: LoadOptions, source: str, memory_share: float, **settings: Any) -> LLM:
    """Load a checkpoint into vLLM. `set_environment` comes first.

    Args:
        folder: The checkpoint folder.
        options: Where and how its weights are loaded.
        source: What errors call the checkpoint.
        memory_share: Share of the memory of each device that vLLM may take, between 0 and 1. It means nothing on a CPU.
        settings: Further arguments of vLLM's class `LLM`.

    Returns:
        The model in vLLM.

    Raises:
        UserError: vLLM cannot load the checkpoint.
    """
    from vllm import LLM

    on_cpu = options.resolve_device().type == "cpu"
    settings.setdefault("skip_tokenizer_init", True)
    if not on_cpu:
        settings["gpu_memory_utilization"] = memory_share
    try:
        return LLM(
            model=str(folder),
            dtype=str(options.resolve_dtype()).removeprefix("torch."),
            enforce_eager=on_cpu,
            tensor_parallel_size=options.tensor_parallel,
            trust_remote_code=options.trust_remote_code,
            disable_log_stats=True,
            **settings,
        )
    except Exception as error:  # vLLM raises many kinds
        raise UserError(
            f"{source}: vLLM cannot load it ({first_line(error)}); use {argument('engine', 'hf')}"
        ) from error


def core_groups(n: int, name: str) -> list[str]:
    """Divide the processor cores of this process into groups of about equal size.

    Args:
        n: Number of groups.
        name: Name of the argument that asks for them, for errors.

    Returns:
        The groups, each as vLLM writes it.

    Raises:
        ArgumentError: There are fewer cores than groups.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if len(cores) < n:
        raise ArgumentError(name, n, f"there are {len(cores)} processor cores; {n} processes need one each")
    return [",".join(map(str, some)) for some in np.array_split(cores, n)]
