"""pi_ref of a log-ratio: its log-probs, from the cache where they are there."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.engines.hf.head import HEAD_BLOCK, TILE_ROWS, tile_width
from prmbench.engines.loading import LoadOptions
from prmbench.engines.reference_cache import Identity, LogprobCache, Shape
from prmbench.engines.types import Engine


class Reference:
    """Gives log-probs of a reference. Its engine is loaded at once, unless the cache knows the very same reference: then when
    the first batch is missing, which may be never.

    Args:
        name: as the user gave it. load: gives the engine; called once at most.
        identity: what its log-probs are kept under; None: no cache. cache: where.
        switched: a context in which the engine computes the reference's numbers (an adapter switched off).

    Raises (on construction):
        UserError: as `load` does.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Engine],
        identity: Identity | None = None,
        cache: LogprobCache | None = None,
        switched: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.source = name
        self.engine = functools.cache(load)
        self.identity = identity
        self.cache = cache if identity is not None else None
        self.switched = switched
        self.cached_tokens = 0
        known = self.cache.shape(identity) if self.cache is not None and identity is not None else None
        self.shape = known or Shape(self.engine().vocabulary, self.engine().max_length)

    def logprobs(self, sequences: Sequence[NDArray[np.int64]], first: Sequence[int]) -> list[NDArray[np.float64]]:
        """log pi_ref of each sequence's tokens from its first position on, scored as one batch. Each float64, shape [t].

        `cached_tokens` counts the tokens (those before the first position included) whose batch was in the cache.
        """
        if self.cache is None or self.identity is None:
            return self._compute(sequences, first)
        counts = [len(ids) - start for ids, start in zip(sequences, first, strict=True)]
        key = self.identity.key(sequences, first)
        kept = self.cache.get(key, sum(counts))
        if kept is not None:
            self.cached_tokens += sum(len(ids) for ids in sequences)
            return [kept[start:end] for start, end in itertools.pairwise(np.cumsum([0, *counts]))]
        found = self._compute(sequences, first)
        self.cache.put(key, np.concatenate(found), self.identity, self.source, self.shape)
        return found

    def _compute(self, sequences: Sequence[NDArray[np.int64]], first: Sequence[int]) -> list[NDArray[np.float64]]:
        engine = self.engine()
        with self.switched():
            found = engine.score(sequences, first, frozenset({"logprob"}))
        out = []
        for tokens in found:
            assert tokens.logprob is not None
            out.append(tokens.logprob)
        return out


def reference_identity(weights: str, engine: str, options: LoadOptions, *, plain_head: bool = True) -> Identity | None:
    """What a reference's log-probs are kept under; None where that cannot be said (code that the checkpoint carries).

    Args:
        weights: its hash. plain_head: whether its output layer is one; an adapter's wrapper computes otherwise.
    """
    import torch

    if options.trust_remote_code:
        return None
    device = options.resolve_device()
    kernels = {
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "matmul": torch.get_float32_matmul_precision(),
        "head": f"{TILE_ROWS} x {tile_width(device)}" if plain_head else f"{HEAD_BLOCK} wrapped",
    }
    if device.type == "cuda":
        kernels["gpu"] = torch.cuda.get_device_name(device)
    else:
        kernels |= {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads())}
    if engine == "vllm":
        import vllm

        kernels |= {"vllm": vllm.__version__, "devices": f"{options.tensor_parallel} x {options.data_parallel}"}
    dtype = str(options.resolve_dtype()).removeprefix("torch.")
    return Identity(weights, engine, device.type, dtype, kernels)
