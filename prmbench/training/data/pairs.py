"""Data for reward models: responses with verified outcomes, in (correct, incorrect) pairs of one prompt.

Three forms of record are read, one form a file:

- rollouts: what `prmbench rollout` writes. The sampled token ids are used as they are.
- outcomes, ``{messages, correct}``: a conversation that ends in the response, and whether its answer is right.
- pairs, ``{prompt, chosen, rejected}``: texts or lists of messages, as TRL has them.

Of a prompt's rollouts or outcomes one correct and one incorrect are drawn, as in the paper, or more such pairs, no response
twice; a prompt that has only one sort is dropped and counted. Pairs that come as pairs stay as they are, all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.prompts import PromptTemplate
from prmbench.data.records import Located, read_records
from prmbench.data.rollouts import Rollout, check_rollouts, conversation_of, find_rollouts, prompt_of
from prmbench.data.tokens import TraceEncoder
from prmbench.errors import UserError, nearest
from prmbench.training.data.chats import Chat, check_chat, encode_chat

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


@dataclass(frozen=True)
class Pairs:
    """Pairs made of a file, and what was left out.

    Attributes:
        pairs: The pairs: drawn from rollouts and outcomes, else as the file has them.
        n_responses: Number of responses in the file.
        n_prompts: Number of different prompts among them.
        n_overlong: Number of responses that are longer than the limit, their prompt included.
        n_one_sided: Number of prompts that do not have both outcomes among their other responses.
        prompted: Whether problems were put with the prompt template of the recipe, as those of rollouts are.
        remarks: What differs from how the responses were sampled, in whole sentences.
    """

    pairs: list[Pair]
    n_responses: int
    n_prompts: int
    n_overlong: int
    n_one_sided: int
    prompted: bool = False
    remarks: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Say the counts in words."""
        return (
            f"{len(self.pairs):,} pairs of {self.n_responses:,} responses to {self.n_prompts:,} prompts "
            f"(left out: {self.n_overlong:,} responses too long, {self.n_one_sided:,} prompts with one outcome only)"
        )


def load_pairs(
    path: str | Path, encoder: TraceEncoder, prompt: PromptTemplate, *, max_length: int, per_prompt: int = 1, seed: int
) -> Pairs:
    """Load a file and draw pairs.

    Args:
        path: The data file, or the folder of a rollout run.
        encoder: Encodes with the model's tokenizer and chat template.
        prompt: How the problems of a rollouts file were put to the policy.
        max_length: Longest prompt and response together, in tokens.
        per_prompt: Largest number of pairs drawn of a prompt.
        seed: Seed of the draw, which does not depend on the order of the file.

    Returns:
        The pairs.

    Raises:
        UserError: There is no such file, a record is wrong (the line and the field are named), or no pair is left.
    """
    file = find_rollouts(path)
    records = list(read_records(file))
    form = _form(*records[0])
    remarks: list[str] = []
    if form == "rollouts":
        remarks = _check_prompt(file, prompt, encoder)
        records = list(check_rollouts(records))
    responses: dict[str, tuple[list[Response], list[Response]]] = {}
    n_responses = n_overlong = 0
    if form == "pairs":
        found = _given(records, encoder, max_length)
    else:
        read = _Rollouts(encoder, prompt) if form == "rollouts" else functools.partial(_read_outcome, encoder)
        for place, record in records:
            for key, response, correct in read(place, record):
                n_responses += 1
                group = responses.setdefault(key, ([], []))
                if len(response) > max_length:
                    n_overlong += 1
                else:
                    group[0 if correct else 1].append(response)
        drawn = [_draw(key, right, wrong, per_prompt, seed) for key, (right, wrong) in responses.items()]
        pairs = [pair for of_prompt in drawn for pair in of_prompt]
        found = Pairs(pairs, n_responses, len(responses), n_overlong, sum(not of_prompt for of_prompt in drawn))
    if not found.pairs:
        raise UserError(f"{file}: no pair is left to train on ({found.sentence()})")
    return dataclasses.replace(found, prompted=form == "rollouts", remarks=tuple(remarks))


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
    # Sorted first, so that the draw does not depend on the order in which responses came.
    drawn = [rng.sample(sorted(group, key=lambda r: r.ids.tobytes()), n) for group in (right, wrong)]
    return [Pair(key, one, other) for one, other in zip(*drawn, strict=True)]


