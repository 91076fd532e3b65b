from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TraceEncoder
from prmbench.errors import UserError
from prmbench.training.data.pairs import load_pairs, split_held_out

BARE = find_prompt("bare")


@pytest.fixture(scope="module")
def encoder():
    return TraceEncoder(support.wrap(support.byte_level()))


def write(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def outcome(prompt, answer, correct):
    return {
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
        "correct": correct,
    }


def rollout(encoder, problem, answer, correct, sample=0, end=True):
    ids = encoder.text_ids(answer).tolist() + ([encoder.end_of_turn] if end else [])
    return {
        "id": problem,
        "sample": sample,
        "problem": problem,
        "answer": "5",
        "completion": answer,
        "ids": ids,
        "finish_reason": "stop" if end else "length",
        "verdict": "correct" if correct else "wrong",
    }


def texts(encoder, pair):
    return [encoder.tokenizer.decode(r.ids[r.n_prompt :], skip_special_tokens=True) for r in pair.rows]


def load(path, encoder, **options):
    return load_pairs(path, encoder, BARE, **{"max_length": 500, "seed": 0, **options})


def test_the_three_forms_give_the_same_pair(tmp_path, encoder):
    right, wrong = "2 + 3 = 5.", "2 + 3 = 6."
    forms = {
        "rollouts": [rollout(encoder, "What?", right, True), rollout(encoder, "What?", wrong, False, 1)],
        "outcomes": [outcome("What?", wrong, False), outcome("What?", right, True)],
        "pairs": [{"prompt": "What?", "chosen": right, "rejected": wrong}],
        "messages": [
            {
                "prompt": [{"role": "user", "content": "What?"}],
                "chosen": [{"role": "assistant", "content": right}],
                "rejected": [{"role": "assistant", "content": wrong}],
            }
        ],
        "whole": [
            {
                "chosen": outcome("What?", right, True)["messages"],
                "rejected": outcome("What?", wrong, False)["messages"],
            }
        ],
    }
    found = {}
    for name, records in forms.items():
        data = load(write(tmp_path / f"{name}.jsonl", records), encoder)
        assert len(data.pairs) == 1, name
        found[name] = [r.ids.tolist() for r in data.pairs[0].rows]
        assert texts(encoder, data.pairs[0]) == [right, wrong]
    assert all(ids == found["pairs"] for ids in found.values())
    prompt = encoder.prompt_ids("What?").tolist()
    assert found["pairs"][0] == [*prompt, *encoder.text_ids(right).tolist(), encoder.end_of_turn]


def test_sampled_ids_are_used_as_they_are(tmp_path, encoder):
    # The policy may have sampled another tokenization than the tokenizer's own, and a truncated one has no end of turn.
    odd = rollout(encoder, "What?", "ab", True)
    odd["ids"] = [*encoder.text_ids("a").tolist(), *encoder.text_ids("b").tolist(), encoder.end_of_turn]
    cut = rollout(encoder, "What?", "abc", False, 1, end=False)
    pair = load(write(tmp_path / "r.jsonl", [odd, cut]), encoder).pairs[0]
    assert pair.correct.ids[pair.correct.n_prompt :].tolist() == odd["ids"]
    assert pair.incorrect.ids[-1] != encoder.end_of_turn


def test_pairs_that_come_as_pairs_stay_as_they_are(tmp_path, encoder):
    records = [{"prompt": "p", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(4)]
    records[3]["rejected"] = "57 " * 600
    data = load(write(tmp_path / "p.jsonl", records), encoder)
    assert [texts(encoder, pair) for pair in data.pairs] == [[f"good {i}", f"bad {i}"] for i in range(3)]
    assert (data.n_responses, data.n_prompts, data.n_overlong, data.n_one_sided) == (8, 1, 1, 0)


def test_one_sided_and_overlong_are_dropped_and_counted(tmp_path, encoder):
    records = [
        outcome("both", "5", True),
        outcome("both", "6", False),
        outcome("right only", "5", True),
        outcome("wrong only", "6", False),
        outcome("too long", "57 " * 600, True),
        outcome("too long", "6", False),
    ]
    data = load(write(tmp_path / "o.jsonl", records), encoder)
    assert (len(data.pairs), data.n_responses, data.n_prompts, data.n_one_sided, data.n_overlong) == (1, 6, 4, 3, 1)
    assert data.sentence() == (
        "1 pairs of 6 responses to 4 prompts (left out: 1 responses too long, 3 prompts with one outcome only)"
    )


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_draw_counts_and_order(tmp_path_factory, encoder, drawn, per_prompt, seed):
    records = [outcome(f"prompt {p}", f"answer {i}", right) for i, (p, right) in enumerate(drawn)]
    folder = tmp_path_factory.mktemp("draw")
    groups = Counter((p, right) for p, right in drawn)
    wanted = sum(min(per_prompt, groups[p, True], groups[p, False]) for p in {p for p, _ in drawn})
    if wanted == 0:
        with pytest.raises(UserError, match="no pair is left"):
            load(write(folder / "a.jsonl", records), encoder)
        return
    first = load(write(folder / "a.jsonl", records), encoder, per_prompt=per_prompt, seed=seed)
    random.Random(seed).shuffle(records)
    again = load(write(folder / "b.jsonl", records), encoder, per_prompt=per_prompt, seed=seed)
    assert len(first.pairs) == wanted
    as_text = [{tuple(texts(encoder, pair)) for pair in data.pairs} for data in (first, again)]
    assert as_text[0] == as_text[1]
    used = [text for pair in as_text[0] for text in pair]
    assert len(used) == len(set(used))  # no response twice
    for right, wrong in as_text[0]:
        i, j = int(right.split()[-1]), int(wrong.split()[-1])
        assert drawn[i] == (drawn[j][0], True)
        assert not drawn[j][1]


def test_held_out_prompts_are_whole(tmp_path, encoder):
    records = [outcome(f"p{i // 4}", f"answer {i}", i % 2 == 0) for i in range(40)]
    pairs = load(write(tmp_path / "o.jsonl", records), encoder, per_prompt=2).pairs
    kept, held = split_held_out(pairs, 5, seed=0)
    assert len(held) == 6  # three whole prompts
    assert len(kept) + len(held) == len(pairs) == 20
    assert not {p.key for p in kept} & {p.key for p in held}
    assert [p.key for p in split_held_out(pairs[::-1], 5, seed=0)[1]] == [p.key for p in held][::-1]
    assert split_held_out(pairs, 0, seed=0)[1] == []


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"x": 1}, "line 1: neither a rollout"),
        ([1], "line 1: neither a rollout"),
        (outcome("a", "b", "yes"), "field 'correct' is \"yes\"; expected true or false"),
        ({"messages": outcome("a", "b", True)["messages"], "corect": True}, "did you mean 'corect'"),
        ({"prompt": "a", "chosen": "b"}, "line 1: field 'rejected' is missing"),
        ({"promt": "a", "chosen": "b", "rejected": "c"}, "field 'prompt' is missing .did you mean 'promt'"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "'chosen' and 'rejected' are the same text"),
        (
            {"chosen": outcome("a", "b", True)["messages"], "rejected": outcome("z", "c", True)["messages"]},
            "'chosen' and 'rejected' answer different prompts",
        ),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "field 'prompt' must be a text"),
        ({"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "c"}, "the last turn is the user's"),
        ({"prompt": "a", "chosen": [3], "rejected": "c"}, r"field 'chosen\[1\]' is 3"),
    ],
)
def test_bad_rows_are_named(tmp_path, encoder, record, message):
    with pytest.raises(UserError, match=message):
        load(write(tmp_path / "bad.jsonl", [record]), encoder)


