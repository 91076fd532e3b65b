"""The recipe of an explicit process reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TokenOptions
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.errors import UserError
from prmbench.reward_models.marks import MarkEncoder, MarkLayout, single_id
from prmbench.training.plan import Memory, TrainingPlan
from prmbench.training.prm.data import LabelledTraces, Supervision, load_labelled, split_problems
from prmbench.training.prm.prefix_pairs import PairOptions, PrefixGroup, Record, make_groups, traces_of
from prmbench.training.recipes.measured import MeasuredRecipe
from prmbench.training.recipes.optimisation import longest_sequence

StepObjective = Literal["step_ce", "step_soft", "token_pair", "beta_binomial", "prefix_gain"]

READS: dict[StepObjective, Supervision] = {
    "step_ce": "labels",
    "token_pair": "labels",
    "step_soft": "values",
    "prefix_gain": "values",
    "beta_binomial": "counts",
}
"""What each objective is trained on."""


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
    """The data of a run.

    Attributes:
        found: What the file holds.
        kept: Traces to train on; groups of them where pairs of prefixes are compared.
        held: The same that are kept back.
    """

    found: LabelledTraces
    kept: Sequence[Record]
    held: Sequence[Record]

    def sentence(self) -> str:
        """Say the counts in words."""
        groups = [one for one in (*self.kept, *self.held) if isinstance(one, PrefixGroup)]
        n_pairs = sum(len(one.better) for one in groups)
        paired = f"; {n_pairs:,} pairs of prefixes in {len(groups):,} groups of traces" if groups else ""
        what = "groups" if groups else "traces"
        return f"{self.found.sentence()}{paired}; {len(self.held):,} {what} held out"


class ConcentrationOptions(BaseModel):
    """How the concentration of `beta_binomial` is learned. The defaults are those of the training script of BetaPRM."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: float = Field(
        4.0, gt=0, allow_inf_nan=False, description="concentration of every step before the first update"
    )
    floor: float = Field(1e-3, gt=0, allow_inf_nan=False, description="what the concentration never falls below")
    penalty: float = Field(
        0.05,
        ge=0,
        allow_inf_nan=False,
        description="weight of |mean - share of right continuations| times concentration in the loss; 0: the likelihood alone",
    )
    learning_rate_factor: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="learning rate of the concentration's head, in units of learning_rate",
    )

    @model_validator(mode="after")
    def _fits(self) -> ConcentrationOptions:
        if self.start <= self.floor:
            raise ValueError(f"start {self.start:g} is not above floor {self.floor:g}")
        return self


class PRMRecipe(MeasuredRecipe):
    """A run on labelled steps.

    ``batch_size`` and ``micro_batch_size`` count traces, and the loss is a mean over an update's steps. With `prefix_gain` they
    count groups of traces of one problem, and the loss is a mean over an update's pairs of prefixes.
    """

    objective: StepObjective = Field(
        description="step_ce: a two-class head at the end of a step; step_soft: the same on soft labels (values); "
        "token_pair: two tokens of the vocabulary compared there; beta_binomial: a mean and a concentration for counts of right "
        "continuations (successes, trials); prefix_gain: a value that is larger where more continuations are right (values)"
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
    concentration: ConcentrationOptions | None = Field(
        None, description="beta_binomial: how the concentration is learned; null: as BetaPRM has it"
    )
    pairs: PairOptions | None = Field(
        None,
        description="prefix_gain: which prefixes are compared; null: a gain of 0.25 more, up to 4 traces of a problem",
    )
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
        for name, owner in (("concentration", "beta_binomial"), ("pairs", "prefix_gain")):
            if getattr(self, name) is not None and self.objective != owner:
                raise ValueError(f"{name}: belongs to {owner}, the objective is {self.objective}; leave it out")
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
    def concentrates(self) -> ConcentrationOptions | None:
        """How the concentration is learned; None where the objective has none."""
        return (self.concentration or ConcentrationOptions()) if self.objective == "beta_binomial" else None

    @property
    def compares(self) -> PairOptions | None:
        """Which prefixes are compared; None where the objective compares none."""
        return (self.pairs or PairOptions()) if self.objective == "prefix_gain" else None

    @property
    def words(self) -> tuple[str, str]:
        """The tokens for right and wrong."""
        return self.pair or PAIR

    def encoder(self, folder: Path) -> MarkEncoder:
        """Make what shows traces to the model.

        Args:
            folder: The checkpoint to start from.

        Raises:
            UserError: Its tokenizer does not fit the layout, or a word of the pair is no single token.
        """
        tokens = self.tokens
        if self.marks.prompt != "text":
            tokens = tokens.with_system(find_prompt(self.prompt).system)
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
            read=READS[self.objective],
            strict=self.strict,
        )
        if self.compares is None:
            return PRMData(found, *split_problems(found.traces, self.held_out, self.seed))
        groups = make_groups(found.traces, self.compares)
        if not groups:
            raise UserError(
                f"{self.data}: no two prefixes of a problem differ in gain by pairs.least {self.compares.least:g}; lower it, or "
                f"label with more continuations ({found.sentence()})"
            )
        return PRMData(found, *split_problems(groups, self.held_out, self.seed))

    def plan(self) -> TrainingPlan:
        """See `Optimisation.plan`."""

        def lengths() -> list[int]:
            kept = self.load(self.encoder(self.folder), self.folder).kept
            return [sum(len(trace) for trace in traces_of(one)) for one in kept]

        # A head has two weights for each number of a state, that of the concentration and its norm three more, and each has its
        # biases.
        shape = self.shape()
        data, source = self.data_size(self.data, lengths)
        head = 2 * shape.width + (0 if self.compares else 2) if self.has_head else 0
        head += 3 * shape.width + 1 if self.concentrates else 0
        memory = Memory.of(self, shape, head)
        tokens = self.micro_batch_size * self.max_length * (self.compares.traces if self.compares else 1)
        return memory.plan(data, source, 1, [*memory.weights(), *memory.activations(tokens)])
