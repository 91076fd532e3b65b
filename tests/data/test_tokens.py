from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoTokenizer

from prmbench import limits
from prmbench.data.tokens import TokenOptions, TraceEncoder, join_steps
from prmbench.data.traces import load_traces
from prmbench.errors import ArgumentError, UserError

TOKENIZERS = {
    "byte-level": support.byte_level,
    "byte-level, merges across steps": lambda: support.byte_level(split=False),
    "byte-level, untrimmed": lambda: support.byte_level(trim_offsets=False),
    "sentencepiece style": support.sentencepiece_style,
    "word-level": support.word_level,
}
ENCODERS = {name: TraceEncoder(support.wrap(make())) for name, make in TOKENIZERS.items()}

# Text that moves boundaries: white space, combining marks, emoji sequences, other scripts, digits, control characters.
PIECES = [*" \n\t.,1=\\$", "é", "e\u0301", "👩‍👩‍👧", "🇩🇪", "한", "\u00a0", "\u200b", "\u2028", "ß", "ﬁ"]
TEXT = (
    st.lists(st.one_of(st.sampled_from(PIECES), st.characters(exclude_categories=["Cs"])), min_size=1, max_size=10)
    .map("".join)
    .filter(lambda s: s.strip() and not any(special in s for special in support.SPECIALS))
)
STEPS = st.lists(TEXT, min_size=1, max_size=6)
SEPARATOR = st.sampled_from(["\n\n", "\n", " ", " \n\n ", "###", ""])


def check_spans(encoder, steps, options):
    encoded = encoder.encode("What is 1 + 1?", steps)
    response = encoded.ids[encoded.n_prompt :]
    assert len(response) == len(encoded.step_of)
    # Each token belongs to one step, in order; only the end of turn belongs to none.
    assert encoded.step_of[-1] == -1
    assert response[-1] == encoder.end_of_turn
    inside = encoded.step_of[:-1]
    assert (inside >= 0).all()
    assert (inside < len(steps)).all()
    assert (np.diff(inside) >= 0).all()
    assert encoded.step_counts().sum() == len(inside)
    # The same ids as the tokenizer gives the text, once, whole.
    text, ends = join_steps(steps, options)
    assert ends[-1] == len(text)
    assert response[:-1].tolist() == encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    return text, ends, encoded


@pytest.mark.parametrize("name", TOKENIZERS)
@given(steps=STEPS, separator=SEPARATOR, prefix=st.sampled_from(["", "Step {i}: "]))
@settings(max_examples=120, deadline=None)
def test_spans_cover_the_response(name, steps, separator, prefix):
    options = TokenOptions(separator=separator, step_prefix=prefix)
    check_spans(TraceEncoder(ENCODERS[name].tokenizer, options), steps, options)


@pytest.mark.parametrize("name", [n for n in TOKENIZERS if n.startswith("byte-level")])
@given(steps=STEPS, separator=SEPARATOR)
@settings(max_examples=120, deadline=None)
def test_byte_level_tokens_lie_in_the_step_of_their_first_byte(name, steps, separator):
    """Byte-level tokens spell out the text's bytes, which gives each one's true start without any offsets."""
    options = TokenOptions(separator=separator)
    encoder = TraceEncoder(ENCODERS[name].tokenizer, options)
    text, ends, encoded = check_spans(encoder, steps, options)
    byte_ends = [len(text[:end].encode()) for end in ends]
    position = 0
    for token, step in zip(encoded.ids[encoded.n_prompt : -1], encoded.step_of[:-1], strict=True):
        # A step's end may fall inside a character's bytes never, so comparing bytes is comparing characters.
        start = len(text.encode()[:position].decode(errors="ignore").encode())
        assert step == sum(end <= start for end in byte_ends[:-1])
        position += len(encoder.tokenizer.convert_ids_to_tokens(int(token)))
    assert position == len(text.encode())


def test_trimmed_offsets_do_not_move_a_separator_into_the_next_step():
    """The tokenizer's own offsets put a token of spaces at its end; ours do not."""
    tokenizer = support.wrap(support.byte_level())
    encoder = TraceEncoder(tokenizer, TokenOptions(separator="  "))
    encoded = encoder.encode("p", ["a", "b"])
    tokens = tokenizer.convert_ids_to_tokens(encoded.ids[encoded.n_prompt :].tolist())
    first = [t for t, s in zip(tokens, encoded.step_of, strict=True) if s == 0]
    assert first[0] == "a"
    assert first[1].startswith("Ġ")


def test_smollm2_on_real_traces(smollm2, processbench):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    encoder = TraceEncoder(tokenizer)
    for trace in load_traces(processbench, limit=25):
        _, ends, encoded = check_spans(encoder, trace.steps, encoder.options)
        for i, step in enumerate(trace.steps):
            span = encoded.ids[encoded.n_prompt :][encoded.step_of == i]
            assert step in tokenizer.decode(span, clean_up_tokenization_spaces=False)
        assert len(ends) == encoded.n_steps


