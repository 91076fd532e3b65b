"""How a policy was prompted in its training: written beside its weights, so that a later stage says where it prompts otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prmbench.data.prompts import PROMPT_TEMPLATES
from prmbench.data.records import read_json
from prmbench.data.tokens import TraceEncoder
from prmbench.errors import UserError, shortened
from prmbench.results.store import write_atomically

RECORD_NAME = "prompts.json"
MOST_SYSTEMS = 8
"""Different system messages that a record holds; data with more have none that is worth a comparison."""


class PromptRecord(BaseModel):
    """How problems are put to a policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: tuple[str, ...] = Field(description="names of the prompt templates that problems are put with")
    systems: tuple[str | None, ...] = Field(
        description="system messages, null for none; empty: too many different ones to compare"
    )
    template_args: dict[str, Any] = Field(description="arguments of the chat template")
    chat_template: str = Field(description="sha256 of the chat template")
    date: str | None = Field(None, description="the day that the chat template is given; null: it asks for none")

    @classmethod
    def of(
        cls, encoder: TraceEncoder, prompts: Iterable[str], systems: Iterable[str | None] | None = None
    ) -> PromptRecord:
        """Make a record.

        Args:
            encoder: Renders the prompts.
            prompts: Names of the prompt templates.
            systems: The system messages of the data; None: the encoder's own.
        """
        used = encoder.conversation()
        found = {used["system"]} if systems is None else set(systems)
        return cls(
            prompts=tuple(sorted(set(prompts))),
            systems=tuple(sorted(found, key=lambda one: one or "")) if len(found) <= MOST_SYSTEMS else (),
            template_args=used["template_args"],
            chat_template=used["chat_template"],
            date=used.get("date"),
        )

    def write(self, folder: Path) -> None:
        """Write it into the folder of a checkpoint.

        Args:
            folder: The folder.
        """
        write_atomically(folder / RECORD_NAME, self.model_dump_json(indent=2) + "\n")


def prompt_of_message(message: str) -> str:
    """Name the prompt template that a user's message is put with.

    Args:
        message: The message.

    Returns:
        The template whose instruction the message ends with; ``bare`` where it ends with none that is known.
    """
    endings = {name: one.user.partition("{problem}")[2] for name, one in PROMPT_TEMPLATES.items()}
    fitting = [name for name, ending in endings.items() if message.endswith(ending)]
    return max(fitting, key=lambda name: len(endings[name]))


def prompt_differences(folder: Path, here: PromptRecord) -> list[str]:
    """Say where a policy is prompted otherwise than in its training.

    Args:
        folder: Folder of the policy. One without a record is not compared.
        here: How it is prompted now.

    Returns:
        A sentence for each difference.

    Raises:
        UserError: The record is broken.
    """
    file = folder / RECORD_NAME
    if not file.exists():
        return []
    try:
        there = PromptRecord.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{file}: field '{where}': {first['msg'].lower()}; mend or delete the file") from None
    found = []
    if not set(here.prompts) <= set(there.prompts):
        found.append(("the prompt", _listed(there.prompts), _listed(here.prompts)))
    if there.systems and here.systems and not set(here.systems) <= set(there.systems):
        found.append(("the system message", _listed(there.systems), _listed(here.systems)))
    if there.template_args != here.template_args:
        found.append(("the template arguments", _listed([there.template_args]), _listed([here.template_args])))
    if there.chat_template != here.chat_template:
        found.append(("the chat template", there.chat_template[:12], here.chat_template[:12]))
    if there.date != here.date:
        found.append(("the date", _listed([there.date]), _listed([here.date])))
    return [
        f"{folder}: was trained with {what} {trained}, and is used with {used} here ({RECORD_NAME} says how it was trained)"
        for what, trained, used in found
    ]


def _listed(values: Sequence[Any]) -> str:
    return " or ".join("none" if value is None else shortened(json.dumps(value)) for value in values)
