"""Names beside each other: told apart where they are equal, and cut to what differs where room is short."""

from __future__ import annotations

import re
from collections.abc import Sequence

MISSING = "\N{HORIZONTAL ELLIPSIS}"


def distinct(names: Sequence[str], *finer: Sequence[str]) -> list[str]:
    """Tell equal names apart by what else is known of them.

    Args:
        names: The names.
        *finer: What is known of each, from what reads best on. Shape [n] each.

    Returns:
        The names in the same order. To those that are equal the first of `finer` that differs among them is added in brackets;
        where nothing differs, they stay equal.
    """
    found = list(names)
    for known in finer:
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(found):
            groups.setdefault(name, []).append(i)
        for name, members in groups.items():
            if len({known[i] for i in members}) > 1:
                for i in members:
                    found[i] = f"{name} ({known[i]})"
    return found


def differing(names: Sequence[str]) -> list[str]:
    """Cut off what all names begin and end with, in whole parts between hyphens, dots and the like.

    Args:
        names: The names, at least one.

    Returns:
        What is left of each, at least one part, with an ellipsis for what was cut off. Equal names stay as they are.
    """
    parts = [re.findall(r"[^-_/. ]+|[-_/. ]", name) for name in names]
    if len(set(names)) == 1:
        return list(names)
    room = min(map(len, parts)) - 1  # one part of each is kept
    start = 0
    while start < room and len({tuple(one[: start + 1]) for one in parts}) == 1:
        start += 1
    end = 0
    while end < room - start and len({tuple(one[len(one) - end - 1 :]) for one in parts}) == 1:
        end += 1
    return [
        (MISSING if start else "") + "".join(one[start : len(one) - end]).strip("-_/. ") + (MISSING if end else "")
        for one in parts
    ]
