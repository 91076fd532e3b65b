"""Batches within a budget of tokens, and running them within the memory there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prmbench.errors import UserError, argument


def default_batch_tokens(device: str) -> int:
    """Give the number of padded tokens of a scoring batch that suits a device.

    On a CPU larger batches win nothing, and their activations are so large that the allocator asks the system for each anew.

    Args:
        device: Name of a torch device.

    Returns:
        Padded tokens of a batch.
    """
    return 32_768 if device.startswith("cuda") else 1_024


def vllm_batch_tokens(device: str) -> int:
    """Give the number of padded tokens that vLLM is handed at once to score. It makes batches of its own from them.

    What is handed at once is written at once, so more would only lose more where a run stops.

    Args:
        device: Name of a torch device.

    Returns:
        Padded tokens.
    """
    return 65_536 if device.startswith("cuda") else 8_192


def plan_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group sequences of similar length so that rows times the longest row stays within a budget.

    The plan depends on the lengths and the budget alone: a resumed run, or one on several processes, makes the same
    batches and so the same numbers. The longest come first, so that a batch too large for the memory shows at the start.

    Args:
        lengths: Number of tokens of each sequence. Shape [n].
        budget: Padded tokens that a batch may hold. A sequence longer than that is a batch of its own.

    Returns:
        Lists of positions in `lengths`. Every position occurs once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class BatchRunner:
    """Runs batches within a budget of tokens, and halves the budget whenever memory runs out."""

    def __init__(self, budget: int) -> None:
        """Start with a budget.

        Args:
            budget: Padded tokens that a batch may hold.
        """
        self.budget = budget

    def run(self, indices: Sequence[int], lengths: Sequence[int], score: Callable[[Sequence[int]], None]) -> None:
        """Score some sequences, in pieces where the whole does not fit.

        Args:
            indices: Positions in `lengths` of the sequences of one batch.
            lengths: Number of tokens of each sequence. Shape [n].
            score: Scores the sequences at some positions. It may raise `torch.OutOfMemoryError`.

        Raises:
            UserError: One sequence alone does not fit.
        """
        longest = max(lengths[i] for i in indices)
        if len(indices) == 1 or longest * len(indices) <= self.budget:
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
                    f"out of memory on a single sequence of {longest:,} tokens; "
                    f"use a smaller type ({argument('dtype', 'bfloat16')}) or a device with more memory"
                )
            self.budget = longest * len(indices) // 2
        middle = len(indices) // 2
        for half in (indices[:middle], indices[middle:]):
            self.run(half, lengths, score)
