from __future__ import annotations

import json

import numpy as np
import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from prmbench.data.completions import load_completions
from prmbench.data.problem_sets import POLICY_SETS, PROBLEM_SETS, find_problems
from prmbench.data.rollouts import prompt_of, sets_of_runs
from prmbench.data.tokens import TokenOptions, TraceEncoder
from prmbench.errors import UserError


def rollout(problem, sample, text="2 + 3 = 5", **change):
    fields = {
        "id": problem,
        "sample": sample,
        "problem": f"What? {problem}",
        "answer": "5",
        "completion": text,
        "ids": [1, 2],
        "finish_reason": "stop",
    }
    return {**fields, **change}


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_rollouts_and_samples(tmp_path):
    run = write(
        tmp_path / "run" / "rollouts.jsonl",
        [rollout("a", 1), rollout("a", 0), rollout("b", 0), rollout("b", 1, finish_reason="length")],
    )
    (tmp_path / "run" / "run.json").write_text('{"prompt": "bare"}')
    samples = [{"id": "x", "problem": "p", "answer": 5, "samples": [{"text": "one"}, {"text": "two"}]}]
    file = write(tmp_path / "published.jsonl", samples)
    found = load_completions([run.parent, file])
    assert [(c.subset, c.id, c.sample, c.truncated) for c in found] == [
        ("run", "a", 0, False),
        ("run", "a", 1, False),
        ("run", "b", 0, False),
        ("run", "b", 1, True),
        ("published", "x", 0, False),
        ("published", "x", 1, False),
    ]
    assert found[4].answer == "5"
    assert found[4].ids is None
    assert len({c.digest() for c in found}) == 6
    assert (prompt_of(run.parent), prompt_of(run), prompt_of(file)) == ("bare", "bare", None)
    assert [c.id for c in load_completions([run], limit=1)] == ["a", "a"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([rollout("a", 0), rollout("a", 1), rollout("b", 0)], "problem 'b' has 1 completions, 'a' has 2"),
        ([rollout("a", 0), rollout("a", 0)], "line 2: sample 0 of 'a' is there twice"),
        ([rollout("a", 0, ids=None)], "field 'ids' is null; expected a list"),
        ([{"id": "x", "problem": "p", "answer": "5", "samples": []}], "field 'samples' must be a list"),
        (
            [{"id": "x", "problem": "p", "answer": "5", "samples": [{"txt": "a"}]}],
            r"field 'samples\[0\]\.text' is missing",
        ),
        ([{"id": "x", "answer": "5", "samples": [{"text": "a"}]}], "field 'problem' is missing"),
        (
            [{"id": "x", "problem": "p", "answer": "5", "samples": [{"text": "\ud800"}]}],
            r"field 'samples\[0\]\.text' has half of a surrogate pair",
        ),
        ([rollout("a\ud800", 0)], "field 'id' has half of a surrogate pair"),
    ],
)
def test_mistakes_are_named(tmp_path, records, message):
    with pytest.raises(UserError, match=message):
        load_completions([write(tmp_path / "f.jsonl", records)])


def test_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_completions([tmp_path / "none.jsonl"])
    one = write(tmp_path / "a" / "same.jsonl", [rollout("a", 0)])
    two = write(tmp_path / "b" / "same.jsonl", [rollout("a", 0)])
    with pytest.raises(UserError, match="two files are called 'same'"):
        load_completions([one, two])


def test_real_samples(processbench):
    found = load_completions([processbench.parent / "samples" / "bon_math100_qwen25math_n8.jsonl.gz"])
    assert len(found) == 800
    assert {c.sample for c in found} == set(range(8))


def test_problem_sets_of_the_data_folder(processbench):
    found = find_problems([*POLICY_SETS, "amc23", "gsm8k"])
    sizes = {
        "aime": 90,
        "amc": 83,
        "math500": 500,
        "minerva_math": 272,
        "olympiadbench": 675,
        "amc23": 40,
        "gsm8k": 1319,
    }
    assert {name: len(problems) for name, problems in found.items()} == sizes
    assert set(found) == set(PROBLEM_SETS)
    assert len(find_problems(["aime"], limit=3)["aime"]) == 3


