"""Token-budget batches, and running them within the memory there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prmbench.errors import UserError


def default_batch_tokens(device: str) -> int:
    """Padded tokens of a scoring batch where nothing else is said: what suits a CPU, or a CUDA device.

    On a CPU larger batches win nothing, and their activations are so large that the allocator asks the system for each anew.
    """
    return 32_768 if device.startswith("cuda") else 1_024


def plan_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group sequences of similar length so that rows x longest stays within `budget` tokens.

    The plan depends on the lengths and the budget alone: a resumed run, or one on several processes, makes the same
    batches and so the same numbers. Longest first, so that a batch too large for the memory shows at the start.

    Args:
        lengths: token count of each sequence.
        budget: padded tokens a batch may hold; a sequence longer than that is a batch of its own.

    Returns:
        Lists of positions in `lengths`; every position once.
    """
    batches: list[list[int]] = []
    current: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if current and lengths[current[0]] * (len(current) + 1) > budget:
            batches.append(current)
            current = []
        current.append(index)
    return [*batches, current] if current else batches


class BatchRunner:
    """Runs batches within a token budget, halving the budget whenever memory runs out."""

    def __init__(self, budget: int) -> None:
        self.budget = budget

    def run(self, indices: Sequence[int], lengths: Sequence[int], score: Callable[[Sequence[int]], None]) -> None:
        """Call `score` on `indices`, in pieces where the whole does not fit.

        Args:
            lengths: token count of each sequence, by index.
            score: scores the sequences with these indices; may raise `torch.OutOfMemoryError`.

        Raises:
            UserError: one sequence alone does not fit.
        """
        if len(indices) > 1 and max(lengths[i] for i in indices) * len(indices) > self.budget:
            self._halves(indices, lengths, score)
            return
        try:
            score(indices)
            return
        except RuntimeError as error:
            import torch

            if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(indices) == 1:
            raise UserError(
                f"out of memory on a single sequence of {lengths[indices[0]]:,} tokens; "
                "use a smaller dtype (--dtype bfloat16) or a device with more memory"
            )
        self.budget = max(lengths[i] for i in indices) * len(indices) // 2
        self._halves(indices, lengths, score)

    def _halves(self, indices: Sequence[int], lengths: Sequence[int], score: Callable[[Sequence[int]], None]) -> None:
        middle = len(indices) // 2
        self.run(indices[:middle], lengths, score)
        self.run(indices[middle:], lengths, score)
