"""The card ``prmbench.json`` of a checkpoint, which says what its weights are, so that its path is enough to score with it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prmbench.data.prompts import PromptTemplate, find_prompt
from prmbench.data.records import read_json
from prmbench.data.revisions import split_revision
from prmbench.data.tokens import TokenOptions
from prmbench.errors import UserError, argument, nearest
from prmbench.reward_models.marks import MarkLayout
from prmbench.reward_models.objectives import OBJECTIVES, meaning_of

CARD_NAME = "prmbench.json"
MAX_UP = 3
"""Folders that the path from a card to its reference may go up."""

ReadState = Literal["after", "before"]


class Generation(BaseModel):
    """How the verdicts of a critic or the critiques of a judge are sampled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(
        1,
        ge=0,
        le=100_000,
        description="critic: number of votes a trace; judge: number of critiques a step, 0 for the verdict straight away",
    )
    temperature: float = Field(0.0, ge=0, description="sampling temperature; 0 for greedy decoding")
    top_p: float = Field(1.0, gt=0, le=1, description="probability mass of nucleus sampling")
    top_k: int = Field(0, ge=0, description="number of likeliest tokens to sample from; 0 for all")
    max_new_tokens: int = Field(
        8192, ge=1, description="longest verdict or critique; it is also cut where the model's positions end"
    )
    seed: int = Field(0, ge=0, description="seed of all random numbers")

    @model_validator(mode="after")
    def _different_texts(self) -> Generation:
        if self.n > 1 and self.temperature == 0:
            raise ValueError(f"{self.n} greedy texts are all the same; give a temperature above 0, or n 1")
        return self


class Card(BaseModel):
    """The card of a reward model."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = Field(1, description="version of the fields of this card")
    kind: str = Field(description="how scores are computed: a known kind, such as implicit or classifier")
    preset: str | None = Field(None, description="the preset that the other fields are filled in from; null: none")
    objective: str | None = Field(
        None, description="what it was trained with, such as ipvrm, implicit_prm, dpo or q_rm; null: unknown"
    )
    beta: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="scale of token values; null: what the paper has for the objective, else 1",
    )
    margin: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="margin m of the objective (Eq. 9); null: none or unknown"
    )
    discount: float | None = Field(
        None, ge=0, le=1, description="endo: weight of V(s') in a token's reward; null: 1, which is no discount"
    )
    decay: float | None = Field(
        None, gt=0, le=1, description="endo: factor from token to token in the score of a whole response; null: 0.95"
    )
    decay_floor: float | None = Field(
        None, ge=0, le=1, description="endo: smallest weight of a token in the score of a whole response; null: 0"
    )
    read_state: ReadState = Field(
        "after", description="q_rm: the state that the value of a token is read from, after or before the token"
    )
    reference: str | None = Field(
        None,
        description="pi_ref: a folder relative to the card, or a Hub id; null where the kind needs none or none is near",
    )
    reference_name: str | None = Field(None, description="name of the folder of pi_ref, where it is not near the card")
    reference_weights: str | None = Field(None, description="sha256 of the weights of pi_ref; null: unknown")
    prompt: str | None = Field(
        None, description="name of the prompt template that problems were put with in training; null: bare, or unknown"
    )
    chat_template: str | None = Field(
        None, description="sha256 of the chat template that it was trained with; null: unknown"
    )
    tokens: TokenOptions = Field(default_factory=lambda: TokenOptions(), description="how a trace becomes text")
    marks: MarkLayout | None = Field(
        None, description="classifier, token_pair, value_head: where the marks are; null: what the kind has by default"
    )
    pair: tuple[str, str] | None = Field(
        None, description="token_pair, judge: the tokens that say right and wrong; null: what the kind has by default"
    )
    generation: Generation | None = Field(
        None, description="critic, judge: how texts are sampled; null: what the kind has by default"
    )

    @property
    def template(self) -> PromptTemplate:
        """The prompt template that problems are put with."""
        return find_prompt(self.prompt or "bare")

    def scale(self) -> float:
        """Return beta, or its default for the objective."""
        return self.beta if self.beta is not None else meaning_of(self.objective).beta


def read_card(folder: Path) -> dict[str, Any] | None:
    """Read the fields of a card.

    Args:
        folder: Folder of the checkpoint.

    Returns:
        The fields; None where there is no card.

    Raises:
        UserError: The file is broken, or no regular file.
    """
    path = folder / CARD_NAME
    return read_json(path) if path.exists() else None


def make_card(fields: dict[str, Any], where: str) -> Card:
    """Validate the fields of a card.

    Args:
        fields: The fields.
        where: Where they are from, for errors.

    Returns:
        The card.

    Raises:
        UserError: A field or an objective is not known (the nearest one is named), or has a wrong type or range.
    """
    try:
        card = Card.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        inner = [f for part in (Card, TokenOptions, MarkLayout, Generation) for f in part.model_fields]
        hint = nearest(name.split(".")[-1], inner) if first["type"] == "extra_forbidden" else ""
        raise UserError(
            f"{where}: field '{name}': {first['msg'].removeprefix('Value error, ').lower()}{hint}"
        ) from None
    known = OBJECTIVES.names()
    if card.objective is not None and card.objective not in known:
        raise UserError(
            f"{where}: objective '{card.objective}'{nearest(card.objective, known)} is not known; "
            f"expected one of {', '.join(known)}, or none"
        )
    return card


def reference_fields(reference: str, weights: str, output: Path) -> dict[str, str | None]:
    """Say in a card which model the reference is, without a path that means something on this machine alone.

    Args:
        reference: The reference as it was named: a folder, absolute or relative to the current folder, or a Hub id.
        weights: sha256 of its weights.
        output: Folder that the card is written into.

    Returns:
        The fields `reference`, `reference_name` and `reference_weights`. A folder is named by its path from the card where both
        are in one tree: at most `MAX_UP` folders up, and not up to the root. Elsewhere only its name is kept.
    """
    folder = Path(reference).expanduser()
    if not folder.is_dir():
        return {"reference": reference, "reference_name": None, "reference_weights": weights}
    ours, theirs = output.resolve(), folder.resolve()
    path = Path(os.path.relpath(theirs, ours))
    near = path.parts.count("..") <= MAX_UP and os.path.commonpath([ours, theirs]) != ours.anchor
    return {
        "reference": path.as_posix() if near else None,
        "reference_name": None if near else theirs.name,
        "reference_weights": weights,
    }


def find_reference(card: Card, folder: Path) -> str | None:
    """Find the reference that a card names. It is never looked for in the current folder.

    Args:
        card: The card.
        folder: Folder of the card.

    Returns:
        The folder of the reference, or a Hub id; None where the card names none.

    Raises:
        UserError: It is not where the card says.
    """
    name = card.reference
    if name is not None and (folder / name).is_dir():
        return str((folder / name).resolve())
    hub_id = name and split_revision(name)[0]
    is_id = hub_id and re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", hub_id) is not None and not Path(hub_id).exists()
    if is_id or (name is None and card.reference_name is None):
        return name
    weights = f" (weights {card.reference_weights[:12]})" if card.reference_weights else ""
    raise UserError(
        f"{folder / CARD_NAME}: its reference '{name or card.reference_name}'{weights} is not beside it; pass "
        f"{argument('reference')} with the folder that holds it"
    )


def write_card(folder: Path, card: Card) -> Path:
    """Write a card into the folder of a checkpoint.

    Args:
        folder: The folder.
        card: The card.

    Returns:
        Path of the file.
    """
    path = folder / CARD_NAME
    path.write_text(card.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")
    return path
