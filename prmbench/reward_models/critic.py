"""A language model as critic: it says which paragraph is the first wrong one, by one vote or the majority of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.critic_prompt import critic_prompt
from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.choose import load_engine
from prmbench.engines.loading import checkpoint_hash, load_tokenizer
from prmbench.engines.types import Engine
from prmbench.errors import UserError
from prmbench.reward_models.base import LoadRequest, RewardModel, StepScores, register
from prmbench.reward_models.card import Card, Generation
from prmbench.reward_models.generation import room_for, write
from prmbench.verify.extract import parse_verdict


@dataclass(frozen=True)
class CriticTrace(EncodedTrace):
    """The prompt that shows a trace to a critic.

    Attributes:
        counts: int64, shape [n_steps]: tokens of each step's own text. room: tokens that a verdict may have.
    """

    counts: NDArray[np.int64]
    room: int

    def __len__(self) -> int:
        """Tokens of the prompt and the longest verdict."""
        return len(self.ids) + self.room

    def step_counts(self) -> NDArray[np.int64]:
        """Number of tokens of each step's own text. int64, shape [n_steps]."""
        return self.counts


@register("critic")
class CriticRewardModel(RewardModel):
    """ProcessBench's generative protocol: paragraphs indexed from 0, the last boxed number is the verdict.

    Its votes are predictions, not scores: no threshold is chosen. They are counted by `prmbench.stats.votes.vote`.
    """

    predicts = True
    reads = frozenset({"generation"})
    own_layout = True
    encoder: TraceEncoder

    def __init__(self, model: Engine, encoder: TraceEncoder, card: Card) -> None:
        self.model = model
        self.encoder = encoder
        self.generation = card.generation or Generation()
        self.card = card
        if self.generation.n < 1:
            raise UserError("generation.n: 0; a critic needs at least one vote (--n 1)")
        self.vocabulary = model.vocabulary
        self.max_length = model.max_length
        self.batch_tokens = 1_000_000 if model.name == "vllm" else 16_384  # vLLM makes its own batches
        self.stop = frozenset({encoder.end_of_turn, *model.eos_ids()})
        self.hashes = {}
        self.facts = model.facts()

    @classmethod
    def load(cls, request: LoadRequest) -> CriticRewardModel:
        """Load the language model. See `RewardModel.load`."""
        request.refuse_reference()
        hashed = checkpoint_hash(request.folder)
        encoder = TraceEncoder(
            load_tokenizer(request.folder, request.options), request.card.tokens, request.chat_template
        )
        model = cls(load_engine(request.engine, request.folder, request.options, request.source), encoder, request.card)
        model.hashes, model.engine = {"model": hashed}, request.engine
        return model

    def device_and_dtype(self) -> tuple[str, str]:
        """See `RewardModel.device_and_dtype`."""
        return self.model.device_and_dtype()

    def encode_trace(self, problem: str, steps: Sequence[str]) -> CriticTrace:
        """The critic's prompt for a trace. See `RewardModel.encode_trace`."""
        ids = self.encoder.prompt_ids(critic_prompt(problem, steps))
        counts = np.array([len(self.encoder.text_ids(step)) for step in steps], dtype=np.int64)
        none = np.zeros(0, dtype=np.int64)
        room = room_for(len(ids), self.max_length, self.generation)
        return CriticTrace(ids, len(ids), none, len(steps), counts=counts, room=room)

    def score(self, batch: Sequence[EncodedTrace]) -> list[StepScores]:
        """Votes instead of scores. See `RewardModel.score`."""
        traces = [trace for trace in batch if isinstance(trace, CriticTrace)]
        votes: list[list[int | None]] = [[] for _ in traces]
        prompts, rooms = [trace.ids for trace in traces], [trace.room for trace in traces]
        for sample in range(self.generation.n):
            texts = write(self.model, prompts, rooms, self.stop, self.generation, sample)
            for mine, ids in zip(votes, texts, strict=True):
                mine.append(parse_verdict(self.encoder.tokenizer.decode(ids, skip_special_tokens=True)))
        return [StepScores(trace.counts, votes=tuple(mine)) for trace, mine in zip(traces, votes, strict=True)]

    def scoring(self) -> dict[str, Any]:
        """See `RewardModel.scoring`."""
        return {"generation": self.generation.model_dump()}
