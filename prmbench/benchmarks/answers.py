"""Answer classes: which completions of a problem give the same answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from prmbench.errors import UserError, printable


def check_answers(path: Path, items: Collection[Any]) -> None:
    """Refuse an answer class that its problem's completions cannot have: there are no more classes than completions.

    Args:
        path: The items file, for errors.
        items: Items, each with subset, id, sample and answer.

    Raises:
        UserError: Such a class; the item is named.
    """
    counts = Counter((item.subset, item.id) for item in items)
    for item in items:
        if item.answer >= (n := counts[item.subset, item.id]):
            raise UserError(
                f"{path}: sample {item.sample} of '{printable(item.id)}': field 'answer' is {item.answer:,}; expected one below "
                f"the problem's {n:,} completions, or -1"
            )
