"""Data for reward models: responses with verified outcomes, in (correct, incorrect) pairs of one prompt.

Three forms of record are read, one form a file:

- rollouts: what `prmbench rollout` writes. The sampled token ids are used as they are.
- outcomes, ``{messages, correct}``: a conversation that ends in the response, and whether its answer is right; or ``{prompt,
  completion, label}``, as TRL has unpaired data.
- pairs, ``{prompt, chosen, rejected}``: texts or lists of messages, as TRL has them.

Of a prompt's rollouts or outcomes one correct and one incorrect are drawn, as in the paper, or more such pairs, no response
twice; a prompt that has only one sort is dropped and counted. Pairs that come as pairs stay as they are, all of them. Rows that
nothing can be learned from are left out, as long as they are few (`prmbench.training.data.unusable`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.prompts import PromptTemplate
from prmbench.data.records import read_records, shown
from prmbench.data.rollouts import Rollout, check_rollouts, conversation_of, find_rollouts, prompt_of
from prmbench.data.tokens import TraceEncoder
from prmbench.errors import UserError, nearest
from prmbench.training.data.chats import Chat, check_chat, encode_chat
from prmbench.training.data.unusable import UnusableRow, UsableRows

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Response:
    """One response to a prompt.

    Attributes:
        ids: Token ids of the prompt, then of the response. int64, shape [p + t].
        n_prompt: Number of tokens of the prompt, p.
    """

    ids: Ids
    n_prompt: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Pair:
    """A correct and an incorrect response to one prompt.

    Attributes:
        key: Names the prompt.
        correct: The correct response.
        incorrect: The incorrect response.
    """

    key: str
    correct: Response
    incorrect: Response

    @property
    def rows(self) -> tuple[Response, Response]:
        """The correct response, then the incorrect one."""
        return self.correct, self.incorrect

    def __len__(self) -> int:
        return max(len(self.correct), len(self.incorrect))


Read = tuple[str, Response, bool]
"""What a reader gives of a row: the key of the prompt, the response, and whether it is correct."""

Reader = Callable[[str, Any], list[Read]]


@dataclass(frozen=True)
class Pairs:
    """Pairs made of a file, and what was left out.

    Attributes:
        pairs: The pairs: drawn from rollouts and outcomes, else as the file has them.
        n_responses: Number of usable responses in the file.
        n_prompts: Number of different prompts among them.
        n_overlong: Number of responses that are longer than the limit, their prompt included.
        n_one_sided: Number of prompts that do not have both outcomes among their other responses.
        unusable: Number of rows of no use, by what is wrong with them.
        prompted: Whether problems were put with the prompt template of the recipe, as those of rollouts are.
        remarks: What differs from how the responses were sampled, and which rows are of no use, in whole sentences.
    """

    pairs: list[Pair]
    n_responses: int
    n_prompts: int
    n_overlong: int
    n_one_sided: int
    unusable: dict[str, int]
    prompted: bool = False
    remarks: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Say the counts in words."""
        return (
            f"{len(self.pairs):,} pairs of {self.n_responses:,} responses to {self.n_prompts:,} prompts "
            f"(left out: {self.n_overlong:,} responses too long, {self.n_one_sided:,} prompts with one outcome only)"
        )


