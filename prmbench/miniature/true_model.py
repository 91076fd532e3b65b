"""The miniature's true values as a reward model: the score of a step is the logit of the chance to end right after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.miniature.checker import count_called_for
from prmbench.miniature.solutions import Answer, Content, Part, read_step
from prmbench.miniature.values import Values
from prmbench.miniature.world import Chain, World, parse_problem
from prmbench.reward_models.base import LoadRequest, RewardModel, StepScores
from prmbench.reward_models.card import Card

SURE = 1e-6
"""Values are kept this far from 0 and 1, so that their logits are finite."""


@dataclass(frozen=True)
class StepTrace(EncodedTrace):
    """A trace with its text.

    Attributes:
        problem: The problem's text.
        steps: The texts of the steps.
    """

    problem: str
    steps: tuple[str, ...]

    def step_counts(self) -> NDArray[np.int64]:
        """Count the words of each step, which are its tokens. Shape [n_steps]."""
        return np.array([len(step.split()) for step in self.steps], dtype=np.int64)


class TrueValueModel(RewardModel):
    """Scores the steps of tagged solutions with the logit of their true value for someone who writes as demonstrations do.

    After a step that the problem does not call for the value is 0: nothing is known of what would follow. No weights are run, so
    it costs no operations.

    Attributes:
        encoder: The policy's encoder, which says how solutions are cut into steps.
        world: The problems' world.
    """

    kind = "true values"
    step_valued = True
    own_layout = True
    encoder: TraceEncoder

    def __init__(self, world: World, encoder: TraceEncoder) -> None:
        """Take the world.

        Args:
            world: The problems' world.
            encoder: The policy's encoder, which says how solutions are cut into steps.
        """
        self.world, self.encoder, self.card = world, encoder, Card(kind=self.kind, prompt="bare")
        self.vocabulary, self.max_length = len(encoder.tokenizer), None
        self.hashes, self.facts, self.source = {}, {}, "true values"

    @classmethod
    def load(cls, request: LoadRequest) -> RewardModel:
        """Load nothing: there is no checkpoint of true values.

        Args:
            request: Not used.
        """
        raise NotImplementedError("true values have no checkpoint")

    def device_and_dtype(self) -> tuple[str, str]:
        """Return where it computes: on the processor, in float64."""
        return "cpu", "float64"

    def decoders(self) -> list[Any]:
        """Nothing is run. See `RewardModel.decoders`."""
        return []

    def encode(self, problem: str, steps: Sequence[str]) -> StepTrace:
        """Keep the text of a trace. See `RewardModel.encode`.

        Args:
            problem: Text of the problem alone.
            steps: Texts of the steps.
        """
        ids = self.encoder.text_ids(self.encoder.options.separator.join(steps))
        return StepTrace(ids, 0, np.zeros(len(ids), dtype=np.int64), len(steps), problem, tuple(steps))

    def score(self, batch: Sequence[EncodedTrace]) -> list[StepScores]:
        """Give the logit of the true value after each step. See `RewardModel.score`.

        Args:
            batch: The traces, from `encode`.
        """
        found = []
        for trace in batch:
            assert isinstance(trace, StepTrace)
            values = values_after(parse_problem(trace.problem), trace.steps, self.world)
            clipped = np.clip(values, SURE, 1 - SURE)
            found.append(StepScores(trace.step_counts(), scores=np.log(clipped) - np.log1p(-clipped)))
        return found


def values_after(problem: Chain, steps: Sequence[str], world: World) -> NDArray[np.float64]:
    """Return the true value after each step of a tagged solution, finished or not.

    Args:
        problem: The problem.
        steps: The steps.
        world: The problem's world.

    Returns:
        Values from 0 to 1. From the first step on that the problem does not call for they are 0, but that of an answer at the end
        is 1 where it is right. Shape [n_steps].
    """
    values, found = Values(problem, world), np.zeros(len(steps))
    parts: list[Part] = []
    for i, text in enumerate(steps[: count_called_for(problem, steps, world)]):
        step = read_step(text)
        if not isinstance(step, list) or step[0].kind is None:
            break
        parts += step
        found[i] = value_of(values, parts)
    last = read_step(steps[-1]) if steps else None
    if isinstance(last, Answer):
        found[-1] = float(last.value == problem.answer(world))
    return found


def value_of(values: Values, parts: Sequence[Part]) -> float:
    """Return the true value after some computations that the problem calls for.

    Args:
        values: The problem's values.
        parts: The computations, at least one.
    """
    content: Content = (list(parts), 0)
    _, after = values.of_tokens(content, "tagged")
    return float(after[-5])  # the answer's tag, box, number and end follow, and a separator comes before them
