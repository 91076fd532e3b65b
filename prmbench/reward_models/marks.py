"""How problem and steps become token ids with a mark after every step, where a PRM's scores are read.

Where a score is read is known from how the ids are put together, and never found by a search for the mark. So a mark inside a
text, an empty step and a step that ends in the mark are steps like any other: each has one score, at the mark put after it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from prmbench.data.tokens import EncodedTrace, TokenOptions, TraceEncoder, plain_tokenizer
from prmbench.errors import UserError, argument

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = NDArray[np.int64]


class MarkLayout(BaseModel):
    """The texts around the steps and their marks. Every text is put in as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Literal["chat", "text", "turns"] = Field(
        "chat",
        description="chat: the prompt of the chat template, then steps and marks as the answer; text: the bare problem, then "
        "steps and marks; turns: a user turn for each step, with the mark as the assistant's turn after it",
    )
    bos: bool | Literal["auto"] = Field(
        False,
        description="text: whether the tokenizer's beginning-of-sequence token comes first; auto: where the tokenizer has one",
    )
    before_steps: str = Field("", description="text, turns: what stands between the problem and the first step")
    mark: str = Field("<extra_0>", min_length=1, description="the text of the mark")
    one_token: bool = Field(True, description="whether a tokenizer in which the mark is several tokens is refused")
    before_mark: str = Field("", description="chat, text: what stands between a step and its mark")
    after_mark: str = Field("", description="chat, text: what stands between a mark and the next step")
    strip: bool = Field(False, description="whether white space around each step is taken off")
    split: bool = Field(
        False,
        description="chat, text: whether a step with the mark in its text is tokenized part by part, with the mark's ids between; "
        "its score is read at the mark after it",
    )
    tokenize: Literal["pieces", "whole"] = Field(
        "pieces",
        description="pieces: prompt and steps are tokenized each alone and marks are put in as ids; whole: the joined text is "
        "tokenized once and marks are found by their characters",
    )
    read: Literal["at", "before"] = Field(
        "at", description="which state a score is read from: at the last token of the mark, or before its first token"
    )

    @model_validator(mode="after")
    def _all_is_used(self) -> MarkLayout:
        unused = ("before_mark", "after_mark") if self.prompt == "turns" else ("before_steps",)
        for name in unused if self.prompt != "text" else ():
            if getattr(self, name):
                raise ValueError(f"{name} means nothing where prompt is {self.prompt}; leave it out")
        if self.split and (self.prompt == "turns" or self.tokenize == "whole"):
            raise ValueError("split means nothing where prompt is turns or tokenize is whole; leave it out")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing and was added later, so that layouts of older entries are equal to those of today."""
        return {name: value for name, value in dump(self).items() if value or name not in ("strip", "split")}


@dataclass(frozen=True)
class MarkedTrace(EncodedTrace):
    """Token ids of one trace with marks. Its `step_of` is all -1: what stands between marks is not split further.

    Attributes:
        marks: Positions in `ids` whose states the scores are read from. int64, shape [n_steps].
        counts: Number of tokens of each step's own text, tokenized alone. int64, shape [n_steps].
    """

    marks: Ids
    counts: Ids

    def step_counts(self) -> Ids:
        """Return the number of tokens of each step's own text. int64, shape [n_steps]."""
        return self.counts


@dataclass(frozen=True)
class Segment:
    """A piece of the text that is shown.

    Attributes:
        text: The text.
        mark: Whether it is a mark.
    """

    text: str
    mark: bool = False


def lay_out(prompt: str, steps: Sequence[str], layout: MarkLayout, step_prefix: str) -> list[Segment]:
    """Put prompt, steps and marks in order, for the layouts chat and text.

    Args:
        prompt: All that comes before the first step.
        steps: Texts of the steps.
        layout: Where the marks are.
        step_prefix: Text before each step, in which ``{i}`` is its number from 1.

    Returns:
        The pieces, one after the other.
    """
    segments = [Segment(prompt)]
    for i, step in enumerate(steps):
        between = layout.after_mark if i else ""
        text = between + step_prefix.replace("{i}", str(i + 1)) + step + layout.before_mark
        first, *others = text.split(layout.mark) if layout.split else [text]
        segments.append(Segment(first))
        for part in others:
            segments += [Segment(layout.mark), Segment(part)]
        segments.append(Segment(layout.mark, mark=True))
    return segments