def load_pairs(
    path: str | Path,
    encoder: TraceEncoder,
    prompt: PromptTemplate,
    *,
    max_length: int,
    per_prompt: int = 1,
    seed: int,
    strict: bool = False,
) -> Pairs:
    """Load a file and draw pairs.

    Args:
        path: The data file, or the folder of a rollout run.
        encoder: Encodes with the model's tokenizer and chat template.
        prompt: How the problems of a rollouts file were put to the policy.
        max_length: Longest prompt and response together, in tokens.
        per_prompt: Largest number of pairs drawn of a prompt.
        seed: Seed of the draw, which does not depend on the order of the file.
        strict: Whether a row that is too long or of no use is an error.

    Returns:
        The pairs.

    Raises:
        UserError: There is no such file, a record is wrong (the line and the field are named), too many rows are of no use, or no
            pair is left.
    """
    file = find_rollouts(path)
    records: list[tuple[str, Any]] = list(read_records(file))
    form = _form(*records[0])
    remarks: list[str] = []
    if form == "rollouts":
        remarks = _check_prompt(file, prompt, encoder)
        records = list(check_rollouts(records))
    readers: dict[str, Reader] = {
        "rollouts": _Rollouts(encoder, prompt),
        "outcomes": functools.partial(_read_outcome, encoder),
        "pairs": functools.partial(_read_pair, encoder),
    }

    # Collect the responses of each prompt. Those of a pair stay by themselves.
    groups: dict[str, tuple[str, list[Response], list[Response]]] = {}
    rows, n_responses, n_overlong, first_overlong = UsableRows(file, strict=strict), 0, 0, ""
    for place, responses in rows.read(records, readers[form]):
        for key, response, correct in responses:
            n_responses += 1
            _, right, wrong = groups.setdefault(place if form == "pairs" else key, (key, [], []))
            if len(response) <= max_length:
                (right if correct else wrong).append(response)
                continue
            n_overlong += 1
            first_overlong = first_overlong or place
            if strict:
                raise UserError(f"{place}: is {len(response):,} tokens long, max_length is {max_length:,}")

    if 2 * n_overlong > n_responses:
        raise UserError(
            f"{file}: {n_overlong:,} of {n_responses:,} responses are longer than max_length {max_length:,}, more than half (the "
            f"first is {first_overlong}); raise max_length, or mend the file"
        )
    pairs = [pair for group in groups.values() for pair in _draw(*group, per_prompt, seed)]
    prompts = {key for key, _, _ in groups.values()}
    n_one_sided = len(prompts - {pair.key for pair in pairs})
    remarks += rows.remarks()
    if n_overlong:
        remarks.append(f"{n_overlong:,} responses are longer than max_length {max_length:,}, first {first_overlong}")
    prompted, unusable = form == "rollouts", dict(rows.counts)
    found = Pairs(
        pairs, n_responses, len(prompts), n_overlong, n_one_sided, unusable, prompted=prompted, remarks=tuple(remarks)
    )
    if not found.pairs:
        raise UserError(f"{file}: no pair is left to train on ({found.sentence()})")
    return found


