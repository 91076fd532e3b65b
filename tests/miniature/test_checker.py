from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_miniature import step_of_parts

from prmbench.miniature.checker import error_kind, first_wrong_step, is_well_formed, read_content
from prmbench.miniature.solutions import FORMATS, demonstrate, write_steps
from prmbench.miniature.world import Chain, World, draw_problem

WORLD = World(modulus=23)
P = Chain(7, (("*", 5), ("-", 3), ("*", 9)))
END = ["<advance> c 9 * 9 = 12", "<answer> \\boxed{ 12 }"]


@pytest.mark.parametrize(
    ("steps", "label", "kind"),
    [
        (["<advance> a 7 * 5 = 12", "<advance> b 12 - 3 is 9", *END], -1, "none"),
        (["<simplify> a 7 * 4 = 5", "<combine> a 5 + 7 = 12", "<advance> b 12 - 3 is 9", *END], -1, "none"),
        (["<advance> a 7 * 5 = 13", "<advance> b 13 - 3 is 10"], 0, "wrong result"),
        (["<simplify> a 7 * 4 = 6", "<combine> a 6 + 7 = 13"], 0, "wrong result"),
        (["<simplify> a 7 * 4 = 5", "<combine> a 5 + 7 = 13"], 1, "wrong result"),
        (["<simplify> a 7 * 4 = 5", "<combine> a 6 + 7 = 13"], 1, "wrong value carried"),
        (["<simplify> a 7 * 4 = 5", "<combine> a 5 + 8 = 13"], 1, "wrong value carried"),
        (["<simplify> a 7 * 4 = 5", "<combine> a 5 - 7 = 21"], 1, "wrong operator"),
        (["<simplify> a 7 * 4 = 5", "<advance> b 5 - 3 = 2"], 1, "skipped operation"),
        (["<combine> a 5 + 7 = 12"], 0, "malformed"),
        (["<advance> a 6 * 5 = 7"], 0, "wrong value carried"),
        (["<advance> a 7 * 6 = 19"], 0, "wrong operand"),
        (["<advance> a 7 - 5 = 2"], 0, "wrong operator"),
        (["<advance> b 7 - 3 = 4"], 0, "skipped operation"),
        (["<advance> a 7 * 5 = 12", "<advance> a 12 * 5 = 14"], 1, "repeated operation"),
        (
            ["<advance> a 7 * 5 = 12", "<advance> b 12 - 3 is 9", END[0], "<advance> c 12 * 9 = 16"],
            3,
            "repeated operation",
        ),
        (["<advance> a 7 * 5 = 12", "<advance> b 12 - 3 is 9", END[0], "<answer> \\boxed{ 9 }"], 3, "wrong answer"),
        (["<advance> a 7 * 5 = 12", "<answer> \\boxed{ 12 }"], 1, "wrong answer"),
        (["<simplify> a 7 * 4 = 5", "<answer> \\boxed{ 5 }"], 1, "wrong answer"),
        (["<advance> a 7 * 5 = 12", "<advance> b 12 - 3 is 9", *END, "<answer> \\boxed{ 12 }"], 4, "malformed"),
        (["<advance> a 7 * 5 = 12", "<advance> b 12 - 3 is 9", END[0]], 2, "malformed"),
        (["<advance> a 7 times"], 0, "malformed"),
        (["<advance> d 7 * 5 = 12"], 0, "malformed"),
        (["7 times 4 = 5 and 5 plus 7 is 12", "12 minus 3 is 9", "9 times 9 = 12", "\\boxed{ 12 }"], -1, "none"),
        (["7 times 4 = 5 and 5 plus 7 is 13", "13 minus 3 is 10"], 0, "wrong result"),
        (["7 times 5 = 12", "12 times 9 is 16"], 1, "skipped operation"),
        (["7 times 5 = 12", "12 times 5 is 14"], 1, "repeated operation"),
        (["7 times 5 = 12", "12 minus 4 is 8"], 1, "wrong operand"),
    ],
)
def test_hand_worked(steps, label, kind):
    assert (first_wrong_step(P, steps, WORLD), error_kind(P, steps, WORLD)) == (label, kind)


@given(st.integers(0, 10**6))
@settings(max_examples=300, deadline=None)
def test_formats_agree_and_the_first_wrong_fact_is_the_first_wrong_step(seed):
    rng = random.Random(seed)
    problem = draw_problem(WORLD, rng, "train")
    content = demonstrate(problem, WORLD, rng)
    wrong = [i for i, p in enumerate(content[0]) if p.result != WORLD.apply(p.left, p.operator, p.right)]
    for form in FORMATS:
        steps = write_steps(content, form)
        assert first_wrong_step(problem, steps, WORLD) == (step_of_parts(content, form)[wrong[0]] if wrong else -1)
        assert error_kind(problem, steps, WORLD) == ("wrong result" if wrong else "none")
        assert is_well_formed(problem, steps, WORLD)
    for form in ("tagged", "plain"):
        assert read_content(problem, write_steps(content, form)) == content
    assert read_content(problem, write_steps(content, "prose")) is None


def test_what_is_not_well_formed():
    assert not is_well_formed(P, ["<advance> a 7 * 5 = 13", "<advance> b 12 - 3 is 9", *END], WORLD)
    assert not is_well_formed(P, ["<advance> a 7 * 5 = 12"], WORLD)
    assert read_content(P, []) is None
    assert read_content(P, ["<advance> a 7 * 5 = 12"]) is None


RIGHT = ["<advance> a 7 * 5 = 12", "<advance> b 12 - 3 is 9", *END]


@pytest.mark.parametrize("more", ["<answer> \\boxed{ 12 }", "<answer> \\boxed{ 1 }", "<advance> c 12 * 9 = 16", "so"])
def test_what_follows_the_answer_is_wrong_and_the_answer_is_not(more):
    assert first_wrong_step(P, RIGHT, WORLD) == -1
    assert (first_wrong_step(P, [*RIGHT, more], WORLD), error_kind(P, [*RIGHT, more], WORLD)) == (4, "malformed")


@pytest.mark.parametrize("step", [f"<advance> a 7 * 5 = {'9' * 5000}", "<advance> a \u0667 * 5 = 12", ""])
def test_what_no_solution_has_is_malformed(step):
    assert (first_wrong_step(P, [step], WORLD), error_kind(P, [step], WORLD)) == (0, "malformed")


def test_no_solution_at_all_is_not_right():
    assert (first_wrong_step(P, [], WORLD), error_kind(P, [], WORLD)) == (0, "malformed")
