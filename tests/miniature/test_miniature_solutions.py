from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_miniature import step_of_parts

from prmbench.miniature.solutions import (
    CONNECTIVES,
    FORMATS,
    TAGS,
    Answer,
    Part,
    demonstrate,
    log_probability,
    read_step,
    write_steps,
)
from prmbench.miniature.world import Chain, World, draw_problem

WORLD = World(modulus=23)
CONTENT = (
    [
        Part("a", 7, "*", 4, "=", 5, "simplify"),
        Part("a", 5, "+", 7, "gives", 12, "combine"),
        Part("b", 12, "-", 3, "is", 9, "advance"),
    ],
    9,
)


def test_one_content_in_three_formats():
    assert write_steps(CONTENT, "tagged") == [
        "<simplify> a 7 * 4 = 5",
        "<combine> a 5 + 7 gives 12",
        "<advance> b 12 - 3 is 9",
        "<answer> \\boxed{ 9 }",
    ]
    assert write_steps(CONTENT, "plain") == ["a 7 * 4 = 5", "a 5 + 7 gives 12", "b 12 - 3 is 9", "\\boxed{ 9 }"]
    assert write_steps(CONTENT, "prose") == ["7 times 4 = 5 and 5 plus 7 gives 12", "12 minus 3 is 9", "\\boxed{ 9 }"]
    assert step_of_parts(CONTENT, "tagged") == [0, 1, 2, 3]
    assert step_of_parts(CONTENT, "prose") == [0, 0, 1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "7 times 4",
        "<advance> a 7 * 4 = 5 and a 5 + 7 = 12",
        "<answer> a 7 * 4 = 5",
        "<advance> \\boxed{ 9 }",
        "a 7 * 4 = x",
        "",
        "<advance>",
        "a 7 * 4 = 5 a",
        "7 times 4 = 5 and 5 plus 7 = 12 and 1 plus 1 = 2",
    ],
)
def test_malformed(text):
    assert read_step(text) is None


def test_synonyms_tags_and_answers_are_read():
    assert read_step("<answer> \\boxed{ 9 }") == read_step("\\boxed{ 9 }") == Answer(9)
    for link in CONNECTIVES:
        assert read_step(f"<advance> a 7 * 5 {link} 12") == [Part("a", 7, "*", 5, link, 12, "advance")]


@given(st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read_again(seed):
    rng = random.Random(seed)
    content = demonstrate(draw_problem(WORLD, rng, "train"), WORLD, rng)
    for form in FORMATS:
        steps = write_steps(content, form)
        read = [read_step(step) for step in steps]
        assert read[-1] == Answer(content[1])
        parts = [part for step in read[:-1] for part in step]
        assert [(p.left, p.operator, p.right, p.link, p.result) for p in parts] == [
            (p.left, p.operator, p.right, p.link, p.result) for p in content[0]
        ]
        places = step_of_parts(content, form)
        assert [i for i, step in enumerate(read[:-1]) for _ in step] == places[:-1]
        assert places[-1] == len(steps) - 1
    assert all(step.startswith(TAGS) for step in write_steps(content, "tagged"))


def test_probabilities_of_all_solutions_add_up_to_one():
    """Every solution of a problem of one hard operation, by all choices, synonyms and results."""
    problem, found = Chain(7, (("*", 5),)), {}
    rng = random.Random(0)
    for _ in range(20_000):
        content = demonstrate(problem, WORLD, rng)
        key = (*content[0], content[1])
        found[key] = (found.get(key, (0, 0.0))[0] + 1, log_probability(problem, content, WORLD))
    # Direct: 2 results x 5 synonyms; split: (2 x 5) squared, as far as drawn.
    assert sum(math.exp(lp) for _, lp in found.values()) == pytest.approx(1, abs=0.01)
    for count, lp in sorted(found.values(), reverse=True)[:10]:
        assert count / 20_000 == pytest.approx(math.exp(lp), abs=0.015)


def test_right_solutions_state_every_fact_right():
    rng = random.Random(3)
    for _ in range(100):
        problem = draw_problem(WORLD, rng, "train")
        parts, answer = demonstrate(problem, WORLD, rng, right=True)
        assert answer == problem.answer(WORLD)
        assert all(p.result == WORLD.apply(p.left, p.operator, p.right) for p in parts)
