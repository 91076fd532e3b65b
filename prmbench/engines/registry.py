"""The engines by name, and loading a checkpoint into one."""

from __future__ import annotations

from pathlib import Path

from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.engines.types import Engine
from prmbench.errors import ArgumentError, argument, nearest

ENGINES = ("hf", "vllm")


def check_engine(name: str) -> None:
    """Raise ArgumentError, with the nearest name, where there is no such engine.

    Args:
        name: Name of an engine.
    """
    if name not in ENGINES:
        raise ArgumentError("engine", name, f"expected {' or '.join(ENGINES)}{nearest(name, ENGINES)}")


def load_engine(name: str, folder: Path, options: LoadOptions, source: str, *, memory_share: float = 0.85) -> Engine:
    """Load a checkpoint folder into an engine.

    Args:
        name: Name of the engine.
        folder: The checkpoint folder.
        options: Where and how its weights are loaded.
        source: What errors call the checkpoint.
        memory_share: Share of each device's memory that vLLM reserves, between 0 and 1. The hf engine takes what it needs.

    Returns:
        The engine.

    Raises:
        ArgumentError: There is no such engine, or it has no use for several devices.
        UserError: The engine cannot load the checkpoint.
    """
    check_engine(name)
    if name == "hf":
        for way, number in (("tensor_parallel", options.tensor_parallel), ("data_parallel", options.data_parallel)):
            if number > 1:
                raise ArgumentError(
                    way, number, f"only {argument('engine', 'vllm')} shares its work like this; leave it out"
                )
        from prmbench.engines.hf.engine import HFEngine

        return HFEngine(load_causal_lm(folder, options), source)
    if options.data_parallel > 1:
        from prmbench.engines.vllm.parallel import ParallelVLLM

        return ParallelVLLM(folder, options, source, memory_share=memory_share)
    from prmbench.engines.vllm.engine import VLLMEngine

    return VLLMEngine(folder, options, source, memory_share=memory_share)