@pytest.fixture(scope="module")
def smollm2_encoder(smollm2):
    return TraceEncoder(AutoTokenizer.from_pretrained(smollm2))


@given(steps=STEPS)
@settings(max_examples=100, deadline=None)
def test_smollm2_on_random_unicode(smollm2_encoder, steps):
    check_spans(smollm2_encoder, steps, smollm2_encoder.options)


# --- the chat template ---


def decoded(encoder, **arguments):
    encoded = encoder.encode("2 + 2?", ["It is 4.", "Done."])
    return encoder.tokenizer.convert_ids_to_tokens(encoded.ids.tolist()), encoded


def test_thinking_template_never_touches_the_solution():
    """Golden: the template would put thinking tags before an answer it renders; the solution is appended, not rendered."""
    encoder = TraceEncoder(support.wrap(support.byte_level(), support.THINKING_TEMPLATE))
    assert encoder.render_prompt("2 + 2?") == "<|user|>2 + 2?<|end|>\n<|assistant|>"
    tokens, encoded = decoded(encoder)
    text = encoder.tokenizer.decode(encoded.ids, clean_up_tokenization_spaces=False)
    assert text == "<|user|>2 + 2?<|end|>\n<|assistant|>It is 4.\n\nDone.<|end|>"
    assert tokens[-1] == "<|end|>"


def test_thinking_template_with_its_argument():
    """Golden: with thinking switched off the generation prompt itself carries empty tags; they are prompt, not response."""
    options = TokenOptions(template_args={"enable_thinking": False})
    encoder = TraceEncoder(support.wrap(support.byte_level(), support.THINKING_TEMPLATE), options)
    _, encoded = decoded(encoder)
    text = [
        encoder.tokenizer.decode(part, clean_up_tokenization_spaces=False)
        for part in (encoded.ids[: encoded.n_prompt], encoded.ids[encoded.n_prompt :])
    ]
    assert text == ["<|user|>2 + 2?<|end|>\n<|assistant|><think>\n\n</think>\n\n", "It is 4.\n\nDone.<|end|>"]
    plain = TraceEncoder(support.wrap(support.byte_level(), support.THINKING_TEMPLATE))
    assert encoder.template_hash() != plain.template_hash()


def test_options_shape_the_text():
    options = TokenOptions(system="Be brief.", step_prefix="Step {i}: ", separator="\n")
    encoder = TraceEncoder(support.wrap(support.byte_level()), options)
    _, encoded = decoded(encoder)
    text = encoder.tokenizer.decode(encoded.ids, clean_up_tokenization_spaces=False)
    assert text == (
        "<|system|>Be brief.<|end|>\n<|user|>2 + 2?<|end|>\n<|assistant|>Step 1: It is 4.\nStep 2: Done.<|end|>"
    )


def test_beginning_of_sequence_comes_only_from_the_template():
    encoder = ENCODERS["sentencepiece style"]
    ids = encoder.encode("p", ["a"]).ids.tolist()
    assert encoder.tokenizer.bos_token_id not in ids


def test_end_of_turn_is_the_templates_not_the_eos():
    tokenizer = support.wrap(support.byte_level())
    tokenizer.eos_token = "<s>"
    assert TraceEncoder(tokenizer).end_of_turn == tokenizer.convert_tokens_to_ids("<|end|>")
    chosen = TraceEncoder(tokenizer, TokenOptions(end_of_turn="<s>"))
    assert chosen.end_of_turn == tokenizer.convert_tokens_to_ids("<s>")
    with pytest.raises(UserError, match="end of turn '<nope>'"):
        TraceEncoder(tokenizer, TokenOptions(end_of_turn="<nope>"))


def test_no_chat_template_says_what_to_pass():
    with pytest.raises(UserError, match="no chat template; pass `chat_template=`"):
        TraceEncoder(support.wrap(support.byte_level(), template=None))


def test_a_failing_template_is_one_sentence():
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}x"
    tokenizer = support.wrap(support.byte_level(), template)
    with pytest.raises(UserError, match="the chat template failed"):
        TraceEncoder(tokenizer, TokenOptions(system="s"))


def test_options_survive_the_card_round_trip():
    options = TokenOptions(system="s", template_args={"enable_thinking": False})
    assert TokenOptions.model_validate(json.loads(options.model_dump_json())) == options


# --- several chat templates, and templates with a date ---


def several(**templates):
    return support.wrap(support.byte_level(), template=templates)


