"""True values as a reward model."""

from __future__ import annotations

import random

import numpy as np
import pytest

from prmbench.data.prompts import find_prompt
from prmbench.miniature.backbones import save_untrained
from prmbench.miniature.build import PROMPT, SEPARATOR
from prmbench.miniature.solutions import Answer, demonstrate, read_step, write_steps
from prmbench.miniature.true_model import SURE, TrueValueModel, values_after
from prmbench.miniature.values import Values
from prmbench.miniature.world import World, draw_problem
from prmbench.policies.policy import load_policy


def solutions(n: int, seed: int = 0):
    world, rng = World(), random.Random(seed)
    for _ in range(n):
        problem = draw_problem(world, rng, "test")
        yield world, problem, demonstrate(problem, world, rng)


def test_values_after_steps_are_those_after_their_last_tokens():
    for world, problem, content in solutions(40):
        steps = write_steps(content, "tagged")
        tokens, after = Values(problem, world).of_tokens(content, "tagged")
        ends = [i - 1 for i, token in enumerate(tokens) if token == SEPARATOR] + [len(tokens) - 1]
        np.testing.assert_allclose(values_after(problem, steps, world), after[ends], atol=1e-12)
        for n in range(len(steps)):
            np.testing.assert_allclose(values_after(problem, steps[:n], world), after[ends][:n], atol=1e-12)


def test_a_value_is_the_share_of_demonstrations_that_end_right():
    world, problem, content = next(solutions(1, seed=5))
    steps = write_steps(content, "tagged")[:1]
    (value,) = values_after(problem, steps, world)
    rng, right, n = random.Random(1), 0, 0
    while n < 2_000:
        other = demonstrate(problem, world, rng)
        part = read_step(write_steps(other, "tagged")[0])[0]
        if (part.kind, part.result) == (content[0][0].kind, content[0][0].result):
            n += 1
            right += other[1] == problem.answer(world)
    assert value == pytest.approx(right / n, abs=0.04)


def test_what_is_not_called_for_has_no_value():
    for world, problem, content in solutions(20, seed=2):
        steps = write_steps(content, "tagged")
        found = values_after(problem, [steps[0], "nonsense", *steps[1:]], world)
        assert found[0] == values_after(problem, steps, world)[0]
        assert not found[1:-1].any()
        assert isinstance(read_step(steps[-1]), Answer)
        assert found[-1] == (content[1] == problem.answer(world))
        assert not values_after(problem, steps[1:-1], world).any()
    assert len(values_after(problem, [], world)) == 0


def test_scores_are_logits_and_cost_nothing(tmp_path):
    policy = load_policy(str(save_untrained(tmp_path / "untrained", "llama-small", World(), 0)), find_prompt(PROMPT))
    world, problem, content = next(solutions(1, seed=3))
    model = TrueValueModel(world, policy.encoder)
    steps = write_steps(content, "tagged")
    (found,) = model.score([model.encode(problem.text(), steps)])
    chances = 1 / (1 + np.exp(-found.scores))
    np.testing.assert_allclose(chances, np.clip(values_after(problem, steps, world), SURE, 1 - SURE), atol=1e-9)
    assert found.n_tokens.tolist() == [len(step.split()) for step in steps]
    assert model.decoders() == []
    assert "true values" in repr(model)
