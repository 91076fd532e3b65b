"""Registries that users can add to: by a call, or by an entry point of an installed package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from prmbench.errors import UserError, first_line, nearest

Thing = TypeVar("Thing")


class Registry(Generic[Thing]):
    """Things of one sort by name.

    A built-in thing wins over a thing of the same name that a package brings, so that installing a package never changes a
    result. Things are imported when they are first asked for.

    Attributes:
        what: What one thing is called in messages, such as ``objective``.
        group: Entry point group in which installed packages name theirs.
    """

    def __init__(self, what: str, group: str, built_in: Mapping[str, Thing | str]) -> None:
        """Make a registry.

        Args:
            what: What one thing is called in messages, such as ``objective``.
            group: Entry point group in which installed packages name theirs, such as ``prmbench.objectives``.
            built_in: Our own things by name; a string ``module:attribute`` says where one is imported from.
        """
        self.what = what
        self.group = group
        self._found = {name: thing for name, thing in built_in.items() if not isinstance(thing, str)}
        self._built_in = {n: EntryPoint(n, where, group) for n, where in built_in.items() if isinstance(where, str)}

    def add(self, name: str, thing: Thing) -> None:
        """Make a thing known, in place of any other of its name.

        Args:
            name: What it is found by.
            thing: The thing itself.
        """
        self._found[name] = thing

    def names(self) -> list[str]:
        """Return all known names: built-in ones first, in the order in which they are listed there."""
        brought = (point.name for point in entry_points(group=self.group))
        return list(dict.fromkeys([*self._built_in, *self._found, *sorted(brought)]))

    def find(self, name: str) -> Thing:
        """Return the thing of a name, imported now if it was not before.

        Args:
            name: What it is found by.

        Returns:
            The thing.

        Raises:
            UserError: There is none of this name, or the package that brings it cannot be imported.
        """
        if name in self._found:
            return self._found[name]
        point = self._built_in.get(name)
        if point is not None:
            self._found[name] = point.load()
            return self._found[name]
        for point in entry_points(group=self.group, name=name):
            try:
                self._found[name] = point.load()
            except Exception as error:
                raise UserError(
                    f"{self.what} '{name}': its package cannot be imported from {point.value} "
                    f"({type(error).__name__}: {first_line(error)})"
                ) from error
            return self._found[name]
        known = self.names()
        raise UserError(f"{self.what} '{name}' is not known{nearest(name, known)}; known: {', '.join(known)}")