def test_problem_sets_by_file_and_mistakes(tmp_path, monkeypatch):
    file = write(tmp_path / "mine.jsonl", [{"id": "1", "problem": "p", "answer": "2"}])
    assert [p.answer for p in find_problems([str(file)])["mine"]] == ["2"]
    with pytest.raises(UserError, match=r"problem set 'math50' is not known .did you mean 'math500'"):
        find_problems(["math50"])
    with pytest.raises(UserError, match="'mine' is named twice"):
        find_problems([str(file), str(file)])
    with pytest.raises(UserError, match="no such file"):
        find_problems([str(tmp_path / "none.jsonl")])
    monkeypatch.delenv("PRMBENCH_DATA_DIR", raising=False)
    with pytest.raises(UserError, match="aime: cannot be loaded from the Hub"):
        find_problems(["aime"])


@pytest.mark.parametrize(
    ("name", "row", "wanted"),
    [
        ("gsm8k", {"question": "q", "answer": "6 * 7 = 42\n#### 1,042"}, ("q", "1042")),
        ("olympiadbench", {"question": "q", "final_answer": ["$2$", "$\\sqrt{3}$"]}, ("q", "2, \\sqrt{3}")),
        ("math500", {"problem": "q", "answer": "\\frac12"}, ("q", "\\frac12")),
    ],
)
def test_rows_of_the_hub(name, row, wanted):
    assert PROBLEM_SETS[name].read(row) == wanted


@pytest.fixture(scope="module")
def encoder():
    return TraceEncoder(support.wrap(support.byte_level()))


@given(st.lists(st.text(alphabet="ab .\n", min_size=0, max_size=6), min_size=1, max_size=5))
@settings(max_examples=80, deadline=None)
def test_every_token_of_a_response_is_in_the_step_of_its_first_character(encoder, pieces):
    text = "\n\n".join(pieces)
    prompt = encoder.prompt_ids("p")
    found = encoder.encode_response(prompt, text)
    ids = found.ids[len(prompt) :].tolist()
    assert ids == [*encoder.text_ids(text).tolist(), encoder.end_of_turn]
    assert found.step_of[-1] == -1
    body = found.step_of[:-1].tolist()
    assert body == sorted(body)
    assert found.n_steps == max(body, default=0) + 1 or found.n_steps >= 1
    # By hand: a step ends after a run of separators that has words on both sides.
    position = 0
    for token, step in zip(ids[:-1], body, strict=True):
        before = text[:position]
        wanted, at = 0, 0
        while (start := text.find("\n\n", at)) >= 0:
            end = start + 2
            while text.startswith("\n\n", end):
                end += 2
            if text[:start].strip() and text[end:].strip() and end <= len(before):
                wanted += 1
            at = end
        assert step == wanted
        position += len(encoder.tokenizer.decode([token]))


def test_sampled_ids_that_the_tokenizer_would_not_give(encoder):
    text = "ab\n\ncd"
    apart = np.array([*(int(encoder.text_ids(c)[0]) for c in text), encoder.end_of_turn])
    own = encoder.text_ids(text).tolist()
    assert apart[:-1].tolist() != own  # merges exist
    found = encoder.encode_response(encoder.prompt_ids("p"), text, apart)
    assert found.step_of.tolist() == [0, 0, 0, 0, 1, 1, -1]
    cut = encoder.encode_response(encoder.prompt_ids("p"), text, None, finished=False)
    assert -1 not in cut.step_of.tolist()


def test_another_separator():
    encoder = TraceEncoder(support.wrap(support.byte_level()), TokenOptions(separator=" ; "))
    assert encoder.encode_response(encoder.prompt_ids("p"), "a ; b ; c").n_steps == 3


def test_the_folder_of_a_policys_run_is_its_problem_sets(tmp_path):
    """A folder for each set; so is a file or a set's folder beside it, and the prompt is read from each set."""
    for name in ("hard", "easy"):
        write(tmp_path / "run" / name / "rollouts.jsonl", [rollout("x", 0), rollout("x", 1)])
    assert {one.subset for one in load_completions([tmp_path / "run"])} == {"easy", "hard"}
    assert [path.name for path in sets_of_runs([tmp_path / "run", tmp_path / "run" / "easy"])] == [
        "easy",
        "hard",
        "easy",
    ]
    with pytest.raises(UserError, match="two files are called 'easy'"):
        load_completions([tmp_path / "run", tmp_path / "run" / "easy"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"rollouts.jsonl: no such file"):
        load_completions([tmp_path / "empty"])