def lay_out_turns(turns: Sequence[str], mark: str, render: Callable[[list[dict[str, str]]], str]) -> list[Segment]:
    """Make every step a turn of the user, and the mark the assistant's turn after it.

    Args:
        turns: Texts of the user's turns.
        mark: Text of the mark.
        render: Gives the text of the chat template for a conversation, generation prompt included.

    Returns:
        The pieces, one after the other.

    Raises:
        UserError: The template writes the start of a conversation otherwise once more turns follow.
    """
    segments: list[Segment] = []
    conversation: list[dict[str, str]] = []
    before = ""
    for turn in turns:
        conversation.append({"role": "user", "content": turn})
        text = render(conversation)
        if not text.startswith(before):
            raise UserError(
                "the chat template rewrites earlier turns, so that a step's score would depend on later steps; pass "
                f"{argument('chat_template')} with the one the model was trained with"
            )
        segments += [Segment(text[len(before) :]), Segment(mark, mark=True)]
        before = text + mark
        conversation.append({"role": "assistant", "content": mark})
    return segments


def encode_pieces(
    segments: Sequence[Segment], ids_of: Callable[[str], Ids], read: Literal["at", "before"]
) -> tuple[Ids, Ids]:
    """Tokenize every piece alone and concatenate.

    Args:
        segments: The pieces.
        ids_of: Gives the token ids of a text.
        read: Whether a score is read at the mark or before it.

    Returns:
        The token ids, int64, shape [length]; and the positions to read, int64, shape [number of marks].
    """
    pieces: list[Ids] = []
    marks = []
    length = 0
    for segment in segments:
        piece = ids_of(segment.text)
        pieces.append(piece)
        if segment.mark:
            marks.append(length + len(piece) - 1 if read == "at" else length - 1)
        length += len(piece)
    return np.concatenate(pieces), np.array(marks, dtype=np.int64)


def encode_whole(
    segments: Sequence[Segment],
    encode: Callable[[str], tuple[Ids, Sequence[tuple[int, int]]]],
    read: Literal["at", "before"],
    alone: Ids,
) -> tuple[Ids, Ids]:
    """Tokenize the joined text once. A mark is the tokens that its characters became.

    A tokenizer may merge a mark with what stands beside it: "." and a newline are one token of many. The model was trained on
    another token, and would give a number all the same.

    Args:
        segments: The pieces.
        encode: Gives the token ids of a text, and the characters (start, end) of each token.
        read: Whether a score is read at the mark or before it.
        alone: Token ids of a mark between two words, from `mark_alone`. int64, shape [tokens of a mark].

    Returns:
        The token ids, int64, shape [length]; and the positions to read, int64, shape [number of marks].

    Raises:
        UserError: The characters of a mark share a token with other text than white space before them, or are other tokens than
            between two words.
    """
    text = "".join(segment.text for segment in segments)
    ids, offsets = encode(text)
    starts = np.array([start for start, _ in offsets])
    ends = np.array([end for _, end in offsets])
    marks = []
    position = 0
    for segment in segments:
        after = position + len(segment.text)
        if segment.mark:
            own = np.flatnonzero((ends > position) & (starts < after))
            shared = text[starts[own[0]] : position] if len(own) else "x"
            if shared.strip() or ends[own].max() > after or not np.array_equal(ids[own], alone):
                raise UserError(
                    f"the mark '{segment.text}' after {json.dumps(text[max(0, position - 30) : position])} is no token of its own "
                    "in this tokenizer; put white space around it (before_mark, after_mark), or tokenize pieces"
                )
            marks.append(own[-1] if read == "at" else own[0] - 1)
        position = after
    return ids, np.array(marks, dtype=np.int64)


def mark_alone(layout: MarkLayout, encode: Callable[[str], tuple[Ids, Sequence[tuple[int, int]]]]) -> Ids:
    """Find the token ids of a mark with its white space between two words, where nothing merges with it.

    Args:
        layout: Where the marks are.
        encode: Gives the token ids of a text, and the characters (start, end) of each token.

    Returns:
        The ids. int64, shape [tokens of a mark].
    """
    start = 1 + len(layout.before_mark)
    ids, offsets = encode(f"x{layout.before_mark}{layout.mark}{layout.after_mark}x")
    end = start + len(layout.mark)
    return ids[[i for i, (first, last) in enumerate(offsets) if last > start and first < end]]


def single_id(encoder: TraceEncoder | MarkEncoder, word: str) -> int:
    """Find the id of a word that is one token, for a pair of words.

    Args:
        encoder: What knows the vocabulary.
        word: The word.

    Returns:
        Its id.

    Raises:
        UserError: It is not one token.
    """
    ids = encoder.text_ids(word)
    if len(ids) != 1:
        raise UserError(
            f"pair: '{word}' is {len(ids)} tokens of this tokenizer, expected one; is it the model's tokenizer, and its preset? "
            "Otherwise name other words"
        )
    return int(ids[0])


