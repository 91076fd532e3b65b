"""Searches without models: a tree of tokens that is sampled or listed, and scorers that are tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prmbench.engines.sampling import uniforms
from prmbench.search.paths import Cost, Growth, Path, Task

Branches = Mapping[tuple[int, ...], Sequence[tuple[int, float]]]
"""By the tokens so far: what may follow, and how likely. Where nothing may follow, the response has ended."""


class TreeSampler:
    """Steps of one token, drawn from a tree by the stream's number at the token's position; or listed, one after the other."""

    def __init__(self, tree: Branches, *, seed: int = 0, listed: bool = False) -> None:
        self.tree, self.seed, self.listed = tree, seed, listed
        self.live: list[int] = []

    def begin(self, task: Task) -> Cost:
        return Cost()

    def grow(self, wanted: Sequence[tuple[Task, Growth]]) -> list[tuple[Path, Cost]]:
        turn: dict[tuple[str, bytes], int] = {}
        out = []
        for task, growth in wanted:
            path, spent = growth.parent, 0
            while not path.end and (growth.whole or not spent):
                at = tuple(path.ids.tolist())
                branches = self.tree[at]
                if self.listed:
                    k = turn.get((task.key, path.key), 0)
                    turn[task.key, path.key] = k + 1
                    token = branches[k % len(branches)][0]
                else:
                    number = uniforms(self.seed, task.key, growth.stream, len(at) + 1)[-1]
                    edges = np.cumsum([share for _, share in branches])
                    token = branches[int(np.searchsorted(edges / edges[-1], number, side="right"))][0]
                ids = np.append(path.ids, token)
                end = None if self.tree.get(tuple(ids.tolist())) else "stop"
                path = Path(ids, (*path.ends, len(ids)), growth.stream, end)
                spent += 1
            out.append((path, Cost(sampled=spent)))
        return out

    def keep(self, live: Sequence[tuple[Task, Path]]) -> None:
        self.live.append(len(live))


class TableScorer:
    """Scores that are a function of the tokens."""

    def __init__(self, score: Callable[[tuple[int, ...]], float]) -> None:
        self.function = score

    def begin(self, task: Task) -> Cost:
        return Cost()

    def score(self, grown: Sequence[tuple[Task, Path, Path]]) -> list[tuple[float, object, Cost]]:
        return [
            (self.function(tuple(path.ids.tolist())), None, Cost(scored=len(path.ids) - len(old.ids)))
            for _, old, path in grown
        ]

    def keep(self, live: Sequence[tuple[Task, Path]]) -> None:
        pass


def random_tree(rng: np.random.Generator, depth: int, width: int) -> dict[tuple[int, ...], list[tuple[int, float]]]:
    """A tree in which responses have 1 to `depth` tokens."""
    tree: dict[tuple[int, ...], list[tuple[int, float]]] = {}

    def fill(at: tuple[int, ...]) -> None:
        if len(at) == depth or (at and rng.random() < 0.3):
            return
        tree[at] = [(k, float(rng.uniform(0.1, 1))) for k in range(int(rng.integers(1, width + 1)))]
        for k, _ in tree[at]:
            fill((*at, k))

    fill(())
    return tree


def leaves(tree: Branches) -> dict[tuple[int, ...], float]:
    """Every whole response and how likely plain sampling gives it."""
    found: dict[tuple[int, ...], float] = {}

    def walk(at: tuple[int, ...], share: float) -> None:
        branches = tree.get(at)
        if not branches:
            found[at] = share
            return
        whole = sum(weight for _, weight in branches)
        for token, weight in branches:
            walk((*at, token), share * weight / whole)

    walk((), 1.0)
    return found