def split_held_out(pairs: Sequence[Pair], n: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Keep back the pairs of whole prompts, chosen by a hash, until there are at least n.

    Args:
        pairs: The pairs.
        n: Number of pairs to keep back.
        seed: Seed of the choice.

    Returns:
        Pairs to train on, and pairs kept back, each in the given order.
    """
    ranked = sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}:{pair.key}".encode()).digest())
    held = {pair.key for pair in ranked[:n]}
    return [pair for pair in pairs if pair.key not in held], [pair for pair in pairs if pair.key in held]


def _draw(key: str, right: list[Response], wrong: list[Response], n: int, seed: int) -> list[Pair]:
    rng = random.Random(f"{seed}:{key}")
    n = min(n, len(right), len(wrong))
    # They are sorted first, so that the draw does not depend on the order in which responses came.
    drawn = [rng.sample(sorted(group, key=lambda r: r.ids.tobytes()), n) for group in (right, wrong)]
    return [Pair(key, one, other) for one, other in zip(*drawn, strict=True) if one.ids.tolist() != other.ids.tolist()]


def _form(place: str, record: Any) -> str:
    fields = record if isinstance(record, dict) else {}
    if "completion" in fields and "ids" in fields:
        return "rollouts"
    if "chosen" in fields or "rejected" in fields:
        return "pairs"
    if {"messages", "conversations"} & set(fields) or ("completion" in fields and "label" in fields):
        return "outcomes"
    raise UserError(
        f"{place}: neither a rollout (id, completion, ids, verdict) nor {{messages, correct}} nor {{prompt, completion, label}} "
        "nor {prompt, chosen, rejected}"
    )


class _Rollouts:
    """Reads rollouts; the sampled token ids are used as they are."""

    def __init__(self, encoder: TraceEncoder, prompt: PromptTemplate) -> None:
        self.encoder, self.prompt = encoder, prompt
        self.prompts: dict[str, Ids] = {}

    def __call__(self, place: str, rollout: Rollout) -> list[Read]:
        if rollout.id not in self.prompts:
            self.prompts[rollout.id] = self.encoder.prompt_ids(self.prompt.render(rollout.problem), self.prompt.system)
        before = self.prompts[rollout.id]
        if not len(rollout.ids):  # its prompt left no room
            return []
        tokenizer = self.encoder.tokenizer
        if int(rollout.ids.max()) >= len(tokenizer):
            raise UnusableRow(
                place, "the token ids do not decode, some are past the tokenizer's last", f" ({len(tokenizer) - 1})"
            )
        if tokenizer.decode(rollout.ids, skip_special_tokens=True) != rollout.completion:
            raise UserError(
                f"{place}: the token ids do not decode to the completion; they were sampled with another tokenizer than "
                "that of the model to be trained"
            )
        if not rollout.completion.strip():
            raise UnusableRow(place, "the answer is blank")
        return [(rollout.id, Response(np.concatenate([before, rollout.ids]), len(before)), rollout.correct)]


def _read_outcome(encoder: TraceEncoder, place: str, record: Any) -> list[Read]:
    unpaired = isinstance(record, dict) and "completion" in record
    chat = _side(place, record, "completion") if unpaired else check_chat(place, record)
    field = "label" if unpaired else "correct"
    correct = record.get(field)
    if not isinstance(correct, bool | int | float) or correct not in (0, 1):
        found = shown(correct) if field in record else f"missing{nearest(field, record)}"
        raise UserError(f"{place}: field '{field}' is {found}; expected true or false, or 1 or 0")
    return [(_key(chat.turns), _response(encoder, chat), bool(correct))]


def _read_pair(encoder: TraceEncoder, place: str, record: Any) -> list[Read]:
    chosen, rejected = (_side(place, record, field) for field in ("chosen", "rejected"))
    if chosen.turns != rejected.turns:
        raise UserError(f"{place}: 'chosen' and 'rejected' answer different prompts")
    if chosen.answer == rejected.answer:
        raise UnusableRow(place, "'chosen' and 'rejected' are the same text")
    return [(_key(chat.turns), _response(encoder, chat), chat is chosen) for chat in (chosen, rejected)]


def _side(place: str, record: Any, field: str) -> Chat:
    """A response as a conversation; the prompt may be a field of its own or the start of the response."""
    needs = (
        "a pair needs prompt, chosen, rejected" if field != "completion" else "a row needs prompt, completion, label"
    )
    if not isinstance(record, dict) or not isinstance(record.get(field), str | list):
        raise UserError(f"{place}: field '{field}' is missing or no text; {needs}")
    if isinstance(record[field], str) and "prompt" not in record:
        raise UserError(f"{place}: field 'prompt' is missing{nearest('prompt', record)}; {needs}")
    before, answer = record.get("prompt", []), record[field]
    if not isinstance(before, str | list):
        raise UserError(f"{place}: field 'prompt' must be a text or a list of messages")
    turns = [{"role": "user", "content": before}] if isinstance(before, str) else list(before)
    turns += [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    return check_chat(place, {"messages": turns}, said=field)


def _response(encoder: TraceEncoder, chat: Chat) -> Response:
    return Response(*encode_chat(encoder, chat))


def _key(turns: tuple[tuple[str, str], ...]) -> str:
    return hashlib.sha256(json.dumps(turns).encode()).hexdigest()


def _check_prompt(file: Path, prompt: PromptTemplate, encoder: TraceEncoder) -> list[str]:
    """The folder of a rollout run says how it put problems; otherwise put, they would be states that the policy never saw.

    Returns:
        What cannot be the same, in whole sentences: the chat template of another tokenizer.
    """
    used = prompt_of(file)
    if used is not None and used != prompt.name:
        raise UserError(
            f"{file}: was sampled with the prompt template '{used}', the recipe says '{prompt.name}'; set prompt: {used}"
        )
    there, here = conversation_of(file), encoder.conversation()
    for name in ("system", "template_args"):
        if name in there and there[name] != here[name]:
            raise UserError(
                f"{file}: was sampled with {name} {json.dumps(there[name])}, the recipe has {json.dumps(here[name])}; set "
                f"tokens.{name}"
            )
    if there.get("chat_template", here["chat_template"]) == here["chat_template"]:
        return []
    return [f"{file}: was sampled with another chat template; the model is trained with that of its own tokenizer"]
