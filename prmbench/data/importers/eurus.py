"""Eurus-2, the data that the paper trains on: chats to fine-tune on, and problems to sample and to train on.

A record of Eurus-2-SFT-Data has ``task`` and ``conversations`` ({from, value}: a question and an answer that is tagged by
actions). A record of Eurus-2-RL-Data has ``ability``, ``prompt`` ({role, content}: a system message and a question) and
``reward_model`` (with ``ground_truth``). In both the question ends with an instruction of their own. It is cut off, and the
prompt template ``eurus`` puts its own instruction and system message there, so that every stage from fine-tuning to evaluation
has the same prompt. Only rows of mathematics are kept, because nothing here can judge a program.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmbench.data.importers.writing import write_lines
from prmbench.data.prompts import find_prompt
from prmbench.data.records import Located, check_characters, check_limit, check_object, find_file, read_records, shown
from prmbench.data.revisions import refuse_revision
from prmbench.errors import ArgumentError, UserError, first_line

HUB = {"sft": "PRIME-RL/Eurus-2-SFT-Data", "rl": "PRIME-RL/Eurus-2-RL-Data"}
PROMPT = "eurus"

NO_ANSWER, NOT_TWO_TURNS = "without an answer", "not of one question and one answer"

# The instruction is the last paragraph of a question, and shows a box to be filled in.
_INSTRUCTION = re.compile(r"\s*\n[^\n]*\\boxed\{[^{}\n]*\}[^\n]*\s*\Z")
_USERS, _ASSISTANTS = ("user", "human"), ("assistant", "gpt")


@dataclass(frozen=True)
class Imported:
    """What became of a data set.

    Attributes:
        file: The file that was written.
        kept: Rows that were kept.
        left_out: Rows that were left out, by the reason.
    """

    file: Path
    kept: int
    left_out: dict[str, int]

    def sentence(self) -> str:
        """Say the counts in words."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
        return f"{self.kept:,} rows kept; {reasons or 'none'} left out"


class _LeftOut(Exception):
    """A row that is not kept, and why."""


Converter = Callable[[str, int, Any], dict[str, Any]]


