"""The recipe of a supervised fine-tuning run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from prmbench.data.tokens import TokenOptions, TraceEncoder
from prmbench.engines.load import LoadOptions
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.errors import UserError
from prmbench.training.data.chats import encode_chat, load_chats
from prmbench.training.plan import Memory, TrainingPlan, parameter_count, trained_count
from prmbench.training.recipes.optimisation import Optimisation

Encoded = tuple[NDArray[np.int64], int]
"""Token ids of a chat, and how many of them are its prompt."""


class StopOptions(BaseModel):
    """Ends a run when the policy's measured pass rate is reached."""

    model_config = ConfigDict(extra="forbid")

    pass_rate: float = Field(gt=0, le=1, description="stop at or above this share of right completions, temperature 1")
    problems: str = Field(description="file of problems to measure on; not those that are trained on")
    every: int = Field(50, ge=1, description="steps between two measurements")
    n: int = Field(200, ge=1, description="problems of a measurement, one completion each")
    max_new_tokens: int = Field(512, ge=1, description="longest completion, in tokens")
    prompt: str = Field("bare", description="name of the prompt template")


@dataclass(frozen=True)
class SFTData:
    """The records of a run.

    Attributes:
        kept: Records to train on.
        held: Records that are kept back.
        n_overlong: Number of records that were too long and are left out.
    """

    kept: list[Encoded]
    held: list[Encoded]
    n_overlong: int


class SFTRecipe(Optimisation):
    """A supervised fine-tuning run."""

    data: str = Field(description="chats: a file of {messages} records")
    held_out: int = Field(0, ge=0, description="records kept back from the end of the data; their loss is logged")
    stop: StopOptions | None = Field(None, description="early end of the run; null: the whole schedule is run")
    tokens: TokenOptions = Field(
        default_factory=lambda: TokenOptions(), description="chat template arguments, end of turn"
    )

    def load(self, encoder: TraceEncoder) -> SFTData:
        """Read and encode the data.

        Args:
            encoder: Encodes chats with the policy's tokenizer.

        Returns:
            The records.

        Raises:
            UserError: The file cannot be read, a record is wrong, or none is short enough.
        """
        records = [encode_chat(encoder, chat) for chat in load_chats(self.data)]
        short = [record for record in records if len(record[0]) <= self.max_length]
        cut = len(short) - self.held_out
        if cut <= 0:
            raise UserError(
                f"{self.data}: no record is left to train on (max_length {self.max_length}, held_out {self.held_out})"
            )
        return SFTData(short[:cut], short[cut:], len(records) - len(short))

    def plan(self) -> TrainingPlan:
        """See `Optimisation.plan`."""

        def lengths() -> list[int]:
            encoder = TraceEncoder(load_tokenizer(self.folder, LoadOptions()), self.tokens)
            return [len(ids) for ids, _ in self.load(encoder).kept]

        shape = self.shape()
        data, source = self.data_size(self.data, lengths)
        memory = Memory(self, shape, parameter_count(shape), trained_count(shape, self.lora))
        tokens = self.micro_batch_size * self.max_length
        return memory.plan(data, source, 1, [*memory.weights(), *memory.activations(tokens), memory.logits(tokens)])
