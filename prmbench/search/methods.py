"""The search methods: plain functions that ask for longer paths and get them scored.

A method is a generator. It yields what it wants to have grown, is sent the grown paths with their scores in that order, and returns
its candidates: paths that have ended. It knows nothing of models, so `prmbench.search.drive` runs many at once, and whatever else
runs beside a search does not change it.

**Random numbers.** The first continuation of a path goes on with the path's own stream; any other one gets a stream that nobody
had. The N paths at the start have the streams 0 to N - 1, as the samples of plain sampling have. So a search that never chooses is
plain sampling bit for bit.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prmbench.search.paths import ROOT, Growth, Path

Search = Generator[list[Growth], list[Path], list[Path]]
"""Yields what is to be grown, is sent the grown paths, returns the candidates."""


@dataclass(frozen=True)
class Setting:
    """What a search is told.

    Attributes:
        budget: N, the number of paths that grow side by side.
        width: M, how many continuations of a path there are (beam, dvts).
        temperature: Divides the scores that particles are drawn by; 0 takes the best, infinity draws evenly.
        seed: Seed of what particles draw.
        key: The problem's id, which that depends on too.
    """

    budget: int
    width: int = 4
    temperature: float = 1.0
    seed: int = 0
    key: str = ""


def best(paths: Sequence[Path]) -> int:
    """Find the path with the highest score; of equals that with the lowest stream.

    Args:
        paths: At least one path.

    Returns:
        Its position.
    """
    return max(range(len(paths)), key=lambda i: (paths[i].score, -paths[i].stream))


def ranked(paths: Sequence[Path]) -> list[Path]:
    """Order paths by score, the highest first; of equals that with the lowest stream.

    So a score that says nothing never prefers paths that end early.

    Args:
        paths: The paths.
    """
    return sorted(paths, key=lambda path: (-path.score, path.stream))


def samples(first: int, n: int) -> Search:
    """Sample responses to their ends.

    Args:
        first: The stream of the first one.
        n: How many.
    """
    return (yield [Growth(ROOT, stream, whole=True) for stream in range(first, first + n)])


def best_of_n(setting: Setting) -> Search:
    """Sample N responses to their ends.

    Args:
        setting: Its budget is N.
    """
    return (yield from samples(0, setting.budget))


def beam(setting: Setting) -> Search:
    """Beam search over steps.

    N paths grow by a step. Those that end are candidates and keep their places. Of the others the best 1 in M stay (one at least),
    and are continued in turn until all places are taken. It is over when N paths have ended. Of paths with the same tokens one is
    kept: the others would be continued in the same way.

    Source: Snell et al. 2024 (arXiv 2408.03314, Section 5.2), as search-and-learn runs it (``sal/search/beam_search.py``, with its
    ``n`` as N and its ``beam_width`` as M). That one gives the places of paths that have ended to the others, and stops when N have
    ended: it costs more than N samples, and a path that ends early is more likely to be among the N.

    Args:
        setting: Its budget is N, its width M.
    """
    n, streams = setting.budget, itertools.count(setting.budget)
    ended: list[Path] = []
    grown = yield [Growth(ROOT, stream) for stream in range(n)]
    while True:
        ended += [path for path in grown if path.end]
        left = n - len(ended)
        if not left:
            return ranked(ended)
        distinct: dict[bytes, Path] = {}
        for path in ranked([path for path in grown if not path.end]):
            distinct.setdefault(path.key, path)
        grown = yield continued(list(distinct.values())[: max(1, left // setting.width)], left, streams)


def continued(paths: Sequence[Path], n: int, streams: Iterator[int]) -> list[Growth]:
    """Continue paths in turn until there are n continuations. The first of each path has the path's stream.

    Args:
        paths: Paths that go on.
        n: How many continuations are wanted.
        streams: Gives streams that nobody had.
    """
    return [
        Growth(path, path.stream if i < len(paths) else next(streams))
        for i, path in zip(range(n), itertools.cycle(paths), strict=False)
    ]


def dvts(setting: Setting) -> Search:
    """Diverse verifier tree search: N / M beams, none of which looks at another.

    Each beam samples M continuations and goes on with the best one, until the best one has ended. All continuations of its last
    step that have ended are candidates.

    Source: Beeching, Tunstall and Rush 2024 ("Scaling test-time compute with open models"), as search-and-learn runs it
    (``sal/search/diverse_verifier_tree_search.py``).

    Args:
        setting: Its budget is N, its width M. Where M does not divide N, the first beams have one continuation more.
    """
    n = setting.budget
    beams = max(1, n // setting.width)
    widths = [n // beams + (i < n % beams) for i in range(beams)]
    # The first step: streams 0 to N - 1, those of a beam beside each other.
    streams = itertools.count(n)
    first = iter(range(n))
    wanted = {i: [Growth(ROOT, next(first)) for _ in range(width)] for i, width in enumerate(widths)}
    ended: list[Path] = []
    while wanted:
        grown = iter((yield [one for mine in wanted.values() for one in mine]))
        going: dict[int, list[Growth]] = {}
        for i, mine in wanted.items():
            paths = list(itertools.islice(grown, len(mine)))
            chosen = paths[best(paths)]
            if chosen.end:
                ended += [path for path in paths if path.end]
            else:
                going[i] = continued([chosen], widths[i], streams)
        wanted = going
    return ranked(ended)


def particles(setting: Setting) -> Search:
    """Particle filtering: N paths, of which N are drawn anew after every step, those that have ended among them.

    The chance of a path is the softmax of its score over the temperature. Paths that have ended keep their score. It is over when
    all have ended; of equally good ones any may be taken.

    Source: Puri et al. 2025 (arXiv 2502.01618, Algorithm 1), as its_hub runs it (``its_hub/algorithms/particle_gibbs.py``): the
    weight of a particle is the logit of its reward, and drawing is multinomial.

    Args:
        setting: Its budget is N; its temperature divides the scores; seed and key decide what is drawn.
    """
    n, streams = setting.budget, itertools.count(setting.budget)
    rng = np.random.default_rng([setting.seed, zlib.crc32(setting.key.encode()), 0x5EED])
    alive = yield [Growth(ROOT, stream) for stream in range(n)]
    while True:
        drawn = draw([path.score for path in alive], n, setting.temperature, rng)
        alive = [alive[i] for i in drawn]
        if all(path.end for path in alive):
            return sorted((alive[i] for i in rng.permutation(n)), key=lambda path: -path.score)
        # A path that was drawn several times goes on once with its own stream.
        seen: set[int] = set()
        wanted, places = [], []
        for place, (i, path) in enumerate(zip(drawn, alive, strict=True)):
            if not path.end:
                wanted.append(Growth(path, next(streams) if i in seen else path.stream))
                places.append(place)
                seen.add(i)
        for place, path in zip(places, (yield wanted), strict=True):
            alive[place] = path


def draw(scores: Sequence[float], n: int, temperature: float, rng: np.random.Generator) -> list[int]:
    """Draw positions with chances that are the softmax of the scores over a temperature.

    Args:
        scores: One score a path; minus infinity has no chance unless all have it.
        n: How many are drawn, with replacement.
        temperature: 0 draws among the best alone; infinity draws evenly.
        rng: Source of random numbers.

    Returns:
        The positions, in ascending order.
    """
    if len(scores) == 1:
        return [0] * n
    values = np.asarray(scores, dtype=np.float64)
    top = values.max()
    if not math.isfinite(top) or math.isinf(temperature):
        weights = np.where(values == top, 1.0, 0.0) if not math.isfinite(top) else (values > -np.inf) * 1.0
    elif temperature == 0:
        weights = (values == top) * 1.0
    else:
        weights = np.exp((values - top) / temperature)
    return sorted(rng.choice(len(values), size=n, p=weights / weights.sum()).tolist())


METHODS: dict[str, Callable[[Setting], Search]] = {
    "best-of-n": best_of_n,
    "weighted": best_of_n,
    "beam": beam,
    "dvts": dvts,
    "particles": particles,
}
"""The methods by name. ``weighted`` has the candidates of ``best-of-n`` and lets them vote."""
