"""Running searches: many side by side, each step of all of them in one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from prmbench.search.methods import Search
from prmbench.search.paths import Cost, Growth, Path, Sampler, Scorer, Task


@dataclass
class Searched:
    """What a search came to.

    Attributes:
        candidates: Paths that have ended, the best first (of plain sampling: in the order of sampling).
        costs: What was spent: on the prompts, then in each round; of a round that runs paths to their ends, on each path.
        duplicates: Paths that grew into the very tokens of another one of the same round: they tell nothing new.
    """

    candidates: list[Path] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    duplicates: int = 0


def run_searches(
    searches: Sequence[tuple[Task, Search]],
    sampler: Sampler,
    scorer: Scorer,
) -> list[Searched]:
    """Run searches side by side.

    A round grows every path that any of the searches wants, then scores all of them. What a search gets depends on what it asks
    for alone.

    Args:
        searches: The searches, each of its own task.
        sampler: Grows paths.
        scorer: Scores them.

    Returns:
        What each came to, in order.
    """
    found = [Searched(costs=[sampler.begin(task) + scorer.begin(task)]) for task, _ in searches]
    wants: dict[int, list[Growth]] = {i: next(search) for i, (_, search) in enumerate(searches)}
    while wants:
        asked = [(i, growth) for i, mine in wants.items() for growth in mine]
        grown = _round([(searches[i][0], growth) for i, growth in asked], sampler, scorer)
        # Each search gets its own paths, and says what it wants next or has found.
        by_search: dict[int, list[tuple[Path, Cost]]] = {}
        for (i, _), one in zip(asked, grown, strict=True):
            by_search.setdefault(i, []).append(one)
        for i, mine in by_search.items():
            found[i].duplicates += len(mine) - len({path.key for path, _ in mine})
            costs = [cost for _, cost in mine]
            found[i].costs += costs if all(one.whole for one in wants[i]) else [sum(costs, Cost())]
            try:
                wants[i] = searches[i][1].send([path for path, _ in mine])
            except StopIteration as done:
                found[i].candidates = done.value
                del wants[i]
        live = [(searches[i][0], growth.parent) for i, mine in wants.items() for growth in mine]
        sampler.keep(live)
        scorer.keep(live)
    return found


def _round(wanted: Sequence[tuple[Task, Growth]], sampler: Sampler, scorer: Scorer) -> list[tuple[Path, Cost]]:
    """Grow paths and score them. Paths of one task with the same tokens are scored once, so that they have one score."""
    grown = sampler.grow(wanted)
    places: dict[tuple[int, bytes], int] = {}
    first: list[int] = []
    for i, ((task, _), (path, _)) in enumerate(zip(wanted, grown, strict=True)):
        if places.setdefault((id(task), path.key), len(first)) == len(first):
            first.append(i)
    scored = scorer.score([(wanted[i][0], wanted[i][1].parent, grown[i][0]) for i in first])
    out = []
    for i, ((task, _), (path, cost)) in enumerate(zip(wanted, grown, strict=True)):
        place = places[id(task), path.key]
        score, kept, spent = scored[place]
        longer = dataclasses.replace(path, score=score, kept=kept)
        out.append((longer, cost + spent if first[place] == i else cost))
    return out
