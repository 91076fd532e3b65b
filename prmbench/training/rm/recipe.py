"""The recipe of a reward-model run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TokenOptions, TraceEncoder
from prmbench.engines.checkpoint import model_folder
from prmbench.reward_models.card import ReadState
from prmbench.reward_models.objectives import OBJECTIVES, Objective
from prmbench.training.data.pairs import Pair, Pairs, load_pairs, split_held_out
from prmbench.training.plan import Memory, TrainingPlan
from prmbench.training.recipes.measured import MeasuredRecipe
from prmbench.training.recipes.optimisation import longest_sequence, name_revisions
from prmbench.training.rm.losses import find_loss


@dataclass(frozen=True)
class RMData:
    """The pairs of a run.

    Attributes:
        found: What the file holds.
        kept: Pairs to train on.
        held: Pairs that are kept back.
    """

    found: Pairs
    kept: list[Pair]
    held: list[Pair]


class RMRecipe(MeasuredRecipe):
    """A reward-model run. ``batch_size`` and ``micro_batch_size`` count pairs, whatever the objective: all see the same data."""

    objective: str = Field(description="ipvrm, ipvrm_late, ipvrm_early, implicit_prm, dpo, q_rm, or one of a package")
    data: str = Field(description="rollouts, {messages, correct} records, or {prompt, chosen, rejected} pairs")
    beta: float | None = Field(None, gt=0, description="scale of token values; null: the paper's for the objective")
    margin: float | None = Field(None, ge=0, description="margin m; null: the paper's for the objective")
    read_state: ReadState = Field("after", description="Q-RM: the state a token's value is read from")
    reference: str | None = Field(
        None, description="pi_ref: a folder or a Hub id; null: the model that is started from"
    )
    reference_revision: str | None = Field(None, description="commit, branch or tag of the reference's Hub id")
    reference_logprobs: Literal["cached", "as-needed"] = Field(
        "cached", description="cached: computed once before training and kept; as-needed: with every batch"
    )
    prompt: str = Field("boxed", description="name of the prompt template that rollouts were sampled with")
    pairs_per_prompt: int = Field(
        1, ge=1, description="(correct, incorrect) pairs drawn of a prompt's responses at most"
    )
    tokens: TokenOptions = Field(
        default_factory=lambda: TokenOptions(), description="chat template arguments, end of turn"
    )
    held_out: int = Field(
        0, ge=0, description="pairs kept back; their metrics are logged, and the best weights kept by their loss"
    )
    strict: bool = Field(
        False,
        description="whether a row that is too long or of no use is an error; else a few are left out and counted",
    )
    evaluate_every: int | None = Field(None, ge=1, description="steps between two measurements; null: ten in a run")

    @model_validator(mode="before")
    @classmethod
    def _name_reference_revision(cls, fields: Any) -> Any:
        """Put the revision behind the name of the reference."""
        return name_revisions(fields, {"reference_revision": "reference"})

    @model_validator(mode="after")
    def _fits(self) -> RMRecipe:
        find_loss(self.meaning)
        if self.meaning.kind not in ("implicit", "q_rm"):
            raise ValueError(
                f"objective {self.objective}: makes a {self.meaning.kind}; implicit and q_rm are trained here"
            )
        if self.margin and self.meaning.margin is None:
            raise ValueError(f"margin {self.margin}: {self.objective} has none")
        if self.has_head and self.reference is not None:
            raise ValueError("reference: q_rm has none; leave it out")
        if self.lora is not None and not self.lora.merge:
            if self.has_head:
                raise ValueError("lora.merge false: a q_rm checkpoint is always merged")
            if self.reference is not None:
                raise ValueError("lora.merge false: an adapter's reference is its base; leave reference out, or merge")
        return self

    @property
    def meaning(self) -> Objective:
        """The objective that the recipe names. Raises UserError where there is none of that name."""
        return OBJECTIVES.find(self.objective)

    @property
    def has_head(self) -> bool:
        """Whether values come from a head on the states, not from log-probs."""
        return self.meaning.kind == "q_rm"

    @property
    def scale(self) -> float:
        """Beta, or the objective's own."""
        return self.meaning.beta if self.beta is None else self.beta

    @property
    def offset(self) -> float:
        """The margin, or the objective's own; 0 where it has none."""
        return (self.meaning.margin or 0.0) if self.margin is None else self.margin

    @property
    def rendering(self) -> TokenOptions:
        """How conversations become text: as `tokens` says, with the system message of the prompt template where it says none."""
        return self.tokens.with_system(find_prompt(self.prompt).system)

    def load(self, encoder: TraceEncoder, folder: Path) -> RMData:
        """Read and encode the data, draw pairs, and keep some back.

        Args:
            encoder: Encodes conversations with the model's tokenizer.
            folder: The checkpoint to start from, whose positions limit the length.

        Returns:
            The pairs.

        Raises:
            UserError: The file cannot be read, a record is wrong, or no pair is left.
        """
        found = load_pairs(
            self.data,
            encoder,
            find_prompt(self.prompt),
            max_length=longest_sequence(self, folder),
            per_prompt=self.pairs_per_prompt,
            seed=self.seed,
            strict=self.strict,
        )
        return RMData(found, *split_held_out(found.pairs, self.held_out, self.seed))

    def plan(self) -> TrainingPlan:
        """See `Optimisation.plan`."""

        def lengths() -> list[int]:
            encoder = TraceEncoder(self.tokenizer(self.folder), self.rendering)
            return [len(row) for pair in self.load(encoder, self.folder).kept for row in pair.rows]

        find_prompt(self.prompt)
        # A head has one weight for each number of a state.
        shape, has_head = self.shape(), self.has_head
        data, source = self.data_size(self.data, lengths, rows=2)
        memory = Memory.of(self, shape, shape.width if has_head else 0)

        # A reference is held in memory unless its log-probs are computed beforehand, or it is the model without its adapter.
        items = memory.weights()
        own_adapter = self.lora is not None and self.reference is None
        if not has_head and self.reference_logprobs == "as-needed" and not own_adapter:
            items.append(memory.model("reference"))
        config = model_folder(self.folder) / "config.json"
        longest = longest_sequence(self, self.folder) if config.exists() else self.max_length
        tokens = self.micro_batch_size * 2 * longest
        items += [*memory.activations(tokens), *memory.blocks(tokens, gradient=not self.lora and not has_head)]
        return memory.plan(data, source, 2, items)
