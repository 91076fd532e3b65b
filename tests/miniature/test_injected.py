from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.miniature.checker import error_kind, first_wrong_step, is_well_formed
from prmbench.miniature.injected import INJECTED, inject
from prmbench.miniature.solutions import write_steps
from prmbench.miniature.world import World, draw_problem

WORLD = World()


@given(st.integers(0, 10**6), st.sampled_from(INJECTED))
@settings(max_examples=600, deadline=None)
def test_an_injected_error_is_exactly_one_where_it_was_put(seed, kind):
    """Everything before the first wrong step is right; what follows is consistent with the error."""
    rng = random.Random(seed)
    problem = draw_problem(WORLD, rng, "train")
    content = inject(problem, kind, WORLD, rng)
    if content is None:
        return
    steps = write_steps(content, "tagged")
    label = first_wrong_step(problem, steps, WORLD)
    assert label >= 0
    wrong = [p for p in content[0] if p.result != WORLD.apply(p.left, p.operator, p.right)]
    assert len(wrong) == {"wrong result": 1, "cancelled": 2}.get(kind, 0)
    if kind == "cancelled":
        assert content[1] == problem.answer(WORLD)
    if kind in ("wrong result", "cancelled"):
        assert is_well_formed(problem, steps, WORLD)
    # What the checker calls it: an operation that is left out may look like another error where operations are alike.
    named = error_kind(problem, steps, WORLD)
    if kind in ("wrong result", "wrong operand", "wrong value carried", "repeated operation"):
        assert named == kind
    elif kind == "cancelled":
        assert named == "wrong result"
    else:
        assert named in ("skipped operation", "wrong answer")


def test_every_kind_is_made():
    rng = random.Random(0)
    problems = [draw_problem(WORLD, rng, "train") for _ in range(100)]
    for kind in INJECTED:
        assert sum(inject(problem, kind, WORLD, rng) is not None for problem in problems) > 20
