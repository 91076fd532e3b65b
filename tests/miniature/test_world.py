from __future__ import annotations

import random
from collections import Counter

import pytest

from prmbench.miniature.world import (
    EASY_ERRORS,
    HARD_ERRORS,
    SPLITS,
    Chain,
    World,
    draw_problem,
    is_hard,
    parse_problem,
)

WORLD = World()


def test_hand_worked():
    problem = Chain(7, (("*", 5), ("-", 3), ("+", 9)))
    assert problem.text() == "start 7 a * 5 b - 3 c + 9"
    assert problem.answer(World(modulus=23)) == 18  # 35 = 12, 9, 18
    assert parse_problem(problem.text()) == problem


@pytest.mark.parametrize(
    "text",
    [
        "start 7 a plus 5",
        "start 7 b * 5",
        "start 7 a * 5 a * 3",
        "7 a * 5",
        "start 7 a * 5 ",
        "start 7 a * 5 then b",
        "",
    ],
)
def test_what_is_no_problem(text):
    with pytest.raises(ValueError, match="not a problem"):
        parse_problem(text)


def test_problems_are_as_the_world_says():
    problems = [draw_problem(WORLD, random.Random(i), "train") for i in range(2_000)]
    assert {len(p.operations) for p in problems} == {2, 3, 4, 5}
    operations = [one for p in problems for one in p.operations]
    assert sum(is_hard(*one) for one in operations) / len(operations) == pytest.approx(0.75, abs=0.02)
    assert all(parse_problem(p.text()) == p for p in problems)


def test_splits_are_disjoint_and_fixed():
    drawn = {
        split: {draw_problem(WORLD, random.Random(i), split).text() for i in range(60)}
        for split in ("train", "validation", "test")
    }
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["validation"]
    assert all(parse_problem(text).split() == split for split, texts in drawn.items() for text in texts)


@pytest.mark.parametrize(("right", "shares"), [(tuple(SPLITS), HARD_ERRORS), (tuple(range(10, 99)), EASY_ERRORS)])
def test_facts_are_got_wrong_at_the_rates_of_their_kind(right, shares):
    """Counted over worlds of many sizes, so that the hash is drawn often."""
    facts = [
        World(modulus).fact(left, "*", k) for modulus in range(40, 60) for left in range(modulus) for k in right[:40]
    ]
    counts = Counter(fact.error for fact in facts)
    assert set(counts) == {error for _, error in shares}
    for share, error in shares:
        assert counts[error] / len(facts) == pytest.approx(share, abs=0.03)
    assert all(fact.wrong != fact.right for fact in facts)
    assert all(sum(p for _, p in fact.results()) == pytest.approx(1) for fact in facts)


def test_split_operations_give_what_the_operation_gives():
    for operand, (factor, sign) in SPLITS.items():
        for value in range(WORLD.modulus):
            half = WORLD.apply(value, "*", factor)
            assert WORLD.apply(half, sign, value) == WORLD.apply(value, "*", operand)


def test_a_fact_is_the_same_wherever_it_is_asked():
    assert World().fact(7, "*", 5) is World().fact(7, "*", 5)
    assert World(23).fact(7, "*", 5).right == 12
