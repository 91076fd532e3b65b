from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.miniature.solutions import CONNECTIVES, FORMATS, SPLIT_SHARE, Part, demonstrate, write_steps
from prmbench.miniature.values import Values, true_advantages
from prmbench.miniature.world import SPLITS, Chain, World, draw_problem, is_hard

WORLD = World()


def brute_force(problem, value, done=0):
    """Follow every choice and every result to the end: no table, no state is shared."""
    if done == len(problem.operations):
        return float(value == problem.answer(WORLD))
    operator, operand = problem.operations[done]
    direct = sum(p * brute_force(problem, r, done + 1) for r, p in WORLD.fact(value, operator, operand).results())
    if not is_hard(operator, operand):
        return direct
    factor, sign = SPLITS[operand]
    split = sum(
        p * q * brute_force(problem, r, done + 1)
        for half, p in WORLD.fact(value, "*", factor).results()
        for r, q in WORLD.fact(half, sign, value).results()
    )
    return (1 - SPLIT_SHARE) * direct + SPLIT_SHARE * split


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_equal_to_following_every_path(seed):
    problem = draw_problem(World(max_ops=3), random.Random(seed), "train")
    assert Values(problem, WORLD).start == pytest.approx(brute_force(problem, problem.start), abs=1e-12)


@given(st.integers(0, 10**6), st.sampled_from(FORMATS))
@settings(max_examples=100, deadline=None)
def test_values_of_tokens_change_at_choices_and_results_and_end_in_the_verdict(seed, form):
    """A value changes at choices and results alone, stays within 0 and 1, and ends in what the verifier says."""
    rng = random.Random(seed)
    problem = draw_problem(WORLD, rng, "train")
    content = demonstrate(problem, WORLD, rng)
    values = Values(problem, WORLD)
    tokens, after = values.of_tokens(content, form)
    assert tokens == "\n\n".join(write_steps(content, form)).replace("\n\n", " \n\n ").split(" ")
    assert after.shape == (len(tokens),)
    assert after[-1] == float(content[1] == problem.answer(WORLD))
    assert ((after >= 0) & (after <= 1)).all()
    advantages = true_advantages(after, values.start)
    assert values.start + advantages.sum() == pytest.approx(after[-1])
    # Only choices and results change it.
    for i, (token, advantage) in enumerate(zip(tokens, advantages, strict=True)):
        chosen = token in ("<advance>", "<simplify>") or (form != "tagged" and i and tokens[i - 1] in ("*", "times"))
        if not chosen and not (i and tokens[i - 1] in CONNECTIVES):
            assert advantage == 0


def test_values_after_a_choice_and_a_result_average_to_the_value_before():
    """The exact expectation over the demonstrator's choices and results, at the first operation of a hand-made problem."""
    problem = Chain(7, (("*", 5), ("-", 3)))
    values = Values(problem, WORLD)
    found = 0.0
    for split in (False, True):
        for content, p in first_operation(problem, split):
            tokens, after = values.of_tokens(content, "tagged")
            cut = (
                tokens.index("b") - 1
            )  # the tag of the second operation, whose choice has no value of its own: it is easy
            found += p * (SPLIT_SHARE if split else 1 - SPLIT_SHARE) * after[cut - 1]
    assert found == pytest.approx(values.start, abs=1e-12)


def first_operation(problem, split):
    """All ways to carry out the first operation, each with its probability; the second operation is right."""

    def end(parts):
        value = parts[-1].result
        last = WORLD.apply(value, "-", 3)
        return [*parts, Part("b", value, "-", 3, "=", last, "advance")], last

    if not split:
        for result, p in WORLD.fact(7, "*", 5).results():
            yield end([Part("a", 7, "*", 5, "=", result, "advance")]), p
        return
    for half, p in WORLD.fact(7, "*", 4).results():
        for result, q in WORLD.fact(half, "+", 7).results():
            yield (
                end([Part("a", 7, "*", 4, "=", half, "simplify"), Part("a", half, "+", 7, "=", result, "combine")]),
                p * q,
            )


def test_monte_carlo():
    """The mean outcome of 4,000 demonstrations, within four standard errors."""
    rng = random.Random(5)
    for _ in range(5):
        problem = draw_problem(WORLD, rng, "train")
        value = Values(problem, WORLD).start
        hits = [demonstrate(problem, WORLD, rng)[1] == problem.answer(WORLD) for _ in range(4_000)]
        assert np.mean(hits) == pytest.approx(value, abs=4 * np.sqrt(max(value * (1 - value), 1e-3) / 4_000))


def test_choices_and_modes():
    rng = random.Random(1)
    problems = [draw_problem(WORLD, rng, "test") for _ in range(300)]
    mean = {
        name: np.mean([Values(p, WORLD, **kw).start for p in problems])
        for name, kw in {
            "demonstrator": {},
            "direct": {"split_share": 0.0},
            "split": {"split_share": 1.0},
            "best": {"split_share": None},
            "best mode": {"split_share": None, "modal": True},
        }.items()
    }
    assert mean["direct"] < mean["demonstrator"] < mean["split"] < mean["best"] < mean["best mode"] < 0.85
    assert Values(Chain(3, (("*", 5),)), WORLD, split_share=None, modal=True).start in (0.0, 1.0)