def test_a_few_rows_of_no_use_are_left_out_counted_and_named(tmp_path, encoder):
    right = [rollout(encoder, f"p{i}", f"2 + {i} = {2 + i}.", True) for i in range(20)]
    wrong = [rollout(encoder, f"p{i}", f"2 + {i} = {9 + i}.", False, 1) for i in range(20)]
    blank = rollout(encoder, "p0", " ", False, 2)
    past = rollout(encoder, "p1", "2", False, 2)
    past["ids"] = [*past["ids"][:-1], len(encoder.tokenizer), past["ids"][-1]]  # of the padded part of a vocabulary
    file = write(tmp_path / "r.jsonl", [*right, blank, *wrong, past])
    data = load(file, encoder)
    assert (len(data.pairs), data.n_responses) == (20, 40)
    reasons = "the answer is blank", "the token ids do not decode, some are past the tokenizer's last"
    assert data.unusable == dict.fromkeys(reasons, 1)
    remark = f"{file}: left out as of no use: 1 x {reasons[0]}, first {file}, line 21; 1 x {reasons[1]}, first {file}, line 42"
    assert data.remarks == (remark,)
    with pytest.raises(UserError, match="line 21: the answer is blank"):
        load(file, encoder, strict=True)
    with pytest.raises(
        UserError, match=r"5 of 45 rows are of no use, more than a tenth; .*line 41: the answer is blank"
    ):
        load(write(tmp_path / "r.jsonl", [*right, *wrong, *[{**blank, "sample": 2 + i} for i in range(5)]]), encoder)
    long = rollout(encoder, "p2", "57 " * 600, False, 3)
    assert load(write(tmp_path / "r.jsonl", [*right, *wrong, long]), encoder).n_overlong == 1
    many = [{**long, "sample": 3 + i} for i in range(41)]
    with pytest.raises(
        UserError, match=r"41 of 81 responses are longer than max_length 500, more than half \(the first is"
    ):
        load(write(tmp_path / "s.jsonl", [*right, *wrong, *many]), encoder)
    with pytest.raises(UserError, match=r"line 41: is [\d,]+ tokens long, max_length is 500"):
        load(file, encoder, strict=True)


