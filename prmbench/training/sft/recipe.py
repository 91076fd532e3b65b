"""The recipe of a supervised fine-tuning run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TokenOptions, TraceEncoder
from prmbench.errors import UserError
from prmbench.policies.prompt_record import PromptRecord, prompt_of_message
from prmbench.training.data.chats import encode_chat, load_chats, truncate
from prmbench.training.plan import Memory, TrainingPlan
from prmbench.training.recipes.chat_templates import find_template
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
        n_overlong: Number of records that were too long, and are cut or left out.
        prompts: How the problems of the records are put.
        remarks: Which rows of the file are of no use, in whole sentences.
    """

    kept: list[Encoded]
    held: list[Encoded]
    n_overlong: int
    prompts: PromptRecord
    remarks: tuple[str, ...] = ()


class SFTRecipe(Optimisation):
    """A supervised fine-tuning run."""

    data: str = Field(description="chats: a file of {messages} records")
    held_out: int = Field(0, ge=0, description="records kept back from the end of the data; their loss is logged")
    max_length: int = Field(
        3072, ge=8, description="longest record, in tokens; what becomes of longer ones says overlong"
    )
    overlong: Literal["truncate", "drop"] = Field(
        "truncate", description="longer records: truncate cuts them as LLaMA-Factory does, drop leaves them out"
    )
    strict: bool = Field(False, description="whether a blank answer is an error; else a few are left out and counted")
    stop: StopOptions | None = Field(None, description="early end of the run; null: the whole schedule is run")
    tokens: TokenOptions = Field(
        default_factory=lambda: TokenOptions(), description="chat template arguments, end of turn"
    )

    def encoder(self, folder: Path) -> TraceEncoder:
        """Make the encoder of the policy's conversations; its tokenizer carries the chat template.

        Args:
            folder: The checkpoint to start from.

        Raises:
            UserError: There is no chat template, or it is broken.
        """
        return TraceEncoder(self.tokenizer(folder), self.tokens)

    def load(self, encoder: TraceEncoder) -> SFTData:
        """Read and encode the data.

        Args:
            encoder: Encodes chats with the policy's tokenizer.

        Returns:
            The records.

        Raises:
            UserError: The file cannot be read, a record is wrong, or none is left.
        """
        remarks: list[str] = []
        chats = load_chats(self.data, strict=self.strict, remark=remarks.append)
        records = [encode_chat(encoder, chat) for chat in chats]
        n_overlong = sum(len(ids) > self.max_length for ids, _ in records)
        if self.overlong == "truncate":
            records = [truncate(ids, n_prompt, self.max_length) for ids, n_prompt in records]
        short = [(ids, n_prompt) for ids, n_prompt in records if n_prompt < len(ids) <= self.max_length]
        cut = len(short) - self.held_out
        if cut <= 0:
            raise UserError(
                f"{self.data}: no record is left to train on (max_length {self.max_length}, held_out {self.held_out})"
            )
        asked = [chat.turns[-1][1] if chat.turns else "" for chat in chats]
        systems = [chat.turns[0][1] if chat.turns and chat.turns[0][0] == "system" else None for chat in chats]
        prompts = PromptRecord.of(encoder, map(prompt_of_message, asked), systems)
        return SFTData(short[:cut], short[cut:], n_overlong, prompts, tuple(remarks))

    def plan(self) -> TrainingPlan:
        """See `Optimisation.plan`."""
        if self.stop is not None:
            find_prompt(self.stop.prompt)
        if self.chat_template is not None and self.backbone is not None:  # no checkpoint is looked at
            find_template(self.chat_template)
        shape = self.shape()
        data, source = self.data_size(
            self.data, lambda: [len(ids) for ids, _ in self.load(self.encoder(self.folder)).kept]
        )
        memory = Memory.of(self, shape)
        tokens = self.micro_batch_size * self.max_length
        items = [*memory.weights(), *memory.activations(tokens), *memory.blocks(tokens, gradient=not self.lora)]
        return memory.plan(data, source, 1, items)