def import_eurus(
    source: str | Path,
    output: str | Path,
    *,
    split: str = "train",
    limit: int | None = None,
    data_revision: str | None = None,
) -> Imported:
    """Convert Eurus-2-SFT-Data or Eurus-2-RL-Data.

    Args:
        source: ``sft`` or ``rl`` for the set on the Hub, or a downloaded file of either (.json, .jsonl, .jsonl.gz, .parquet).
        output: Folder to write into: ``chats.jsonl`` of the SFT data, ``problems.jsonl`` of the RL data, and ``eurus.json``,
            which says what they were made of.
        split: Split of the set on the Hub.
        limit: Stop after this many rows that are kept; None keeps all.
        data_revision: Commit, branch or tag of the set on the Hub; None: the newest. A file has none.

    Returns:
        The file and the counts.

    Raises:
        UserError: The file or the set cannot be read, holds other records, or holds no row of mathematics.
        ArgumentError: The output folder cannot be written.
    """
    check_limit(limit)
    hub, file = HUB.get(str(source)), Path(source)
    expected = f"a file of Eurus-2 records, or {' or '.join(HUB)} for the set on the Hub"
    if not hub:
        refuse_revision(data_revision, file)
    records = _read_hub(hub, split, data_revision) if hub else read_records(find_file(source, expected))
    first = next(records, None)
    if first is None:
        raise UserError(f"{source}: holds no records")
    make, name = _converter(*first)
    left_out: Counter[str] = Counter()
    lines = _lines(itertools.chain([first], records), make, left_out)
    try:
        kept, written = write_lines(Path(output) / name, itertools.islice(lines, limit))
        found = Imported(Path(output) / name, kept, dict(left_out))
        if not kept:
            raise UserError(f"{source}: holds no row of mathematics that can be used ({found.sentence()})")
        about: dict[str, Any] = {"source": hub or file.name, "split": split if hub else None, "prompt": PROMPT}
        about |= {} if data_revision is None else {"revision": data_revision}
        about |= {"file": name, "sha256": written, "kept": kept, "left_out": found.left_out}
        (Path(output) / "eurus.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ArgumentError("output", output, f"cannot be written ({error.strerror})") from None
    return found


def _read_hub(name: str, split: str, revision: str | None) -> Iterator[Located]:
    import datasets

    try:
        for i, row in enumerate(datasets.load_dataset(name, split=split, revision=revision, streaming=True)):
            yield f"{name}, split {split}, row {i}", row
    except Exception as error:  # the library raises many kinds
        raise UserError(
            f"{name}, split {split}: cannot be loaded from the Hub ({first_line(error)}); pass a downloaded file instead"
        ) from None


def _converter(place: str, record: Any) -> tuple[Converter, str]:
    """Choose how records are converted, and the name of the file, by what the first one holds."""
    if isinstance(record, dict) and "conversations" in record:
        return chat_of, "chats.jsonl"
    check_object(place, record, ("prompt", "reward_model"), "a record of Eurus-2-SFT-Data or Eurus-2-RL-Data")
    return problem_of, "problems.jsonl"


def _lines(records: Iterable[Located], make: Converter, left_out: Counter[str]) -> Iterator[str]:
    for number, (place, record) in enumerate(records):
        try:
            yield json.dumps(make(place, number, record)) + "\n"
        except _LeftOut as reason:
            left_out[str(reason)] += 1


def chat_of(place: str, number: int, record: Any) -> dict[str, Any]:
    """Convert a record of Eurus-2-SFT-Data.

    Args:
        place: Where it is from, for messages.
        number: Its number in the data set, from 0. A chat does not need it.
        record: The record.

    Returns:
        A chat: ``messages`` of the system message and the question, as the prompt template has them, and the answer as it stands.

    Raises:
        UserError: It is another record. The message names the place and the field.
    """
    check_object(place, record, ("task", "conversations"), "a record of Eurus-2-SFT-Data")
    _check_mathematics(place, "task", record["task"])
    turns = _turns(place, "conversations", record["conversations"], "from", "value")
    if [role for role, _ in turns] != ["user", "assistant"]:
        raise _LeftOut(NOT_TWO_TURNS)
    if not turns[1][1].strip():
        raise _LeftOut(NO_ANSWER)
    template = find_prompt(PROMPT)
    messages = [("system", template.system), ("user", template.render(question_of(turns[0][1]))), turns[1]]
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def problem_of(place: str, number: int, record: Any) -> dict[str, Any]:
    """Convert a record of Eurus-2-RL-Data.

    Args:
        place: Where it is from, for messages.
        number: Its number in the data set, from 0.
        record: The record.

    Returns:
        A problem: ``id`` (the row's source and its number), ``problem`` (the question alone) and ``answer``.

    Raises:
        UserError: It is another record. The message names the place and the field.
    """
    check_object(place, record, ("ability", "prompt", "reward_model"), "a record of Eurus-2-RL-Data")
    _check_mathematics(place, "ability", record["ability"])
    check_object(
        f"{place}, field 'reward_model'", record["reward_model"], ("ground_truth",), "an object with ground_truth"
    )
    turns = _turns(place, "prompt", record["prompt"], "role", "content")
    if [role for role, _ in turns] != ["user"]:
        raise _LeftOut(NOT_TWO_TURNS)
    answer, origin = record["reward_model"]["ground_truth"], record.get("data_source")
    if not isinstance(answer, str) or not answer.strip():
        raise _LeftOut(NO_ANSWER)
    check_characters(place, "ground_truth", answer)
    name = origin if isinstance(origin, str) and origin.strip() else PROMPT
    return {"id": f"{name}-{number}", "problem": question_of(turns[0][1]), "answer": answer.strip()}


def _check_mathematics(place: str, field: str, value: object) -> None:
    if not isinstance(value, str):
        raise UserError(f"{place}: field '{field}' is {shown(value)}; expected a text such as math")
    if value.strip().lower() != "math":
        raise _LeftOut(f"of {value.strip().lower() or 'no subject'}")


def _turns(place: str, field: str, turns: object, role_key: str, text_key: str) -> list[tuple[str, str]]:
    """Read the turns of a conversation. A system message is left out, because the template has its own."""
    found = []
    for i, turn in enumerate(turns if isinstance(turns, list) else [turns]):
        role, text = (turn.get(key) if isinstance(turn, dict) else None for key in (role_key, text_key))
        role = "user" if role in _USERS else "assistant" if role in _ASSISTANTS else role
        if role not in ("system", "user", "assistant") or not isinstance(text, str):
            raise UserError(f"{place}: field '{field}[{i}]' is {shown(turn)}; expected a {role_key} and a {text_key}")
        check_characters(place, f"{field}[{i}]", text)
        if role != "system":
            found.append((role, text))
    return found


def question_of(text: str) -> str:
    """Cut the instruction off a question.

    Args:
        text: The question, which may end with a paragraph that asks for a box around the answer.

    Returns:
        The question alone. A question that is nothing but such a paragraph stays as it is.
    """
    return _INSTRUCTION.sub("", text).strip() or text.strip()
