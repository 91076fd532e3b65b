from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.miniature.world import (
    INJECTED,
    TAGS,
    Chain,
    World,
    draw_problem,
    error_kind,
    first_wrong_step,
    inject,
    parse_problem,
    solve,
    with_format,
)

WORLD = World()
SEEDS = st.integers(0, 10**6)


def draw(seed):
    return draw_problem(WORLD, random.Random(seed), "train")


def test_hand_worked():
    problem = Chain(7, (("+", 5), ("*", 3), ("-", 9)))
    assert problem.text() == "start 7 then + 5 then * 3 then - 9"
    assert problem.values(WORLD) == [7, 12, 4, 11]  # 36 and -5 modulo 16
    steps = solve(problem, WORLD)
    assert steps == ["start 7", "7 + 5 = 12", "12 * 3 = 4", "4 - 9 = 11", "\\boxed{ 11 }"]
    assert with_format(steps, "tagged")[:2] == ["<assess> start 7", "<advance> 7 + 5 = 12"]


P = Chain(7, (("+", 5), ("*", 3), ("-", 9)))


@pytest.mark.parametrize(
    ("steps", "label", "kind"),
    [
        (["start 7", "7 + 5 = 12", "12 * 3 = 4", "4 - 9 = 11", "\\boxed{ 11 }"], -1, "none"),
        (["start 6", "6 + 5 = 11", "11 * 3 = 1", "1 - 9 = 8", "\\boxed{ 8 }"], 0, "wrong value carried"),
        (["start 7", "7 + 5 = 13", "13 * 3 = 7", "7 - 9 = 14", "\\boxed{ 14 }"], 1, "wrong result"),
        (["start 7", "7 + 5 = 12", "12 * 4 = 0", "0 - 9 = 7", "\\boxed{ 7 }"], 2, "wrong operand"),
        (["start 7", "7 + 5 = 12", "12 + 3 = 15", "15 - 9 = 6", "\\boxed{ 6 }"], 2, "wrong operator"),
        (["start 7", "7 + 5 = 12", "11 * 3 = 1", "1 - 9 = 8", "\\boxed{ 8 }"], 2, "wrong value carried"),
        (["start 7", "7 * 3 = 5", "5 - 9 = 12", "\\boxed{ 12 }"], 1, "skipped operation"),
        (["start 7", "7 + 5 = 12", "12 + 5 = 1", "1 * 3 = 3", "\\boxed{ 3 }"], 2, "repeated operation"),
        (["start 7", "7 + 5 = 12", "12 * 3 = 4", "4 - 9 = 11", "\\boxed{ 12 }"], 4, "wrong answer"),
        (["start 7", "7 + 5 = 12", "12 * 3 = 4", "\\boxed{ 4 }"], 3, "wrong answer"),
        (["start 7", "7 + 5 = 12", "12 * 3 = 4", "4 - 9 = 11"], 3, "malformed"),
        (["start 7", "7 plus 5", "12 * 3 = 4"], 1, "malformed"),
    ],
)
def test_the_checker(steps, label, kind):
    for form in ("plain", "tagged"):
        assert first_wrong_step(P, with_format(steps, form), WORLD) == label
        assert error_kind(P, with_format(steps, form), WORLD) == kind


@given(SEEDS)
@settings(max_examples=200, deadline=None)
def test_right_solutions_are_right_and_both_formats_say_the_same(seed):
    problem = draw(seed)
    steps = solve(problem, WORLD)
    assert first_wrong_step(problem, steps, WORLD) == -1
    tagged = with_format(steps, "tagged")
    assert all(step.startswith(TAGS) for step in tagged)
    assert with_format(tagged, "plain") == steps
    assert parse_problem(problem.text()) == problem
    assert WORLD.min_ops <= len(problem.operations) <= WORLD.max_ops


@given(SEEDS, st.sampled_from(INJECTED))
@settings(max_examples=500, deadline=None)
def test_an_injected_error_is_exactly_one_where_it_was_put(seed, kind):
    """Everything before the first wrong step is the right solution; what follows is consistent with the error."""
    problem = draw(seed)
    steps = inject(problem, kind, WORLD, random.Random(seed))
    if steps is None:
        return
    label = first_wrong_step(problem, steps, WORLD)
    right = solve(problem, WORLD)
    assert label > 0
    assert steps[:label] == right[:label]
    assert steps[label] != right[label]
    for step in steps[label + 1 : -1]:
        left, operator, operand, _, result = step.split()
        computed = str(WORLD.apply(int(left), operator, int(operand)))
        assert result == computed or kind == "cancelled"
    if kind == "cancelled":
        assert steps[-1] == right[-1]
        assert sum(not is_right(step) for step in steps[1:-1]) == 2
    elif kind in ("wrong result", "wrong operand", "wrong value carried"):
        assert error_kind(problem, steps, WORLD) in (kind, "skipped operation", "repeated operation")


def is_right(step):
    left, operator, operand, _, result = step.split()
    return WORLD.apply(int(left), operator, int(operand)) == int(result)


def test_splits_are_disjoint_and_fixed():
    drawn = {
        split: {draw_problem(WORLD, random.Random(i), split).text() for i in range(60)}
        for split in ("train", "validation", "test")
    }
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["validation"]
    assert all(parse_problem(text).split() == split for split, texts in drawn.items() for text in texts)


def test_what_is_no_problem():
    with pytest.raises(ValueError, match="not a problem"):
        parse_problem("start 7 then plus 5")


def test_knobs():
    world = World(modulus=5, min_ops=1, max_ops=2)
    problems = [draw_problem(world, random.Random(i), "train") for i in range(100)]
    assert {len(p.operations) for p in problems} == {1, 2}
    assert all(0 <= v < 5 for p in problems for v in p.values(world))
