"""From a trace to token ids, and which token belongs to which step (docs/protocols.md, "From trace to tokens").

The state that a policy sees is what is scored: the chat template's rendering of the conversation with the generation prompt, then
the solution verbatim, then the end of turn. Prompt and response are tokenized separately, each once, and their ids are
concatenated. The solution never passes through the template, because some templates add thinking tags to it or strip it. Prefixes
are never tokenized again, because a BPE merge across the end of a step would move the boundary.
"""

from __future__ import annotations

import bisect
import datetime as dt
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from prmbench.errors import ArgumentError, UserError, argument, first_line
from prmbench.limits import MEBIBYTES, SECONDS, ends

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_SENTINEL = "prmbench-answer"

DEFAULT_DATE = "2024-07-26"
"""The day that a chat template is given which asks for today's date: the one that Llama 3.2's falls back to."""


class TokenOptions(BaseModel):
    """How a trace becomes text. It is recorded with every entry, because it changes scores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str | None = Field(None, description="system message before the problem; none by default")
    separator: str = Field("\n\n", description="text between two steps")
    step_prefix: str = Field("", description="text before each step, where '{i}' is its number from 1 ('Step {i}: ')")
    template_args: dict[str, Any] = Field(
        default_factory=dict, description="arguments that the chat template is rendered with"
    )
    end_of_turn: str | None = Field(
        None, description="token that ends the turn; by default what the chat template writes after an answer"
    )
    step_ends: Literal["text", "prefixes"] = Field(
        "text",
        description="where the steps of a trace end: text, with their separators; prefixes, where scripts of Implicit PRM look: at "
        "the length of the conversation up to each step, tokenized anew, which can lie some tokens later",
    )
    date: str | None = Field(
        None, description=f"day that a chat template is given as today's, YYYY-MM-DD; by default {DEFAULT_DATE}"
    )

    @field_validator("system", "separator", "step_prefix", "end_of_turn", "template_args")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise ValueError("has half of a surrogate pair, which is no text") from None
        return value

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing and was added later, so that options of older entries are equal to those of today."""
        return {name: value for name, value in dump(self).items() if name != "step_ends" or value != "text"}

    def with_system(self, system: str | None) -> TokenOptions:
        """Give the same options, with a system message where they name none.

        Args:
            system: The system message; None is none.
        """
        return self if self.system is not None else self.model_copy(update={"system": system})

    @field_validator("date")
    @classmethod
    def _is_a_day(cls, date: str | None) -> str | None:
        if date is not None:
            dt.date.fromisoformat(date)
        return date


