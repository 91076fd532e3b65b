"""Chat data for supervised fine-tuning: conversations that end in the answer to be learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.records import check_characters, find_file, read_records, shown
from prmbench.data.tokens import TraceEncoder
from prmbench.errors import UserError
from prmbench.training.data.unusable import UnusableRow, UsableRows

_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Chat:
    """A conversation that ends in an answer.

    Attributes:
        turns: The turns before the answer, each a role and a content.
        answer: The last turn, which is the assistant's, verbatim.
    """

    turns: tuple[tuple[str, str], ...]
    answer: str


def load_chats(
    path: str | Path, *, strict: bool = False, remark: Callable[[str], object] = lambda _: None
) -> list[Chat]:
    """Load records of ``messages`` ({role, content}) or ``conversations`` ({from, value}); the last turn is the assistant's.

    Args:
        path: The data file.
        strict: Whether a blank answer is an error; else a few are left out.
        remark: Called with a sentence that counts the rows that are left out, and names the first.

    Returns:
        The conversations, in the order of the file.

    Raises:
        UserError: There is no such file, or a record is wrong; the message names the line and the field.
    """
    file = find_file(path, "chats, one {messages: [...]} a line")
    rows = UsableRows(file, strict=strict)
    chats = [chat for _, chat in rows.read(read_records(file), check_chat)]
    for sentence in rows.remarks():
        remark(sentence)
    return chats


def check_chat(place: str, record: Any, said: str | None = None) -> Chat:
    """Check one record.

    Args:
        place: Where the record stands, for errors.
        record: The record.
        said: What to call its messages in errors; None for the name of the field they are in.

    Returns:
        The conversation.

    Raises:
        UserError: The record is wrong, or its answer is blank; the message names the place and the field.
    """
    field = next((name for name in ("messages", "conversations") if isinstance(record, dict) and name in record), None)
    if field is None or not isinstance(record[field], list) or len(record[field]) < 2:
        raise UserError(f"{place}: expected 'messages' with at least a user's and an assistant's turn")
    role_key, text_key = ("role", "content") if field == "messages" else ("from", "value")
    turns = []
    for i, message in enumerate(record[field]):
        role = message.get(role_key) if isinstance(message, dict) else None
        content = _text(message.get(text_key)) if isinstance(message, dict) else None
        role = _ROLES.get(str(role), role)
        if role not in ("system", "user", "assistant") or content is None:
            raise UserError(
                f"{place}: field '{said or field}[{i}]' is {shown(message)}; expected a {role_key} and a {text_key}"
            )
        check_characters(place, f"{said or field}[{i}]", content)
        turns.append((role, content))
    if isinstance(record.get("system"), str):
        check_characters(place, "system", record["system"])
        turns.insert(0, ("system", record["system"]))
    if turns[-1][0] != "assistant":
        raise UserError(
            f"{place}: the last turn is the {turns[-1][0]}'s; expected the assistant's, which is what is learned"
        )
    if not turns[-1][1].strip():
        raise UnusableRow(place, "the answer is blank")
    return Chat(tuple(turns[:-1]), turns[-1][1])


def _text(content: Any) -> str | None:
    """A message's text, which may come in parts; None where it is none."""
    if isinstance(content, list) and content:
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        return None if None in parts else "".join(str(part) for part in parts)
    return content if isinstance(content, str) else None


def encode_chat(encoder: TraceEncoder, chat: Chat) -> tuple[NDArray[np.int64], int]:
    """Encode a chat as at evaluation: the rendered prompt, the answer verbatim, the end of turn (docs/protocols.md).

    Args:
        encoder: Encodes with the model's tokenizer and chat template.
        chat: The conversation.

    Returns:
        Token ids, int64, shape [p + t]; and p, the number of tokens of the prompt.
    """
    prompt = encoder.text_ids(encoder.render([{"role": role, "content": content} for role, content in chat.turns]))
    answer = encoder.text_ids(chat.answer)
    return np.concatenate([prompt, answer, [encoder.end_of_turn]]), len(prompt)


def truncate(ids: NDArray[np.int64], n_prompt: int, limit: int) -> tuple[NDArray[np.int64], int]:
    """Cut a chat to a length as LLaMA-Factory does: from the end of the prompt, of the answer, or of both.

    An answer of less than half the limit stays whole; else a prompt of less than half of it does; else both are cut in proportion.

    Args:
        ids: Token ids of the prompt, then of the answer. int64, shape [p + t].
        n_prompt: Number of tokens of the prompt, p.
        limit: Largest number of tokens.

    Returns:
        Token ids, int64; and the number of tokens of the prompt.
    """
    n_answer = len(ids) - n_prompt
    if len(ids) <= limit:
        return ids, n_prompt
    if 2 * n_answer < limit:
        room = limit
    elif 2 * n_prompt < limit:
        room = limit - n_prompt
    else:
        room = limit * n_answer // len(ids)
    kept_answer = min(room, n_answer)
    kept_prompt = min(limit - kept_answer, n_prompt)
    return np.concatenate([ids[:kept_prompt], ids[n_prompt : n_prompt + kept_answer]]), kept_prompt