def _form(place: str, record: Any) -> str:
    fields = record if isinstance(record, dict) else {}
    if "completion" in fields and "ids" in fields:
        return "rollouts"
    if "chosen" in fields or "rejected" in fields:
        return "pairs"
    if "messages" in fields or "conversations" in fields:
        return "outcomes"
    raise UserError(
        f"{place}: neither a rollout (id, completion, ids, verdict) nor {{messages, correct}} nor {{prompt, chosen, rejected}}"
    )


class _Rollouts:
    """Reads rollouts; the sampled token ids are used as they are."""

    def __init__(self, encoder: TraceEncoder, prompt: PromptTemplate) -> None:
        self.encoder, self.prompt = encoder, prompt
        self.prompts: dict[str, Ids] = {}

    def __call__(self, place: str, rollout: Rollout) -> list[tuple[str, Response, bool]]:
        if rollout.id not in self.prompts:
            self.prompts[rollout.id] = self.encoder.prompt_ids(self.prompt.render(rollout.problem), self.prompt.system)
        before = self.prompts[rollout.id]
        if not len(rollout.ids):  # its prompt left no room
            return []
        tokenizer = self.encoder.tokenizer
        if (
            int(rollout.ids.max()) >= len(tokenizer)
            or tokenizer.decode(rollout.ids, skip_special_tokens=True) != rollout.completion
        ):
            raise UserError(
                f"{place}: the token ids do not decode to the completion; they were sampled with another tokenizer than "
                "that of the model to be trained"
            )
        return [(rollout.id, Response(np.concatenate([before, rollout.ids]), len(before)), rollout.correct)]


def _read_outcome(encoder: TraceEncoder, place: str, record: Any) -> list[tuple[str, Response, bool]]:
    chat = check_chat(place, record)
    if not isinstance(record.get("correct"), bool):
        shown = json.dumps(record["correct"])[:40] if "correct" in record else f"missing{nearest('correct', record)}"
        raise UserError(f"{place}: field 'correct' is {shown}; expected true or false")
    return [(_key(chat.turns), _response(encoder, chat), record["correct"])]


def _given(records: Sequence[Located], encoder: TraceEncoder, max_length: int) -> Pairs:
    """Pairs as the file has them, all of them."""
    pairs, n_overlong = [], 0
    for place, record in records:
        chosen, rejected = (_side(place, record, field) for field in ("chosen", "rejected"))
        if chosen.turns != rejected.turns:
            raise UserError(f"{place}: 'chosen' and 'rejected' answer different prompts")
        if chosen.answer == rejected.answer:
            raise UserError(f"{place}: 'chosen' and 'rejected' are the same text")
        pair = Pair(_key(chosen.turns), _response(encoder, chosen), _response(encoder, rejected))
        n_overlong += sum(len(response) > max_length for response in pair.rows)
        pairs.append(pair)
    kept = [pair for pair in pairs if len(pair) <= max_length]
    prompts, left = {pair.key for pair in pairs}, {pair.key for pair in kept}
    return Pairs(kept, 2 * len(pairs), len(prompts), n_overlong, len(prompts - left))


def _side(place: str, record: Any, field: str) -> Chat:
    """A side of a pair as a conversation; the prompt may be a field of its own or the start of both sides."""
    if not isinstance(record, dict) or not isinstance(record.get(field), str | list):
        raise UserError(f"{place}: field '{field}' is missing or no text; a pair needs prompt, chosen, rejected")
    if isinstance(record[field], str) and "prompt" not in record:
        raise UserError(
            f"{place}: field 'prompt' is missing{nearest('prompt', record)}; a pair needs prompt, chosen, rejected"
        )
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
