"""Batches with anything missing, run whole: a resumed run makes the same batches, and so the same numbers, as one never stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prmbench.engines.batching import BatchRunner
from prmbench.progress import progress


def run_missing(
    title: str,
    batches: Sequence[Sequence[int]],
    lengths: Sequence[int],
    missing: set[int],
    budget: int,
    work: Callable[[Sequence[int]], None],
    *,
    quiet: bool = False,
) -> int:
    """Work through the batches that hold something missing, a batch in pieces where it does not fit.

    Args:
        title, quiet: of the progress shown, in tokens. batches: positions in `lengths`, tokens of each sequence.
        missing: positions still to be done. budget: padded tokens of a batch. work: runs the sequences at some positions, and keeps
            what is new.

    Returns:
        Tokens run.
    """
    todo = [batch for batch in batches if missing & set(batch)]
    total, left = (sum(lengths[i] for batch in some for i in batch) for some in (batches, todo))
    runner = BatchRunner(budget)
    with progress(title, total, "tokens", done=total - left, quiet=quiet) as advance:

        def piece(indices: Sequence[int]) -> None:
            work(indices)
            advance(sum(lengths[i] for i in indices))

        for batch in todo:
            runner.run(batch, lengths, piece)
    return left