def test_pairs_of_equal_or_blank_texts_are_left_out(tmp_path, encoder):
    records = [{"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(20)]
    records[3]["rejected"] = records[3]["chosen"]
    records[5]["chosen"] = "\n"
    data = load(write(tmp_path / "p.jsonl", records), encoder)
    assert len(data.pairs) == 18
    assert data.unusable == {"'chosen' and 'rejected' are the same text": 1, "the answer is blank": 1}
    # The same answer judged both ways is no pair either.
    both = [outcome("q", "5", right) for right in (True, False)]
    data = load(write(tmp_path / "o.jsonl", [*both, outcome("r", "5", True), outcome("r", "6", False)]), encoder)
    assert [texts(encoder, pair) for pair in data.pairs] == [["5", "6"]]
    assert data.n_one_sided == 1


def test_unpaired_data_numbers_as_labels_and_content_in_parts(tmp_path, encoder):
    parts = [{"type": "text", "text": "What"}, {"type": "text", "text": "?"}]
    asked = [{"role": "user", "content": parts}]
    said = [{"role": "assistant", "content": [{"type": "text", "text": "6"}]}]
    forms = {
        "texts": [
            {"prompt": "What?", "completion": "5", "label": True},
            {"prompt": "What?", "completion": "6", "label": False},
        ],
        "numbers": [
            {"prompt": "What?", "completion": "5", "label": 1},
            {"prompt": "What?", "completion": "6", "label": 0},
        ],
        "parts": [
            {"prompt": asked, "completion": [{"role": "assistant", "content": "5"}], "label": 1.0},
            {"prompt": asked, "completion": said, "label": 0.0},
        ],
        "outcomes": [{"messages": [*asked, *said], "correct": 0}, outcome("What?", "5", 1)],
        "pairs": [{"prompt": asked, "chosen": "5", "rejected": said}],
    }
    found = {}
    for name, records in forms.items():
        (pair,) = load(write(tmp_path / f"{name}.jsonl", records), encoder).pairs
        assert texts(encoder, pair) == ["5", "6"], name
        found[name] = [r.ids.tolist() for r in pair.rows]
    assert all(ids == found["texts"] for ids in found.values())
    for record, message in (
        ({"prompt": "a", "completion": "b", "label": 2}, "field 'label' is 2; expected true or false, or 1 or 0"),
        ({"prompt": "a", "completion": 3, "label": 1}, "field 'completion' is missing or no text; a row needs prompt"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "completion": "b", "label": 1},
            r"completion\[0\]",
        ),
    ):
        with pytest.raises(UserError, match=message):
            load(write(tmp_path / "bad.jsonl", [record]), encoder)


def test_other_mistakes(tmp_path, encoder):
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.jsonl", encoder)
    foreign = rollout(encoder, "What?", "2 + 3", True)
    foreign["ids"] = foreign["ids"][:1]
    with pytest.raises(UserError, match="line 1: the token ids do not decode to the completion"):
        load(write(tmp_path / "r.jsonl", [foreign]), encoder)
    twice = [rollout(encoder, "What?", "2 + 3", True)] * 2
    with pytest.raises(UserError, match="line 2: sample 0 of 'What.' is there twice"):
        load(write(tmp_path / "r.jsonl", twice), encoder)
    mixed = [rollout(encoder, "What?", "2", True), {**rollout(encoder, "Why?", "3", False, 1), "id": "What?"}]
    with pytest.raises(UserError, match="line 2: id 'What.' was another problem before"):
        load(write(tmp_path / "r.jsonl", mixed), encoder)
    for wrong in ([-1], [True], ["a"]):
        with pytest.raises(UserError, match="field 'ids' must hold token ids"):
            load(write(tmp_path / "r.jsonl", [{**twice[0], "ids": wrong}]), encoder)
    beyond = {**twice[0], "ids": [*twice[0]["ids"], 10**6]}
    with pytest.raises(UserError, match="the token ids do not decode"):
        load(write(tmp_path / "r.jsonl", [beyond]), encoder)
    write(tmp_path / "r.jsonl", [rollout(encoder, "What?", "2 + 3", True)])
    (tmp_path / "run.json").write_text('{"prompt": "boxed"}')
    with pytest.raises(UserError, match="prompt template 'boxed', the recipe says 'bare'; set prompt: boxed"):
        load(tmp_path / "r.jsonl", encoder)


def test_the_papers_rollouts(smollm2, processbench):
    file = processbench.parent / "rollouts" / "qwen3-0.6b-dapo17k.jsonl"
    real = TraceEncoder(AutoTokenizer.from_pretrained(smollm2))
    data = load_pairs(file, real, find_prompt("boxed"), max_length=100_000, seed=0)
    assert (data.n_responses, data.n_prompts, len(data.pairs)) == (1086, 260, 260)
    every = load_pairs(file, real, find_prompt("boxed"), max_length=100_000, per_prompt=100, seed=0)
    assert len(every.pairs) == 543
    assert np.mean([len(p) for p in every.pairs]) > 500


def test_prompts_are_those_of_the_run_or_it_is_said(encoder, tmp_path):
    file = write(tmp_path / "r.jsonl", [rollout(encoder, "What?", "2", True), rollout(encoder, "What?", "3", False, 1)])

    def recorded(**changes):
        (tmp_path / "run.json").write_text(
            json.dumps({"prompt": "bare", "conversation": {**encoder.conversation(), **changes}})
        )

    recorded()
    assert (load(file, encoder).prompted, load(file, encoder).remarks) == (True, ())
    recorded(system="Be brief.")
    with pytest.raises(UserError, match=r'was sampled with system "Be brief.", the recipe has null; set tokens.system'):
        load(file, encoder)
    recorded(template_args={"enable_thinking": False})
    with pytest.raises(UserError, match="set tokens.template_args"):
        load(file, encoder)
    recorded(chat_template="0" * 64)
    assert "was sampled with another chat template" in load(file, encoder).remarks[0]
    (tmp_path / "run.json").unlink()
    assert load(file, encoder).remarks == ()
    given = write(tmp_path / "o.jsonl", [outcome("What?", "2", True), outcome("What?", "3", False)])
    assert not load(given, encoder).prompted
