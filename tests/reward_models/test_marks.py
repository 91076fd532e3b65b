from __future__ import annotations

import numpy as np
import pytest
import support
import support_prm
from hypothesis import given
from hypothesis import strategies as st

from prmbench.data.tokens import TokenOptions
from prmbench.errors import UserError
from prmbench.reward_models.marks import (
    MarkEncoder,
    MarkLayout,
    Segment,
    encode_pieces,
    encode_whole,
    lay_out,
    lay_out_turns,
)


def letters(text):
    """A tokenizer with a token a character."""
    return np.array([ord(c) for c in text], dtype=np.int64)


def letters_with_offsets(text):
    return letters(text), [(i, i + 1) for i in range(len(text))]


def test_hand_worked():
    layout = MarkLayout(prompt="text", mark="#!", before_mark=" ", after_mark="\n")
    segments = lay_out("P:", ["a", "", "b#!"], layout, "{i}. ")
    assert "".join(s.text for s in segments) == "P:1. a #!\n2.  #!\n3. b#! #!"
    #                                            0123456789 012345678 9
    for encode in (
        lambda read: encode_pieces(segments, letters, read),
        lambda read: encode_whole(segments, letters_with_offsets, read, letters("#!")),
    ):
        ids, at = encode("at")
        assert "".join(map(chr, ids)) == "P:1. a #!\n2.  #!\n3. b#! #!"
        assert at.tolist() == [8, 15, 25]
        assert encode("before")[1].tolist() == [6, 13, 23]


@given(
    prompt=st.text("ab#\n", min_size=1, max_size=6),
    steps=st.lists(st.text("ab# \n", max_size=6), min_size=1, max_size=6),
    before=st.sampled_from(["", " "]),
    after=st.sampled_from(["", "\n"]),
    read=st.sampled_from(["at", "before"]),
)
def test_positions_whatever_the_texts_hold(prompt, steps, before, after, read):
    layout = MarkLayout(prompt="text", mark="#", before_mark=before, after_mark=after)
    segments = lay_out(prompt, steps, layout, "")
    pieces, marks = encode_pieces(segments, letters, read)
    whole, also = encode_whole(segments, letters_with_offsets, read, letters("#"))
    assert pieces.tolist() == whole.tolist()
    assert marks.tolist() == also.tolist()
    text = prompt
    for i, step in enumerate(steps):  # one prefix at a time
        text += (after if i else "") + step + before + ("#" if read == "at" else "")
        assert marks[i] == len(text) - 1
        assert "".join(map(chr, pieces[: marks[i] + 1])) == text
        text += "#" if read == "before" else ""


def test_a_mark_that_merges_with_text_is_refused():
    joined = [Segment("ab"), Segment("#", mark=True), Segment("cd")]
    left = lambda text: (letters("xyzw"), [(0, 1), (1, 3), (3, 4), (4, 5)])  # noqa: E731  (b# in one token)
    right = lambda text: (letters("xyz"), [(0, 1), (1, 2), (2, 5)])  # noqa: E731  (#cd in one token)
    for encode in (left, right):
        with pytest.raises(UserError, match=r"the mark '#' after \"ab\" is no token of its own"):
            encode_whole(joined, encode, "at", letters("#"))
    spaced = [Segment("a "), Segment("#", mark=True)]
    one_token = lambda text: (letters("xy"), [(0, 1), (1, 3)])  # noqa: E731  (" #")
    ids, marks = encode_whole(spaced, one_token, "at", letters("y"))
    assert (len(ids), marks.tolist()) == (2, [1])
    # A token of its own, but not the one that a mark is elsewhere: white space before it was merged in.
    with pytest.raises(UserError, match=r"the mark '#' after \"a \" is no token of its own"):
        encode_whole(spaced, one_token, "at", letters("z"))