@dataclass(frozen=True)
class EncodedTrace:
    """Token ids of one trace.

    Attributes:
        ids: Ids of the prompt, then of the response with its end-of-turn token. Shape [p + t].
        n_prompt: Number of the prompt's tokens, p.
        step_of: The step that each response token belongs to, from 0; -1 for the end of turn. Shape [t].
        n_steps: Number of steps.
    """

    ids: NDArray[np.int64]
    n_prompt: int
    step_of: NDArray[np.int64]
    n_steps: int

    def __len__(self) -> int:
        return len(self.ids)

    def step_counts(self) -> NDArray[np.int64]:
        """Count the tokens of each step.

        Returns:
            The counts. Shape [n_steps].
        """
        return np.bincount(self.step_of[self.step_of >= 0], minlength=self.n_steps)

    def step_sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum the values of the tokens of each step.

        Args:
            values: One value a response token. Shape [t].

        Returns:
            The sums. Shape [n_steps].
        """
        inside = self.step_of >= 0
        return np.bincount(self.step_of[inside], weights=values[inside], minlength=self.n_steps).astype(np.float64)


class TraceEncoder:
    """Encodes traces with one tokenizer and one set of options.

    Attributes:
        tokenizer: The tokenizer.
        options: How a trace becomes text.
        chat_template: The Jinja template that renders conversations.
        date: The day that the template is given as today's; None where it asks for none.
        end_of_turn: Id of the token that ends a turn.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, options: TokenOptions | None = None, chat_template: str | None = None
    ) -> None:
        """Check that the tokenizer and the template work.

        Args:
            tokenizer: A fast tokenizer.
            options: How a trace becomes text; None is `TokenOptions` as it is.
            chat_template: A Jinja template, or the name of one of the tokenizer's; None is the tokenizer's own, the default one of
                several.

        Raises:
            ArgumentError: The tokenizer has no template of this name, or the template asks for no date.
            UserError: The tokenizer has no chat template or is not a fast one, or the template fails with its arguments, or does
                not end.
        """
        self.tokenizer = tokenizer
        self.options = options or TokenOptions()
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        template = _find_template(tokenizer.chat_template, chat_template, name)
        if not template:
            raise UserError(
                f"{name}: has no chat template; pass {argument('chat_template')} with the Jinja template that the model was "
                "trained with"
            )
        self.chat_template = template
        self._refuse_runaway()
        self._plain = plain_tokenizer(tokenizer)
        self.date: str | None = None
        self.render_prompt("x")
        if self.options.date is not None and self.date is None:
            raise ArgumentError("date", self.options.date, "this chat template asks for no date; leave it out")
        self.end_of_turn = self._find_end_of_turn()

    @property
    def warnings(self) -> list[str]:
        """What a reader of the results should know about the text, in whole sentences."""
        if self.date is None or self.options.date is not None:
            return []
        return [
            f"the chat template writes today's date; it is given {self.date}, so that results do not depend on the day "
            f"({argument('date')} names another day)"
        ]

    def render_prompt(self, problem: str, system: str | None = None) -> str:
        """Render a problem with the chat template.

        Args:
            problem: The question.
            system: A system message, which is of effect where the options have none; None is none.

        Returns:
            The text, generation prompt included.
        """
        return self.render(self._conversation(problem, system))

    def template_hash(self) -> str:
        """Hash the chat template, and everything in the options that shapes the text, with sha256, in hex."""
        content = json.dumps([self.chat_template, self.text_options()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def conversation(self) -> dict[str, Any]:
        """Say what shapes a prompt besides the problem and its template: what a run records, and the next stage compares.

        Returns:
            The system message, the arguments of the chat template, its sha256, whether it is the tokenizer's own, and the day that
            it is given where it asks for one.
        """
        own = self.tokenizer.chat_template
        return {
            "system": self.options.system,
            "template_args": self.options.template_args,
            "chat_template": hashlib.sha256(self.chat_template.encode()).hexdigest(),
            "own_template": self.chat_template == (own.get("default") if isinstance(own, dict) else own),
            **({"date": self.date} if self.date is not None else {}),
        }

    def recorded_options(self) -> dict[str, Any]:
        """List the options as an entry's provenance records them: with the token that ends a turn, and where ids come from."""
        end_of_turn = self.tokenizer.convert_ids_to_tokens(self.end_of_turn)
        origin = getattr(self.tokenizer, "origin", None)
        return {**self.text_options(), "end_of_turn": end_of_turn, **({"tokenizer": origin} if origin else {})}

    def text_options(self) -> dict[str, Any]:
        """List the options that shape the text: the date among them where the template asks for it."""
        found = self.options.model_dump(exclude={"date"})
        return found if self.date is None else {**found, "date": self.date}

    def prompt_ids(self, problem: str, system: str | None = None) -> NDArray[np.int64]:
        """Encode a problem without a response.

        Args:
            problem: The question.
            system: A system message, which is of effect where the options have none; None is none.

        Returns:
            Token ids of the prompt. Shape [p].
        """
        return self.text_ids(self.render_prompt(problem, system))

    def text_ids(self, text: str) -> NDArray[np.int64]:
        """Encode a text as it is.

        Args:
            text: The text.

        Returns:
            Its token ids, with no special token added. Shape [t].
        """
        return np.array(self._plain.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def encode(self, problem: str, steps: Sequence[str]) -> EncodedTrace:
        """Encode one trace. The ids of prompt and response are those that the tokenizer gives each alone.

        Args:
            problem: The question.
            steps: The steps of the solution, at least one.

        Returns:
            The trace as tokens.
        """
        prompt = self.prompt_ids(problem)
        text, ends = join_steps(steps, self.options)
        response = self._plain.encode(text, add_special_tokens=False)
        starts = [start for start, _ in response.offsets]
        step_of = [*(min(bisect.bisect_right(ends, start), len(steps) - 1) for start in starts), -1]
        ids = np.array([*prompt, *response.ids, self.end_of_turn], dtype=np.int64)
        if self.options.step_ends == "prefixes":
            last = np.maximum.accumulate(self._lengths_of_prefixes(problem, steps))
            found = np.searchsorted(last, np.arange(len(prompt), len(ids)), side="right")
            step_of = np.where(found < len(steps), found, -1).tolist()
        return EncodedTrace(ids, len(prompt), np.array(step_of, dtype=np.int64), len(steps))

    def _lengths_of_prefixes(self, problem: str, steps: Sequence[str]) -> list[int]:
        """The number of tokens of the conversation up to each step, as ImplicitPRM's eval/processbench.py tokenizes it.

        Its answer is the steps up to this one, with its end of turn, and a blank line after that where a step follows. The script
        reads the prefix sum two tokens before this length in ratios, the first of which is that of the second token: the last
        token in it is the one of this number, counted from 1.
        """
        asked = self._conversation(problem)
        lengths = []
        for k in range(1, len(steps) + 1):
            answer = {"role": "assistant", "content": join_steps(steps[:k], self.options)[0]}
            text = self.render([*asked, answer], add_generation_prompt=False).strip()
            lengths.append(len(self.text_ids(text + ("\n\n" if k < len(steps) else ""))))
        return lengths

    def encode_response(
        self, prompt: NDArray[np.int64], text: str, ids: NDArray[np.int64] | None = None, *, finished: bool = True
    ) -> EncodedTrace:
        """Encode a response verbatim, whose steps are marked by the separator alone.

        A step ends where a separator ends. Separators in a row are one. The text before the first word belongs to the first step.

        Args:
            prompt: Token ids of the prompt. Shape [p].
            text: The response.
            ids: Token ids of the response where it was sampled, end of turn included. None takes those that the tokenizer gives.
                Shape [t].
            finished: Whether the end of turn is added; of no effect with `ids`.

        Returns:
            The response as tokens.
        """
        ends = [end for _, end in _separators(text, self.options.separator)]
        own = self._plain.encode(text, add_special_tokens=False)
        starts = [start for start, _ in own.offsets]
        sampled = own.ids if ids is None else ids.tolist()
        if ids is None:
            ids = np.array([*own.ids, *([self.end_of_turn] if finished else [])], dtype=np.int64)
        if sampled[: len(own.ids)] != own.ids:  # sampled otherwise than the tokenizer would have it

            @functools.cache
            def start(k: int) -> int:
                return len(self.tokenizer.decode(sampled[:k], skip_special_tokens=True))

            # A few prefixes are decoded for each step, not one for each token.
            n = bisect.bisect_left(range(len(ids)), len(text), key=start)
            first = [bisect.bisect_left(range(n), end, key=start) for end in ends]
            step_of = np.searchsorted(first, np.arange(n), side="right").tolist()
        else:
            step_of = [bisect.bisect_right(ends, start) for start in starts[: len(ids)]]
        step_of += [-1] * (len(ids) - len(step_of))
        return EncodedTrace(
            np.concatenate([prompt, ids]), len(prompt), np.array(step_of, dtype=np.int64), len(ends) + 1
        )

    def _conversation(self, problem: str, system: str | None = None) -> list[dict[str, str]]:
        own = system if self.options.system is None else self.options.system
        return [*([] if own is None else [{"role": "system", "content": own}]), {"role": "user", "content": problem}]

    def render(self, conversation: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
        """Render a conversation with the chat template.

        Args:
            conversation: Messages with the keys ``role`` and ``content``.
            add_generation_prompt: Whether the text ends with what comes before an answer.

        Returns:
            The text.

        Raises:
            UserError: The template fails.
        """
        try:
            text: str = self.tokenizer.apply_chat_template(
                conversation,
                chat_template=self.chat_template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **{"strftime_now": self._today, **self.options.template_args},
            )
            return text
        except Exception as error:  # templates raise what they like
            raise UserError(
                f"the chat template failed ({first_line(error)}); check {argument('chat_template')} and its arguments"
            ) from None

    def _refuse_runaway(self) -> None:
        """Raise UserError where the template does not end, or fills the memory."""
        asked = self._conversation("x")
        conversations = [asked, [*asked, {"role": "assistant", "content": "x"}]]
        given = json.dumps([self.chat_template, conversations, self.options.template_args], default=str)
        if not _template_ends(given):
            raise UserError(
                f"the chat template does not end within {SECONDS:g} s and {MEBIBYTES:,} MiB; check {argument('chat_template')}"
            )

    def _today(self, form: str) -> str:
        """Tell a chat template today's date, the same on every day."""
        self.date = self.options.date or DEFAULT_DATE
        return dt.datetime.fromisoformat(self.date).strftime(form)

    def _find_end_of_turn(self) -> int:
        """Find the first special token that the template writes after an answer, else the end-of-sequence token."""
        if self.options.end_of_turn is not None:
            found = self._plain.token_to_id(self.options.end_of_turn)
            if found is None:
                raise UserError(f"end of turn '{self.options.end_of_turn}': not a token of this vocabulary")
            return int(found)
        answered = [*self._conversation("x"), {"role": "assistant", "content": _SENTINEL}]
        rendered = self.render(answered, add_generation_prompt=False)
        tail = rendered.rpartition(_SENTINEL)[2] if _SENTINEL in rendered else ""  # some templates leave answers out
        special = set(self.tokenizer.all_special_ids) | {
            i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special
        }
        for token in self._plain.encode(tail, add_special_tokens=False).ids:
            if token in special:
                return int(token)
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                "the chat template ends an answer with no special token, and there is no end-of-sequence token"
            )
        return int(self.tokenizer.eos_token_id)


_RENDER = """
import jinja2, jinja2.ext, jinja2.sandbox
class Generation(jinja2.ext.Extension):
    tags = {"generation"}
    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)
extensions = [Generation, jinja2.ext.loopcontrols]
environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
environment.globals |= {"strftime_now": lambda form: "", "raise_exception": lambda message: 1 / 0}
text, conversations, arguments = json.loads(given)
template = environment.from_string(text)
for messages in conversations:
    with contextlib.suppress(ZeroDivisionError, jinja2.TemplateError):
        template.render(messages=messages, add_generation_prompt=True, **arguments)
"""


@functools.lru_cache(maxsize=64)
def _template_ends(given: str) -> bool:
    return ends(_RENDER, given)


def _find_template(own: str | dict[str, str] | None, wanted: str | None, name: str) -> str | None:
    """Find the chat template that is meant: a Jinja text, one of several by its name, or the tokenizer's own."""
    several = own if isinstance(own, dict) else {}
    if wanted is None:
        if several and "default" not in several:
            raise ArgumentError(
                "chat_template",
                None,
                f"{name} has several, and none is the default; name one of {', '.join(sorted(several))}",
            )
        return several["default"] if isinstance(own, dict) and several else own if isinstance(own, str) else None
    if wanted not in several and "{" not in wanted:
        has = f"it has {', '.join(sorted(several))}" if several else "its templates have no names"
        raise ArgumentError("chat_template", wanted, f"no such file, nor a chat template of {name} ({has})")
    return several.get(wanted, wanted)


def ids_hash(sequences: Iterable[NDArray[np.int64]]) -> str:
    """Hash token ids: what tokenizer, template and options come to, even where a template holds today's date.

    Args:
        sequences: The ids, in order.

    Returns:
        The sha256, in hex.
    """
    whole = hashlib.sha256()
    for ids in sequences:
        whole.update(len(ids).to_bytes(8, "little") + ids.tobytes())
    return whole.hexdigest()


def join_steps(steps: Sequence[str], options: TokenOptions) -> tuple[str, list[int]]:
    """Join steps into the response text.

    Args:
        steps: The steps.
        options: Says what comes before each step and between two.

    Returns:
        The text, and for each step the index of the character just after it and the separator that follows it. A token whose
        first character is before ends[i] and not before ends[i-1] belongs to step i.
    """
    pieces = [options.step_prefix.replace("{i}", str(i)) + step for i, step in enumerate(steps, start=1)]
    ends: list[int] = []
    position = 0
    for i, piece in enumerate(pieces):
        position += len(piece) + (len(options.separator) if i < len(pieces) - 1 else 0)
        ends.append(position)
    return options.separator.join(pieces), ends


def split_response(text: str, separator: str) -> list[str]:
    """Split a response into steps as `TraceEncoder.encode_response` sees them.

    Args:
        text: The response.
        separator: The text between two steps.

    Returns:
        The steps, without their separators.
    """
    found = _separators(text, separator)
    starts, ends = [0, *(end for _, end in found)], [*(start for start, _ in found), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def _separators(text: str, separator: str) -> list[tuple[int, int]]:
    """Find the start and end of each run of separators that has words on both sides."""
    first, last = len(text) - len(text.lstrip()), len(text.rstrip())
    found = re.finditer(f"(?:{re.escape(separator)})+", text)
    return [m.span() for m in found if m.start() > first and m.end() < last]


def plain_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Copy the Rust tokenizer, so that it gives the same ids with untrimmed offsets.

    Byte-level post-processors trim spaces off a token's offsets, which would move a token that starts with a separator into the
    next step. Their other work, adding special tokens, is never wanted here.

    Args:
        tokenizer: A fast tokenizer.

    Returns:
        The copy, which adds no special tokens, pads nothing and cuts nothing.

    Raises:
        UserError: It is not a fast tokenizer.
    """
    from tokenizers import Tokenizer, processors

    if not tokenizer.is_fast:
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        raise UserError(f"{name}: is a slow tokenizer without character offsets; save a tokenizer.json with it")

    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    plain.no_padding()
    plain.no_truncation()
    return plain
