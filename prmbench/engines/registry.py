"""The engines by name, and loading a checkpoint into one."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prmbench.engines.attention import is_masked
from prmbench.engines.checkpoint import is_adapter
from prmbench.engines.load import LoadOptions, attention_problem, load_causal_lm
from prmbench.engines.types import Engine
from prmbench.errors import ArgumentError, argument, nearest

ENGINES = ("hf", "vllm", "api")


def check_engine(name: str, options: LoadOptions) -> None:
    """Check the engine that a user asks for, before anything is loaded.

    Args:
        name: Name of an engine.
        options: What it is asked to do.

    Raises:
        ArgumentError: There is no such engine (the nearest is named), or it has no use for several devices, or no choice of
            attention; or the attention is not known, or lacks something here.
    """
    if name not in ENGINES:
        raise ArgumentError("engine", name, f"expected {', '.join(ENGINES)}{nearest(name, ENGINES)}")
    attention = options.attn_implementation
    if name != "hf":
        for way, value in (("attn_implementation", attention), ("padding_free", options.padding_free or None)):
            if value is not None:
                raise ArgumentError(way, value, f"only {argument('engine', 'hf')} has a choice of this; leave it out")
    elif (problem := attention_problem(options)) is not None:
        raise ArgumentError("attn_implementation", attention, problem)
    elif not is_masked(attention) and str(options.resolve_dtype()) == "torch.float32":
        raise ArgumentError(
            "attn_implementation",
            attention,
            f"reads half precision alone; use {argument('dtype', 'bfloat16')}, or sdpa",
        )
    if name != "vllm":
        for way, number in (("tensor_parallel", options.tensor_parallel), ("data_parallel", options.data_parallel)):
            if number > 1:
                shares = f"only {argument('engine', 'vllm')} shares its work like this; leave it out"
                raise ArgumentError(way, number, shares)


def load_engine(
    name: str,
    folder: Path,
    options: LoadOptions,
    source: str,
    *,
    memory_share: float = 0.85,
    allowed: NDArray[np.int64] | None = None,
) -> Engine:
    """Load a checkpoint folder into an engine.

    Args:
        name: Name of the engine.
        folder: The checkpoint folder. An adapter is merged into its base. The engine api has no use for it.
        options: Where and how its weights are loaded.
        source: What errors call the checkpoint.
        memory_share: Share of each device's memory that vLLM reserves, between 0 and 1. The hf engine takes what it needs.
        allowed: Token ids that may be sampled; None: all. With the hf engine all others have no probability in log-probs either.

    Returns:
        The engine.

    Raises:
        ArgumentError: There is no such engine, or it has no use for several devices.
        UserError: The engine cannot load the checkpoint.
    """
    check_engine(name, options)
    if name == "api":
        from prmbench.engines.api.engine import hosted

        return hosted(source, options.service)
    if name == "hf":
        from prmbench.engines.hf.engine import HFEngine

        return HFEngine(load_causal_lm(folder, options), source, allowed)
    if is_adapter(folder):
        with tempfile.TemporaryDirectory() as merged:  # vLLM has read it once it is loaded
            load_causal_lm(folder, dataclasses.replace(options, device="cpu")).save_pretrained(merged)
            return load_engine(name, Path(merged), options, source, memory_share=memory_share, allowed=allowed)
    from prmbench.engines.vllm.engine import VLLMEngine

    if options.data_parallel > 1:
        from prmbench.engines.vllm.parallel import ParallelVLLM

        return ParallelVLLM(VLLMEngine, folder, options, source, memory_share=memory_share, allowed=allowed)
    return VLLMEngine(folder, options, source, memory_share=memory_share, allowed=allowed)
