"""The recipe of an explicit process reward model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TokenOptions
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.reward_models.marks import MarkEncoder, MarkLayout, single_id
from prmbench.training.plan import Memory, TrainingPlan, parameter_count, trained_count
from prmbench.training.prm.data import LabelledTrace, LabelledTraces, load_labelled, split_problems
from prmbench.training.recipes.optimisation import Optimisation, longest_sequence

StepObjective = Literal["step_ce", "step_soft", "token_pair"]


def is_explicit(objective: object) -> bool:
    """Whether an objective is that of an explicit PRM.

    Args:
        objective: What a recipe gives as its objective.
    """
    return objective in get_args(StepObjective)


LAYOUT = MarkLayout(prompt="chat", mark="\n\n", one_token=False)
"""Steps as a policy writes them, each with a blank line after it, whose last token a score is read at."""

PAIR = ("+", "-")


@dataclass(frozen=True)
class PRMData:
    """The traces of a run.

    Attributes:
        found: What the file holds.
        kept: Traces to train on.
        held: Traces that are kept back.
    """

    found: LabelledTraces
    kept: list[LabelledTrace]
    held: list[LabelledTrace]


class PRMRecipe(Optimisation):
    """A run on labelled steps. ``batch_size`` and ``micro_batch_size`` count traces; the loss is a mean over an update's steps."""

    objective: StepObjective = Field(
        description="step_ce: a two-class head at the end of a step; step_soft: the same on soft labels (values); "
        "token_pair: two tokens of the vocabulary compared there"
    )
    data: str = Field(description="traces with a label for every step, in any format that `prmbench data steps` reads")
    prompt: str = Field("bare", description="name of the prompt template that problems are put with")
    tokens: TokenOptions = Field(
        default_factory=lambda: TokenOptions(), description="system message, step prefix, chat template arguments"
    )
    marks: MarkLayout = Field(
        LAYOUT, description="where the marks are that scores are read at; a blank line after every step by default"
    )
    pair: tuple[str, str] | None = Field(None, description="token_pair: the tokens for right and wrong; null: + and -")
    held_out: int = Field(
        0, ge=0, description="traces kept back, of problems of their own; the best weights are kept by their loss"
    )
    strict: bool = Field(
        False,
        description="whether a trace that is too long, or has no labelled step, is an error; else they are left out",
    )
    evaluate_every: int | None = Field(None, ge=1, description="steps between two measurements; null: ten in a run")

    @model_validator(mode="after")
    def _fits(self) -> PRMRecipe:
        if self.pair is not None and self.objective != "token_pair":
            raise ValueError(f"pair: {self.objective} has a head and no pair of tokens; leave it out")
        if self.lora is not None and not self.lora.merge:
            raise ValueError("lora.merge false: an explicit PRM's checkpoint is always merged")
        return self

    @property
    def has_head(self) -> bool:
        """Whether scores come from a head of their own, not from the output layer."""
        return self.objective != "token_pair"

    @property
    def kind(self) -> str:
        """The kind of the reward model that the run makes."""
        return "classifier" if self.has_head else "token_pair"

    @property
    def words(self) -> tuple[str, str]:
        """The tokens for right and wrong."""
        return self.pair or PAIR

    def updates(self, records: int) -> int:
        """Return the number of updates of a run; every one is full.

        Args:
            records: Number of traces to train on.
        """
        return self.max_steps or max(1, math.ceil(self.epochs * (records // self.batch_size)))

    def encoder(self, folder: Path) -> MarkEncoder:
        """Make what shows traces to the model.

        Args:
            folder: The checkpoint to start from.

        Raises:
            UserError: Its tokenizer does not fit the layout, or a word of the pair is no single token.
        """
        tokens = self.tokens
        if tokens.system is None and self.marks.prompt != "text":
            tokens = tokens.model_copy(update={"system": find_prompt(self.prompt).system})
        encoder = MarkEncoder(load_tokenizer(folder, self.load_options), tokens, self.marks)
        for word in () if self.has_head else self.words:
            single_id(encoder, word)
        return encoder

    def load(self, encoder: MarkEncoder, folder: Path) -> PRMData:
        """Read and encode the data, and keep some back.

        Args:
            encoder: What shows traces to the model.
            folder: The checkpoint to start from, whose positions limit the length.

        Returns:
            The traces.

        Raises:
            UserError: The file cannot be read, a record is wrong, or no trace is left.
        """
        found = load_labelled(
            self.data,
            encoder,
            find_prompt(self.prompt),
            max_length=longest_sequence(self, folder),
            soft=self.objective == "step_soft",
            strict=self.strict,
        )
        return PRMData(found, *split_problems(found.traces, self.held_out, self.seed))

    def plan(self) -> TrainingPlan:
        """See `Optimisation.plan`."""

        def lengths() -> list[int]:
            return [len(one) for one in self.load(self.encoder(self.folder), self.folder).kept]

        # A head has two weights for each number of a state. An output layer that is not the embedding is then not trained.
        shape, head = self.shape(), self.has_head
        data, source = self.data_size(self.data, lengths)
        extra = 2 * shape.width + 2 if head else 0
        trained = trained_count(shape, self.lora) + extra
        if head and not self.lora and not shape.tied:
            trained -= shape.vocabulary * shape.width
        memory = Memory(self, shape, parameter_count(shape) + extra, trained)
        tokens = self.micro_batch_size * self.max_length
        return memory.plan(data, source, 1, [*memory.weights(), *memory.activations(tokens)])
