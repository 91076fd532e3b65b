"""Exact labels of rollouts, and which rollouts are taken."""

from __future__ import annotations

import numpy as np
import pytest

from prmbench.data.rollouts import Rollout
from prmbench.data.verdicts import Verdict
from prmbench.miniature.world import World
from prmbench.studies.step_label_data import exact_labels, finished_by_problem
from prmbench.studies.step_label_settings import MODEL_LABELS, STEP_LABEL_MODELS

WORLD = World(modulus=16)
PROBLEM = "start 7 then + 5 then * 3"
RIGHT = ["<assess> start 7", "<advance> 7 + 5 = 12", "<advance> 12 * 3 = 4", "<answer> \\boxed{ 4 }"]


def rollout(steps, name="p", sample=0, finish_reason="stop"):
    text = "\n\n".join(steps)
    return Rollout(name, sample, PROBLEM, "4", text, np.array([5, 6]), finish_reason, Verdict.CORRECT)


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        (RIGHT, ["right"] * 4),
        ([*RIGHT[:1], "<advance> 7 + 5 = 13", *RIGHT[2:]], ["right", "wrong", None, None]),
        (["<assess> start 8", *RIGHT[1:]], ["wrong", None, None, None]),
        ([*RIGHT[:3], "<answer> \\boxed{ 5 }"], ["right", "right", "right", "wrong"]),
    ],
)
def test_exact_labels_end_at_the_first_wrong_step(steps, labels):
    found = exact_labels(rollout(steps), WORLD)
    assert (found["id"], found["steps"], found["labels"]) == ("p/0", steps, labels)


def test_rollouts_that_ended_and_have_no_blank_step():
    rollouts = [
        rollout(RIGHT, "a", 0),
        rollout(RIGHT, "a", 1, "length"),
        rollout([*RIGHT[:2], " ", *RIGHT[2:]], "a", 2),
        rollout(RIGHT, "b", 0),
        rollout([""], "c", 0),
        rollout(RIGHT, "b", 1),
    ]
    rollouts.sort(key=lambda one: one.id)
    assert [[(one.id, one.sample) for one in group] for group in finished_by_problem(rollouts)] == [
        [("a", 0)],
        [("b", 0), ("b", 1)],
    ]


def test_every_reward_model_has_a_name_on_the_page():
    assert {one.model for one in STEP_LABEL_MODELS.values()} == set(MODEL_LABELS)
    assert all(name == one.name for name, one in STEP_LABEL_MODELS.items())
