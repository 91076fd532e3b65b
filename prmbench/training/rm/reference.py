"""Log-probs of the reference, computed once before training and kept in the output folder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.tokens import ids_hash
from prmbench.engines.batching import BatchRunner, plan_batches
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.processes import Share
from prmbench.progress import progress
from prmbench.results.schema import digest
from prmbench.training.data.pairs import Response

Floats = NDArray[np.float32]


def reference_logprobs(
    engine: HFEngine,
    weights_hash: str,
    responses: Sequence[Response],
    folder: Path,
    *,
    autocast: AbstractContextManager[Any],
    batch_tokens: int,
    share: Share,
) -> list[Floats]:
    """log pi_ref of every response token, from the folder where it is there, else computed and kept there.

    Several processes compute a share each. The file is named after the weights, the token ids, the types and the batches, so
    that anything else misses it.

    Returns:
        One float32 array a response, shape [t].
    """
    lengths = [len(response) for response in responses]
    name = digest(
        [
            weights_hash,
            ids_hash(r.ids for r in responses),
            *engine.device_and_dtype(),
            str(type(autocast)),
            batch_tokens,
        ]
    )[:16]
    counts = [len(r) - r.n_prompt for r in responses]
    edges = np.cumsum([0, *counts])
    paths = [folder / f"reference-{name}-{rank}of{share.count}.npy" for rank in range(share.count)]
    mine = paths[share.rank]
    if not all(path.exists() for path in paths):
        share.wait()
        values = np.zeros(edges[-1], dtype=np.float32)
        batches = plan_batches(lengths, batch_tokens)[share.rank :: share.count]
        runner = BatchRunner(batch_tokens)

        def score(indices: Sequence[int]) -> None:
            batch = [responses[i] for i in indices]
            with autocast:
                found = engine.score([r.ids for r in batch], [r.n_prompt for r in batch], frozenset({"logprob"}))
            for i, one in zip(indices, found, strict=True):
                assert one.logprob is not None
                values[edges[i] : edges[i + 1]] = one.logprob
            advance(sum(lengths[i] for i in indices))

        total = sum(lengths[i] for batch in batches for i in batch)
        with progress("reference log-probs", total, "tokens", quiet=not share.main) as advance:
            for batch in batches:
                runner.run(batch, lengths, score)
        folder.mkdir(parents=True, exist_ok=True)
        partial = mine.with_suffix(f".{share.rank}.tmp.npy")
        np.save(partial, values, allow_pickle=False)
        partial.rename(mine)
    share.wait()
    whole = np.stack([np.load(path, allow_pickle=False) for path in paths]).sum(axis=0, dtype=np.float32)
    return [whole[start:end] for start, end in itertools.pairwise(edges)]
