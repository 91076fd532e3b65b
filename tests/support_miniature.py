"""What tests of the miniature know about its formats besides the package."""

from __future__ import annotations


def step_of_parts(content, form):
    """Return the index of the step that each computation of a solution, and then the answer, stands in."""
    found: list[int] = []
    for part in content[0]:
        merged = form == "prose" and part.kind == "combine"
        found.append(found[-1] if merged else (found[-1] + 1 if found else 0))
    return [*found, found[-1] + 1 if found else 0]
