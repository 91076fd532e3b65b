"""A language model as critic: it says which paragraph is the first wrong one, by one vote or by the majority of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.critic_prompt import critic_prompt
from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.types import Engine
from prmbench.errors import UserError
from prmbench.reward_models.base import EngineRewardModel, StepScores
from prmbench.reward_models.card import Card, Generation
from prmbench.reward_models.generation import room_for, write
from prmbench.verify.extract import parse_verdict


@dataclass(frozen=True)
class CriticTrace(EncodedTrace):
    """The prompt that shows a trace to a critic.

    Attributes:
        counts: Number of tokens of each step's own text. int64, shape [n_steps].
        room: Number of tokens that a verdict may have.
    """

    counts: NDArray[np.int64]
    room: int

    def __len__(self) -> int:
        """Return the number of tokens of the prompt and the longest verdict."""
        return len(self.ids) + self.room

    def step_counts(self) -> NDArray[np.int64]:
        """Return the number of tokens of each step's own text. int64, shape [n_steps]."""
        return self.counts


class CriticRewardModel(EngineRewardModel):
    """The generative protocol of ProcessBench: paragraphs indexed from 0, the last boxed number is the verdict.

    Its votes are predictions, not scores: no threshold is chosen. `prmbench.stats.votes.vote` counts them.

    Attributes:
        encoder: What turns a message into token ids.
    """

    predicts = True
    reads = frozenset({"generation"})
    own_layout = True
    encoder: TraceEncoder

    def __init__(self, model: Engine, encoder: TraceEncoder, card: Card) -> None:
        """Take what was loaded.

        Args:
            model: The engine that holds the language model.
            encoder: What turns a message into token ids.
            card: The card, with the user's settings over it.

        Raises:
            UserError: The card asks for no vote.
        """
        super().__init__(model, encoder, card)
        self.generation = card.generation or Generation()
        if self.generation.n < 1:
            raise UserError("generation.n: 0; a critic needs at least one vote (n 1)")
        self.batch_tokens = 16_384 if model.name == "hf" else 1_000_000  # the others make their own batches
        self.stop = frozenset({encoder.end_of_turn, *model.eos_ids()})

    def encode_trace(self, problem: str, steps: Sequence[str]) -> CriticTrace:
        """Make the prompt that shows a trace. See `RewardModel.encode_trace`.

        Args:
            problem: Text of the problem.
            steps: Texts of the steps.
        """
        ids = self.encoder.prompt_ids(critic_prompt(problem, steps))
        counts = np.array([len(self.encoder.text_ids(step)) for step in steps], dtype=np.int64)
        none = np.zeros(0, dtype=np.int64)
        room = room_for(len(ids), self.max_length, self.generation)
        return CriticTrace(ids, len(ids), none, len(steps), counts=counts, room=room)

    def score(self, batch: Sequence[EncodedTrace]) -> list[StepScores]:
        """Give votes instead of scores. See `RewardModel.score`.

        Args:
            batch: The traces, from `encode`.
        """
        traces = [trace for trace in batch if isinstance(trace, CriticTrace)]
        votes: list[list[int | None]] = [[] for _ in traces]
        prompts, rooms = [trace.ids for trace in traces], [trace.room for trace in traces]
        for sample in range(self.generation.n):
            texts = write(self.model, prompts, rooms, self.stop, self.generation, sample)
            for mine, ids in zip(votes, texts, strict=True):
                mine.append(parse_verdict(self.encoder.tokenizer.decode(ids, skip_special_tokens=True)))
        return [StepScores(trace.counts, votes=tuple(mine)) for trace, mine in zip(traces, votes, strict=True)]

    def scoring(self) -> dict[str, Any]:
        """Return how verdicts are sampled."""
        return {"generation": self.generation.model_dump()}