def test_steps_without_white_space_around_them_and_steps_cut_at_marks():
    tokenizer = support.wrap(support.byte_level())

    def encode(steps, **fields):
        layout = MarkLayout(prompt="text", before_steps="\n", mark="\n", **fields)
        return MarkEncoder(tokenizer, TokenOptions(), layout).encode("Sum?", steps)

    steps = ["  one. ", "two.\nthree.", "\n", ""]
    ids_of = MarkEncoder(tokenizer, TokenOptions(), MarkLayout(prompt="text", mark="\n")).text_ids
    mark = ids_of("\n").tolist()
    head = ids_of("Sum?\n").tolist()
    lines = [["  one. "], ["two.", "three."], ["", ""], [""]]
    expected, marks = [*head], []
    for step in lines:
        for line in step:
            expected += [*ids_of(line).tolist(), *mark]
        marks.append(len(expected) - 1)
    found = encode(steps, split=True)
    assert (found.ids.tolist(), found.marks.tolist()) == (expected, marks)
    assert found.step_counts().tolist() == [len(ids_of(step)) for step in steps]
    # Stripped, the third step is empty too.
    stripped = encode(steps, strip=True)
    assert stripped.ids.tolist() == encode(["one.", "two.\nthree.", "", ""]).ids.tolist()
    assert stripped.step_counts().tolist()[2:] == [0, 0]
    with pytest.raises(UserError, match=r"tokens.step_ends means nothing where scores are read at marks"):
        MarkEncoder(tokenizer, TokenOptions(step_ends="prefixes"), MarkLayout(prompt="text", mark="\n"))
    for fields in ({"prompt": "turns"}, {"prompt": "text", "tokenize": "whole"}):
        with pytest.raises(ValueError, match="split means nothing"):
            MarkLayout(mark="+", split=True, **fields)


def test_a_layout_is_recorded_as_before_where_nothing_new_is_asked_for():
    assert not {"strip", "split"} & MarkLayout().model_dump().keys()
    assert MarkLayout(strip=True).model_dump()["strip"]
    assert "step_ends" not in TokenOptions().model_dump()
    for options in (TokenOptions(), TokenOptions(step_ends="prefixes")):
        assert TokenOptions.model_validate_json(options.model_dump_json()) == options


def test_turns_hand_worked():
    def render(conversation):
        return "".join(f"[{m['role'][0]}]{m['content'].strip()}" for m in conversation) + "[a]"

    segments = lay_out_turns(["p s ", "t"], "+", render)
    assert [s.text for s in segments] == ["[u]p s[a]", "+", "[u]t[a]", "+"]
    with pytest.raises(UserError, match="rewrites earlier turns"):
        lay_out_turns(["p", "q"], "+", lambda conversation: f"{len(conversation)} turns: ")


@pytest.mark.parametrize("prompt", ["chat", "turns", "text"])
def test_encoder_with_a_real_tokenizer(smollm2, prompt):
    tokenizer = support_prm.smol_tokenizer(smollm2)
    layout = MarkLayout(prompt=prompt, mark="<extra_0>", before_steps="" if prompt == "chat" else " ")
    encoder = MarkEncoder(tokenizer, TokenOptions(), layout)
    mark = tokenizer.convert_tokens_to_ids("<extra_0>")
    found = encoder.encode("Sum?", ["1 + 1", "", "is <extra_0> 2<extra_0>"])
    assert found.ids[found.marks].tolist() == [mark] * 3
    assert (found.ids == mark).sum() == 5
    assert found.step_counts().tolist() == [
        len(tokenizer(s, add_special_tokens=False)["input_ids"]) for s in ("1 + 1", "", "is <extra_0> 2<extra_0>")
    ]
    assert 0 < found.n_prompt < found.marks[0]
    # Later steps change nothing before them.
    short = encoder.encode("Sum?", ["1 + 1"])
    assert found.ids[: found.marks[0] + 1].tolist() == short.ids[: short.marks[0] + 1].tolist()


def test_what_is_recorded():
    tokenizer = support.wrap(support.byte_level())
    one = MarkEncoder(tokenizer, TokenOptions(), MarkLayout(prompt="text", mark="\n"))
    other = MarkEncoder(tokenizer, TokenOptions(), MarkLayout(prompt="text", mark="\n", read="before"))
    assert one.template_hash() != other.template_hash()
    assert other.recorded_options()["marks"]["read"] == "before"
