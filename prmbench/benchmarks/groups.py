"""Things in groups: those of one problem, of one subset, of one fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

Thing = TypeVar("Thing")
Key = TypeVar("Key", bound=Hashable)


def grouped(things: Iterable[Thing], key: Callable[[Thing], Key]) -> dict[Key, list[Thing]]:
    """Group things by a key.

    Args:
        things: The things.
        key: Gives the key of each.

    Returns:
        The things of each key; keys in the order of their first appearance, things as they came.
    """
    found: dict[Key, list[Thing]] = {}
    for one in things:
        found.setdefault(key(one), []).append(one)
    return found


def problem_of(one: Any) -> tuple[str, str]:
    """What names the problem of an item or a completion: its subset and its id.

    Args:
        one: The item or completion.
    """
    return one.subset, one.id