class MarkEncoder:
    """Encodes traces with one tokenizer and one layout."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        options: TokenOptions,
        layout: MarkLayout,
        chat_template: str | None = None,
    ) -> None:
        """Check that tokenizer and layout fit.

        Args:
            tokenizer: A fast tokenizer.
            options: System message, template arguments and step prefix. The separator only says where raw solutions split.
            layout: Where the marks are.
            chat_template: Jinja text to use in place of the chat template of the tokenizer; None keeps that one.

        Raises:
            UserError: There is no chat template where the layout needs one, a system message where there is no chat, no
                beginning-of-sequence token where the layout has one, a mark of several tokens, or a slow tokenizer.
        """
        self.tokenizer = tokenizer
        self.options = options
        self.layout = layout
        self._plain = plain_tokenizer(tokenizer)
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        self._chat = None
        if layout.prompt != "text":
            self._chat = TraceEncoder(tokenizer, options, chat_template)
        elif options.system is not None or options.template_args or options.date or chat_template is not None:
            raise UserError(
                "a system message, template arguments or a chat template: this layout has the bare problem as its prompt "
                "(marks.prompt is text); leave them out"
            )
        if options.step_ends != "text":
            raise UserError("tokens.step_ends means nothing where scores are read at marks; leave it out")
        self._bos = [] if tokenizer.bos_token_id is None or not layout.bos else [tokenizer.bos_token_id]
        if layout.bos is True and not self._bos:
            raise UserError(
                f"{name}: has no beginning-of-sequence token, which this layout puts first; is it the model's tokenizer? "
                "Otherwise set marks.bos to false"
            )
        self._mark_alone = mark_alone(layout, self._with_offsets)
        n = len(self.text_ids(layout.mark))
        if n == 0 or (layout.one_token and n > 1):
            raise UserError(
                f"{name}: the mark '{layout.mark}' is {n} tokens of this tokenizer, expected one; is it the model's tokenizer, "
                "and its preset? (marks.mark names another mark)"
            )

    def text_ids(self, text: str) -> Ids:
        """Give the token ids of a text, with no special token added.

        Args:
            text: The text.

        Returns:
            The ids. int64, shape [t].
        """
        return np.array(self._plain.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def encode(self, problem: str, steps: Sequence[str]) -> MarkedTrace:
        """Encode one trace.

        Args:
            problem: Text of the problem.
            steps: Texts of the steps, which may be empty.

        Raises:
            UserError: As `lay_out_turns` and `encode_whole` do.
        """
        layout = self.layout
        if layout.strip:
            steps = [step.strip() for step in steps]
        counts = np.array([len(self.text_ids(step)) for step in steps], dtype=np.int64)
        if layout.prompt == "turns":
            assert self._chat is not None
            turns = [self.options.step_prefix.replace("{i}", str(i)) + step for i, step in enumerate(steps, start=1)]
            turns[0] = problem + layout.before_steps + turns[0]
            segments = lay_out_turns(turns, layout.mark, self._render_turns)
        else:
            prompt = self._chat.render_prompt(problem) if self._chat else problem + layout.before_steps
            segments = lay_out(prompt, steps, layout, self.options.step_prefix)
        if layout.tokenize == "pieces":
            ids, marks = encode_pieces(segments, self.text_ids, layout.read)
        else:
            ids, marks = encode_whole(segments, self._with_offsets, layout.read, self._mark_alone)
        ids, marks = np.concatenate([self._bos, ids]).astype(np.int64), marks + len(self._bos)
        before = int(marks[0]) - int(counts[0]) if layout.prompt == "turns" else len(self.text_ids(segments[0].text))
        n_prompt = max(0, before)
        return MarkedTrace(
            ids, n_prompt, np.full(len(ids) - n_prompt, -1, dtype=np.int64), len(steps), marks=marks, counts=counts
        )

    def template_hash(self) -> str:
        """Return the sha256 (hex) of the chat template, if it is used, and everything that shapes the text."""
        template = self._chat.chat_template if self._chat else None
        content = [template, self._text_options(), self.layout.model_dump()]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def recorded_options(self) -> dict[str, Any]:
        """Return the options as the provenance of an entry records them."""
        origin = getattr(self.tokenizer, "origin", None)
        return {**self._text_options(), "marks": self.layout.model_dump(), **({"tokenizer": origin} if origin else {})}

    def _text_options(self) -> dict[str, Any]:
        return self._chat.text_options() if self._chat else self.options.model_dump(exclude={"date"})

    @property
    def warnings(self) -> list[str]:
        """What a reader of the results should know about the text, in whole sentences."""
        return self._chat.warnings if self._chat else []

    def _render_turns(self, conversation: list[dict[str, str]]) -> str:
        assert self._chat is not None
        system = [{"role": "system", "content": self.options.system}] if self.options.system is not None else []
        return self._chat.render([*system, *conversation])

    def _with_offsets(self, text: str) -> tuple[Ids, Sequence[tuple[int, int]]]:
        found = self._plain.encode(text, add_special_tokens=False)
        return np.array(found.ids, dtype=np.int64), found.offsets
