from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.miniature.decisions import decisions
from prmbench.miniature.solutions import CONNECTIVES, demonstrate
from prmbench.miniature.values import Values, true_advantages
from prmbench.miniature.world import Chain, World, draw_problem

WORLD = World()


@given(st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_both_ways_have_the_values_of_solutions_that_go_them(seed):
    """The way that a solution took has the value that `Values.of_tokens` gives it; another solution took the other way."""
    rng = random.Random(seed)
    problem = draw_problem(WORLD, rng, "train")
    values = Values(problem, WORLD)
    seen: dict[tuple[str, ...], dict[str, float]] = {}
    found = {}
    for _ in range(10):
        content = demonstrate(problem, WORLD, rng)
        tokens, after = values.of_tokens(content, "tagged")
        prefix = [token if token not in CONNECTIVES else "=" for token in tokens]
        for one in decisions(values, content):
            seen.setdefault(tuple(prefix[: one.at]), {})[tokens[one.at]] = after[one.at]
            found[tuple(prefix[: one.at])] = one
        # Where nothing is decided the value stays.
        moved = {i for i, step in enumerate(true_advantages(after, values.start)) if abs(step) > 1e-12}
        last = len(tokens) - 2  # the answer's number, which may differ from the result only in other solutions
        assert moved - {last} <= {one.at for one in decisions(values, content)}
    for prefix, ways in seen.items():
        one = found[prefix]
        assert one.gap > 0
        for token, value in ways.items():
            assert value == pytest.approx(one.values[0 if token == one.better else 1], abs=1e-12)
            assert token in (one.better, one.worse)


def test_a_decision_by_hand():
    """The last operation decides all: its right result is worth 1, its wrong one 0."""
    problem = Chain(7, (("+", 5),))
    values = Values(problem, WORLD)
    (one,) = decisions(values, demonstrate(problem, WORLD, random.Random(0)))
    fact = WORLD.fact(7, "+", 5)
    assert (one.at, one.better, one.worse, one.values) == (6, str(fact.right), str(fact.wrong), (1.0, 0.0))
    assert one.kind == ("misconception" if fact.error > 0.5 else "result")
