"""Token-budget batches."""

from __future__ import annotations

from collections.abc import Sequence


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
