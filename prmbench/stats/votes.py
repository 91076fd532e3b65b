"""The majority of a critic's votes."""

from __future__ import annotations

from collections.abc import Sequence


def vote(verdicts: Sequence[int | None]) -> int | None:
    """The most common verdict, unparsed ones dropped before the vote; of several equally common ones the first given."""
    counts: dict[int, int] = {}
    for verdict in verdicts:
        if verdict is not None:
            counts[verdict] = counts.get(verdict, 0) + 1
    return max(counts, key=lambda v: counts[v]) if counts else None
