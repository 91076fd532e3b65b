"""Batches that hold something missing are run whole, so that a resumed run, or one of several processes, gives the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prmbench.engines.batching import BatchRunner, plan_batches
from prmbench.engines.processes import Share
from prmbench.progress import progress


def run_missing(
    title: str,
    lengths: Sequence[int],
    missing: set[int],
    budget: int,
    work: Callable[[Sequence[int]], None],
    *,
    share: Share | None = None,
    unit: str = "tokens",
    quiet: bool = False,
) -> int:
    """Work through this process's batches that hold something missing; a batch that does not fit is run in pieces.

    Batches are planned from all lengths, whatever is missing, and dealt to the processes in turn.

    Args:
        title: What the progress bar is called.
        lengths: Tokens of each sequence. Shape [n].
        missing: Positions in `lengths` that are still to be done.
        budget: Padded tokens of a batch.
        work: Runs the sequences at some positions, and keeps what is new.
        share: This process among those that share the work; None: it is the only one.
        unit: What the progress bar counts: tokens, or a name for the sequences.
        quiet: Whether no progress is shown.

    Returns:
        Tokens of the batches that were run.
    """
    share = share or Share()
    mine = plan_batches(lengths, budget)[share.rank :: share.count]
    todo = [batch for batch in mine if missing & set(batch)]

    def size(indices: Sequence[int]) -> int:
        return sum(lengths[i] for i in indices) if unit == "tokens" else len(indices)

    total, left = (sum(map(size, batches)) for batches in (mine, todo))
    runner = BatchRunner(budget)
    with progress(title, total, unit, done=total - left, quiet=quiet or not share.main) as advance:

        def piece(indices: Sequence[int]) -> None:
            work(indices)
            advance(size(indices))

        for batch in todo:
            runner.run(batch, lengths, piece)
    return sum(lengths[i] for batch in todo for i in batch)
