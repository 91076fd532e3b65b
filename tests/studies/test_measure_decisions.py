from __future__ import annotations

import random

import numpy as np
import pytest

from prmbench.miniature.decisions import decisions
from prmbench.miniature.solutions import demonstrate
from prmbench.miniature.values import Values, true_advantages
from prmbench.miniature.world import World, draw_problem, is_hard
from prmbench.studies.measure_decisions import TELLING_GAP, TaggedSolution, _kinds, credit, moves, pearson

WORLD = World()


@pytest.fixture(scope="module")
def solutions():
    """Forty demonstrations, without token ids, which these functions do not look at."""
    rng, found = random.Random(3), []
    for _ in range(40):
        problem = draw_problem(WORLD, rng, "train")
        content = demonstrate(problem, WORLD, rng)
        values = Values(problem, WORLD)
        tokens, after = values.of_tokens(content, "tagged")
        kinds = _kinds(tokens, [is_hard(*operation) for operation in problem.operations])
        ids = np.zeros(len(tokens), dtype=np.int64)
        places = list(decisions(values, content))
        found.append(
            TaggedSolution(ids, 0, true_advantages(after, values.start), kinds, places, np.zeros((len(places), 2)))
        )
    return found


def test_true_advantages_as_td_agree_everywhere(solutions):
    ways = [np.array([place.values for place in one.decisions]) for one in solutions]
    sampled = [one.advantages for one in solutions]
    found = credit(solutions, (sampled, ways), [np.log(np.full(len(one.ids), 0.3)) for one in solutions])
    assert found["pearson"] == pytest.approx(1)
    for kind, figures in found["decisions"].items():
        assert (figures["agreement"], figures["n"] > 0) == (1, True), kind
        assert figures["pearson"] == pytest.approx(1)
    assert found["tokens"]["synonym"]["share"] == 0
    assert found["tokens"]["synonym"]["pearson"] is None
    shares = [figures["share"] for figures in found["tokens"].values()]
    assert sum(shares) == pytest.approx(1)
    assert [group["n"] > 0 for group in found["rare"][:2]] == [False, False]  # every token had 0.3


def test_td_is_counted_as_a_loop_counts_it(solutions):
    """Random TD against a loop over tokens and decisions; ties count half."""
    rng = np.random.default_rng(0)
    sampled = [rng.normal(size=len(one.ids)) for one in solutions]
    ways = [rng.integers(0, 3, size=(len(one.decisions), 2)).astype(float) for one in solutions]
    logprobs = [np.log(rng.uniform(size=len(one.ids))) for one in solutions]
    found = credit(solutions, (sampled, ways), logprobs)
    for kind, figures in found["decisions"].items():
        points = [
            1.0 if a > b else 0.5 if a == b else 0.0
            for one, mine in zip(solutions, ways, strict=True)
            for place, (a, b) in zip(one.decisions, mine, strict=True)
            if place.kind == kind and place.values[0] - place.values[1] >= TELLING_GAP
        ]
        assert figures["n"] == len(points)
        assert figures["agreement"] == pytest.approx(sum(points) / len(points))
    total = sum(abs(x) for td in sampled for x in td)
    for kind, figures in found["tokens"].items():
        mine = [
            x
            for td, one in zip(sampled, solutions, strict=True)
            for x, k in zip(td, one.kinds, strict=True)
            if k == kind
        ]
        assert figures["n"] == len(mine)
        assert figures["share"] == pytest.approx(sum(map(abs, mine)) / total)
    rare = [
        x
        for td, logs in zip(sampled, logprobs, strict=True)
        for x, log in zip(td, logs, strict=True)
        if np.exp(log) < 0.05
    ]
    everything = np.concatenate(sampled)
    assert found["rare"][0]["td"] == pytest.approx(np.mean(rare) / everything.std())


def test_moves_by_hand(solutions):
    """The second policy takes the better way with 0.8 wherever the first took it with 0.25 or with 0.75."""
    rng = np.random.default_rng(1)
    before, after, gains = [], [], {}
    for one in solutions:
        first = np.where(rng.uniform(size=len(one.decisions)) < 0.5, 0.25, 0.75)
        before.append(np.log(np.stack([first, 1 - first], axis=1) / 2))  # half of the mass goes to neither way
        after.append(np.log(np.tile([0.8, 0.2], (len(first), 1))))
        for place, p in zip(one.decisions, first, strict=True):
            name = f"{place.kind}, better {'likelier' if p > 0.5 else 'rarer'}"
            gains.setdefault(name, []).append((place.values[0] - place.values[1]) * (0.8 - p))
    tokens = [np.log(np.full(len(one.ids), share)) for share in (0.5,) for one in solutions]
    later = [np.log(np.where(one.kinds == "synonym", 0.9, 0.5)) for one in solutions]
    found = moves(solutions, (tokens, before), (later, after))
    assert set(found["decisions"]) == set(gains)
    for name, figures in found["decisions"].items():
        assert figures["n"] == len(gains[name])
        assert figures["before"] == pytest.approx(0.75 if name.endswith("likelier") else 0.25)
        assert figures["after"] == pytest.approx(0.8)
        assert figures["gain"] == pytest.approx(np.mean(gains[name]))
    assert found["tokens"] == pytest.approx({"choice": 0, "result": 0, "synonym": 0.4, "other": 0})


def test_the_kinds_of_tokens():
    hard = (
        "<simplify> a 7 * 4 = 5 \n\n <combine> a 5 + 7 gives 12 \n\n <advance> b 12 - 3 is 9 \n\n <answer> \\boxed{ 9 }"
    )
    kinds = _kinds(hard.split(" "), [True, False])
    named = {i: kind for i, kind in enumerate(kinds) if kind != "other"}
    assert named == {0: "choice", 5: "synonym", 6: "result", 13: "synonym", 14: "result", 21: "synonym", 22: "result"}


def test_a_constant_has_no_correlation():
    assert pearson(np.ones(3), np.arange(3.0)) is None
    assert pearson(np.arange(3.0), 2 * np.arange(3.0)) == pytest.approx(1)
