"""What an engine is: where tokens are computed (DESIGN 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prmbench.engines.loading import LoadOptions, load_causal_lm
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError, nearest

if TYPE_CHECKING:
    from prmbench.engines.head import Quantity
    from prmbench.engines.hf import TokenScores
    from prmbench.engines.sampling import Completion, Request

ENGINES = ("hf", "vllm")


class Engine(Protocol):
    """Two verbs, `generate` and `score`. provides: the quantities that `score` gives; asking for more is a ValueError."""

    name: str
    source: str
    provides: frozenset[Quantity]

    @property
    def vocabulary(self) -> int:
        """Number of logits of one position."""

    @property
    def max_length(self) -> int | None:
        """Longest sequence, where it is known."""

    def device_and_dtype(self) -> tuple[str, str]:
        """Where the model computes and in what type."""

    def facts(self) -> dict[str, Any]:
        """Architecture and size, for provenance."""

    def eos_ids(self) -> list[int]:
        """Token ids that the checkpoint's own generation settings stop at."""

    def generate(
        self, requests: Sequence[Request], stop: frozenset[int], params: SamplingParams, seed: int
    ) -> list[Completion]:
        """Sample one completion for each request."""

    def score(
        self, sequences: Sequence[NDArray[np.int64]], first: Sequence[int], want: frozenset[Quantity], *, top: int = 0
    ) -> list[TokenScores]:
        """What the model says of tokens that are given."""


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
        from prmbench.engines.hf import HFEngine

        return HFEngine(load_causal_lm(folder, options), source)
    if options.data_parallel > 1:
        from prmbench.engines.vllm_parallel import ParallelVLLM

        return ParallelVLLM(folder, options, source, memory_share=memory_share)
    from prmbench.engines.vllm import VLLMEngine

    return VLLMEngine(folder, options, source, memory_share=memory_share)
