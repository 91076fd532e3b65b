"""What an engine is: where tokens are computed (DESIGN 3)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prmbench.engines.loading import LoadOptions, load_causal_lm
from prmbench.engines.types import Engine
from prmbench.errors import UserError, nearest

if TYPE_CHECKING:
    pass

ENGINES = ("hf", "vllm")


def check_engine(name: str) -> None:
    """Raise UserError, with the nearest name, when there is no such engine."""
    if name not in ENGINES:
        raise UserError(f"--engine {name}: expected {' or '.join(ENGINES)}{nearest(name, ENGINES)}")


def load_engine(name: str, folder: Path, options: LoadOptions, source: str, *, memory_share: float = 0.85) -> Engine:
    """Load a checkpoint folder into the engine of a name.

    Args:
        memory_share: of each device's memory (vLLM, which reserves it).

    Raises:
        UserError: an unknown engine, a checkpoint that it cannot load, or several devices for an engine that has no use for them.
    """
    check_engine(name)
    if name == "hf":
        for flag, number in (("tensor", options.tensor_parallel), ("data", options.data_parallel)):
            if number > 1:
                raise UserError(
                    f"--{flag}-parallel {number}: only --engine vllm shares its work like this; leave it out"
                )
        from prmbench.engines.hf.engine import HFEngine

        return HFEngine(load_causal_lm(folder, options), source)
    if options.data_parallel > 1:
        from prmbench.engines.vllm.parallel import ParallelVLLM

        return ParallelVLLM(folder, options, source, memory_share=memory_share)
    from prmbench.engines.vllm.engine import VLLMEngine

    return VLLMEngine(folder, options, source, memory_share=memory_share)
