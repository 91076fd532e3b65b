"""The majority of a critic's votes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def vote(verdicts: Sequence[int | None]) -> int | None:
    """Find the most common verdict.

    Args:
        verdicts: One verdict for each text; None where a text holds none, which does not vote.

    Returns:
        The most common verdict, and of several equally common ones the first given; None when nothing votes.
    """
    most = Counter(verdict for verdict in verdicts if verdict is not None).most_common(1)
    return most[0][0] if most else None
