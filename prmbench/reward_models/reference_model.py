"""The reference model pi_ref of a log-ratio: its log-probs, from the cache where they are there."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.engines.hf.head import HEAD_BLOCK, TILE_ROWS, tile_width
from prmbench.engines.load import LoadOptions
from prmbench.engines.missing import run_missing
from prmbench.engines.processes import Share
from prmbench.engines.reference_cache import Identity, LogprobCache, Shape
from prmbench.engines.types import Engine


class ReferenceModel:
    """Gives log-probs of a reference.

    Its engine is loaded at once, unless the cache knows the very same reference. Then it is loaded when the first batch is
    missing, which may be never.

    Attributes:
        source: The reference as the user named it.
        engine: Gives the engine, which is loaded when it is first asked for.
        switched: A context in which the engine computes the numbers of the reference.
        shape: Vocabulary and positions of the reference.
        cached_tokens: Number of tokens, those of the prompts included, whose batch was in the cache.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Engine],
        identity: Identity | None = None,
        cache: LogprobCache | None = None,
        switched: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Look up the reference in the cache, or load it.

        Args:
            name: The reference as the user named it.
            load: Loads the engine; called once at most.
            identity: What its log-probs are kept under; None keeps none.
            cache: Where they are kept; None keeps none.
            switched: A context in which the engine computes the numbers of the reference, such as an adapter switched off.

        Raises:
            UserError: As `load` does.
        """
        self.source = name
        self.engine = functools.cache(load)
        self.switched = switched
        self.cached_tokens = 0
        self._cache = None if cache is None or identity is None else (cache, identity)
        known = self._cache and self._cache[0].shape(self._cache[1])
        self.shape = known or Shape(self.engine().vocabulary, self.engine().max_length)

    def logprobs(self, sequences: Sequence[NDArray[np.int64]], first: Sequence[int]) -> list[NDArray[np.float64]]:
        """Give log pi_ref of the tokens of some sequences, scored as one batch.

        Args:
            sequences: Token ids, each int64, shape [length].
            first: Position of the first token asked for in each sequence.

        Returns:
            One array a sequence. float64, shape [t].
        """
        if self._cache is None:
            return self._compute(sequences, first)
        cache, identity = self._cache
        counts = [len(ids) - start for ids, start in zip(sequences, first, strict=True)]
        key = identity.key(sequences, first)
        kept = cache.get(key, sum(counts))
        if kept is not None:
            self.cached_tokens += sum(len(ids) for ids in sequences)
            return [kept[start:end] for start, end in itertools.pairwise(np.cumsum([0, *counts]))]
        found = self._compute(sequences, first)
        cache.put(key, np.concatenate(found), identity, self.source, self.shape)
        return found

    def stop_caching(self) -> None:
        """Keep no log-probs from now on, and look none up: for batches that never come again."""
        self._cache = None

    def _compute(self, sequences: Sequence[NDArray[np.int64]], first: Sequence[int]) -> list[NDArray[np.float64]]:
        engine = self.engine()
        with self.switched():
            return logprobs_of(engine, sequences, first)


def logprobs_of(
    engine: Engine, sequences: Sequence[NDArray[np.int64]], first: Sequence[int]
) -> list[NDArray[np.float64]]:
    """Give the log-probs of the tokens of some sequences, scored as one batch.

    Args:
        engine: The engine that scores them.
        sequences: Token ids, each int64, shape [length].
        first: Position of the first token asked for in each sequence.

    Returns:
        One array a sequence. float64, shape [t].
    """
    found = [one.logprob for one in engine.score(sequences, first, frozenset({"logprob"}))]
    return [one for one in found if one is not None]


def reference_logprobs(
    reference: ReferenceModel,
    sequences: Sequence[NDArray[np.int64]],
    first: Sequence[int],
    *,
    batch_tokens: int,
    share: Share | None = None,
) -> list[NDArray[np.float64]]:
    """Give log pi_ref of many sequences in batches, the work shared between processes.

    Args:
        reference: The reference.
        sequences: Token ids, each int64, shape [length].
        first: Position of the first token asked for in each sequence.
        batch_tokens: Padded tokens of a batch.
        share: This process among those that share the work, each of which gets everything; None: it is the only one.

    Returns:
        One array a sequence. float64, shape [t].
    """
    found: list[tuple[int, NDArray[np.float64]]] = []

    def score(indices: Sequence[int]) -> None:
        found.extend(
            zip(indices, reference.logprobs([sequences[i] for i in indices], [first[i] for i in indices]), strict=True)
        )

    lengths = [len(ids) for ids in sequences]
    run_missing("reference log-probs", lengths, set(range(len(lengths))), batch_tokens, score, share=share)
    if share is not None and share.count > 1:
        from accelerate.utils import gather_object

        found = gather_object(found)
    return [logprobs for _, logprobs in sorted(found, key=lambda pair: pair[0])]


def reference_identity(
    weights: str,
    engine: str,
    options: LoadOptions,
    *,
    plain_head: bool = True,
    autocast: str | None = None,
    common: NDArray[np.int64] | None = None,
) -> Identity | None:
    """Say what the log-probs of a reference are kept under: everything that decides their bits.

    Args:
        weights: sha256 of its weights.
        engine: What computes them: ``hf`` or ``vllm``.
        options: Device, dtype and whether code that the checkpoint carries may run.
        plain_head: Whether its output layer is a plain one; the wrapper of an adapter computes otherwise.
        autocast: Type that it computes in under autocast; None where there is no autocast.
        common: Token ids that have a probability; None for all.

    Returns:
        The identity; None where it cannot be said, because code that the checkpoint carries may run.
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
    if common is not None:
        kernels["tokens"] = hashlib.sha256(common.tobytes()).hexdigest()
    if autocast is not None:
        kernels["autocast"] = autocast
    if options.attn_implementation is not None:
        kernels["attention"] = options.attn_implementation
    kernels |= {name: "yes" for name in ("padding_free", "liger") if getattr(options, name)}
    if device.type == "cuda":
        kernels["gpu"] = torch.cuda.get_device_name(device)
    else:
        kernels |= {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads())}
    if engine == "vllm":
        import vllm

        kernels |= {"vllm": vllm.__version__, "devices": f"{options.tensor_parallel} x {options.data_parallel}"}
    dtype = str(options.resolve_dtype()).removeprefix("torch.")
    return Identity(weights, engine, device.type, dtype, kernels)