def test_the_default_of_several_templates_or_the_one_that_is_named():
    tokenizer = several(default=support.TEMPLATE, rag="[RAG]" + support.TEMPLATE)
    plain, named = TraceEncoder(tokenizer), TraceEncoder(tokenizer, chat_template="rag")
    alone = TraceEncoder(support.wrap(support.byte_level()))
    assert (plain.render_prompt("p"), plain.template_hash()) == (alone.render_prompt("p"), alone.template_hash())
    assert named.render_prompt("p") == "[RAG]" + plain.render_prompt("p")
    assert plain.conversation() == alone.conversation()
    assert not named.conversation()["own_template"]
    given = TraceEncoder(tokenizer, chat_template="{{ messages[0]['content'] }}<|end|>")
    assert given.render_prompt("p") == "p<|end|>"


@pytest.mark.parametrize(
    ("templates", "wanted", "message"),
    [
        (
            {"rag": "x<|end|>", "tool_use": "y<|end|>"},
            None,
            "has several, and none is the default; name one of rag, tool_use",
        ),
        (
            {"default": "x<|end|>", "rag": "y<|end|>"},
            "rga",
            r"`chat_template=rga`: no such file, nor .*it has default, rag",
        ),
        (support.TEMPLATE, "rag", r"`chat_template=rag`: no such file, nor .*its templates have no names"),
    ],
)
def test_a_template_that_is_not_there(templates, wanted, message):
    with pytest.raises(ArgumentError, match=message):
        TraceEncoder(support.wrap(support.byte_level(), template=templates), chat_template=wanted)


DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|system|>Today: {{ date_string }}<|end|>" + support.TEMPLATE
)


def test_a_template_is_given_the_same_day_on_every_day(monkeypatch):
    tokenizer = support.wrap(support.byte_level(), DATED)
    encoder = TraceEncoder(tokenizer)
    assert encoder.render_prompt("p").startswith("<|system|>Today: 26 Jul 2024<|end|>")
    assert encoder.recorded_options()["date"] == "2024-07-26"
    (warning,) = encoder.warnings
    assert "writes today's date; it is given 2024-07-26" in warning
    other = TraceEncoder(tokenizer, TokenOptions(date="2025-01-02"))
    assert other.render_prompt("p").startswith("<|system|>Today: 02 Jan 2025<|end|>")
    assert other.warnings == []
    assert other.template_hash() != encoder.template_hash()
    own = TraceEncoder(tokenizer, TokenOptions(template_args={"date_string": "1 May"}))
    assert own.render_prompt("p").startswith("<|system|>Today: 1 May<|end|>")
    assert (own.date, own.warnings) == (None, [])


def test_a_date_that_is_no_day_or_is_not_asked_for():
    with pytest.raises(ValidationError):
        TokenOptions(date="2025-02-30")
    with pytest.raises(ArgumentError, match="this chat template asks for no date"):
        TraceEncoder(support.wrap(support.byte_level()), TokenOptions(date="2025-01-02"))
    plain = TraceEncoder(support.wrap(support.byte_level()))
    assert "date" not in plain.recorded_options()
    assert plain.warnings == []


RUNAWAY = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "text": "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxx{% endfor %}{% endfor %}",
    "memory": "{{ 'x' * 10000000000 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "in a block of transformers": (
        "{% generation %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endgeneration %}"
    ),
    "after an answer": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% for i in range(99999) %}{% for j in range(99999) %}"
        "{% endfor %}{% endfor %}{% endif %}{{ m.content }}{% endfor %}"
    ),
}


@pytest.mark.parametrize("name", RUNAWAY)
def test_a_template_that_does_not_end_is_one_sentence(name, monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 2.0)
    with pytest.raises(UserError, match="the chat template does not end within"):
        TraceEncoder(support.wrap(support.byte_level(), RUNAWAY[name]))


@pytest.mark.parametrize("seed", range(8))
def test_steps_of_ids_that_were_sampled_otherwise(seed):
    """A token belongs to the step that its first character lies in; against the text before each token, one at a time."""
    encoder, rng = TraceEncoder(support.wrap(support.byte_level())), random.Random(seed)
    words = ["a", "word ", "\n\n", "\n\n\n", "12", "é", "\U0001f600", " ", "\n", "."]
    parts = ["".join(rng.choice(words) for _ in range(rng.randint(1, 4))) for _ in range(12)]
    ids = np.concatenate([*map(encoder.text_ids, parts), [encoder.end_of_turn]])
    text = encoder.tokenizer.decode(ids, skip_special_tokens=True)
    ends = [m.end() for m in re.finditer(r"(?:\n\n)+", text) if text[: m.start()].strip() and text[m.end() :].strip()]
    before = [len(encoder.tokenizer.decode(ids[:k], skip_special_tokens=True)) for k in range(len(ids))]
    wanted = [sum(end <= start for end in ends) if start < len(text) else -1 for start in before]
    assert encoder.encode_response(encoder.prompt_ids("x"), text, ids).step_of.tolist() == wanted
