from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.data.importers import eurus
from prmbench.data.importers.eurus import import_eurus, question_of
from prmbench.data.problems import load_problems
from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TokenOptions, TraceEncoder
from prmbench.errors import ArgumentError, UserError
from prmbench.training.data.chats import encode_chat, load_chats
from prmbench.training.data.pairs import load_pairs

ASK = "\n\nShow the result in a box: \\boxed{The result}"
ANSWER = "[ASSESS]\n\n# Two numbers.\n\nNext action: [OUTPUT]\n\n[OUTPUT]\n\n\\boxed{2}\n\n"


def sft(question="What is 1 + 1?", task="Math", **changes):
    turns = [{"from": "human", "value": question + ASK}, {"from": "gpt", "value": ANSWER}]
    return {"dataset": "numina", "task": task, "conversations": turns, "id": 3, **changes}


def rl(question="What is 1 + 1?", ability="math", answer="2", **changes):
    turns = [{"role": "system", "content": "Use tags."}, {"role": "user", "content": question + ASK}]
    reward = {"style": "rule", "ground_truth": answer}
    return {"data_source": "numina_amc", "ability": ability, "prompt": turns, "reward_model": reward, **changes}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_chats(tmp_path):
    rows = [sft(), sft(task="Coding"), sft("Where?", task="math"), sft(task="Biology"), sft(task="Coding")]
    found = import_eurus(write(tmp_path / "x.jsonl", rows), tmp_path / "out")
    assert found.file == tmp_path / "out" / "chats.jsonl"
    assert (found.kept, found.left_out) == (2, {"of coding": 2, "of biology": 1})
    assert found.sentence() == "2 rows kept; 2 of coding, 1 of biology left out"
    template = find_prompt("eurus")
    chats = load_chats(found.file)
    assert chats[0].turns == (("system", template.system), ("user", template.render("What is 1 + 1?")))
    assert chats[1].turns[1][1].startswith("Where?\n\n")
    assert chats[0].answer == ANSWER
    about = json.loads((tmp_path / "out" / "eurus.json").read_text())
    assert (about["source"], about["kept"], about["prompt"]) == ("x.jsonl", 2, "eurus")


def test_problems_in_every_format(tmp_path):
    rows = [
        rl(),
        rl(ability="code"),
        rl("Where?", answer=" \\frac12 ", data_source=None),
        rl(answer=None),
        rl(answer=""),
    ]
    write(tmp_path / "x.jsonl", rows)
    (tmp_path / "x.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    for name in ("x.jsonl", "x.json", "x.parquet"):
        found = import_eurus(tmp_path / name, tmp_path / name.replace(".", "-"))
        assert (found.kept, found.left_out) == (2, {"of code": 1, "without an answer": 2})
        assert [(p.id, p.problem, p.answer) for p in load_problems(found.file)] == [
            ("numina_amc-0", "What is 1 + 1?", "2"),
            ("eurus-2", "Where?", "\\frac12"),
        ]


def test_a_limit_stops_early(tmp_path):
    file = write(tmp_path / "x.jsonl", [rl(ability="code"), rl(), rl(), rl()])
    with file.open("a") as more:
        more.write("broken")
    assert import_eurus(file, tmp_path / "out", limit=2).kept == 2


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("What?\n\nPut it in \\boxed{Your answer}", "What?"),
        ("What?\nWhy?\n\n  Answer with \\boxed{x}.  \n", "What?\nWhy?"),
        ("What is \\boxed{x} here?", "What is \\boxed{x} here?"),
        ("First \\boxed{a}.\n\nThen what?", "First \\boxed{a}.\n\nThen what?"),
        ("\n\nAnswer with \\boxed{x}", "Answer with \\boxed{x}"),
        ("Plain.", "Plain."),
    ],
)
def test_the_instruction_is_cut_off(text, question):
    assert question_of(text) == question


def test_one_prompt_from_the_chats_to_the_rollouts(tmp_path):
    """What fine-tuning sees before an answer is what a policy is given: token by token."""
    chats = load_chats(import_eurus(write(tmp_path / "s.jsonl", [sft()]), tmp_path / "s").file)
    problems = load_problems(import_eurus(write(tmp_path / "r.jsonl", [rl()]), tmp_path / "r").file)
    template = find_prompt("eurus")
    tokenizer = support.wrap(support.byte_level())
    ids, n_prompt = encode_chat(TraceEncoder(tokenizer), chats[0])
    policy = TraceEncoder(tokenizer, TokenOptions(system=template.system))
    sampled = policy.prompt_ids(template.render(problems[0].problem))
    assert ids[:n_prompt].tolist() == sampled.tolist()
    rollouts = [
        {
            **{"id": "a", "sample": k, "problem": problems[0].problem, "answer": "2", "completion": str(k)},
            **{"ids": policy.text_ids(str(k)).tolist(), "finish_reason": "stop", "verdict": verdict},
        }
        for k, verdict in enumerate(("correct", "wrong"))
    ]
    options = {"max_length": 5_000, "seed": 0}
    pairs = load_pairs(write(tmp_path / "x.jsonl", rollouts), TraceEncoder(tokenizer), template, **options).pairs
    assert all(row.ids[: row.n_prompt].tolist() == sampled.tolist() for row in pairs[0].rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "problem": "p"}], "line 1: field 'prompt' is missing"),
        ([sft(), rl()], "line 2: field 'task' is missing"),
        ([rl(), sft()], "line 2: field 'ability' is missing"),
        ([sft(task=3)], "line 1: field 'task' is 3; expected a text"),
        (
            [sft(conversations=[{"from": "human", "value": 3}])],
            r"field 'conversations\[0\]' is .* expected a from and a value",
        ),
        ([sft(conversations="x")], r"field 'conversations\[0\]' is \"x\""),
        ([rl(reward_model={"style": "rule"})], "field 'reward_model': field 'ground_truth' is missing"),
        ([rl(reward_model=3)], "field 'reward_model': is a JSON int"),
        ([rl(answer="\ud800")], "field 'ground_truth' has half of a surrogate pair"),
        ([sft("\ud800")], r"field 'conversations\[0\]' has half of a surrogate pair"),
        ([rl(ability="code"), rl(answer=None)], "no row of mathematics .*1 of code, 1 without an answer left out"),
        ([sft(conversations=[{"from": "human", "value": "x"}])], "1 not of one question and one answer"),
        ([[1]], "line 1: is a JSON list"),
    ],
)
def test_mistakes_are_named(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        import_eurus(write(tmp_path / "x.jsonl", rows), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_where_it_comes_from_and_goes_to(tmp_path):
    with pytest.raises(UserError, match=r"no such file.*; expected a file of Eurus-2 records, or sft or rl"):
        import_eurus(tmp_path / "none.parquet", tmp_path / "out")
    (tmp_path / "taken").write_text("")
    with pytest.raises(ArgumentError, match=r"`output=.*taken`: cannot be written"):
        import_eurus(write(tmp_path / "x.jsonl", [rl()]), tmp_path / "taken")


def test_hub_layout_through_the_real_library(tmp_path, monkeypatch):
    """A local folder in the layout of the repository stands for the Hub, which tests cannot reach."""
    (tmp_path / "hub").mkdir()
    pq.write_table(pa.Table.from_pylist([rl(), rl(ability="code")]), tmp_path / "hub" / "train.parquet")
    pq.write_table(pa.Table.from_pylist([rl("Else?")]), tmp_path / "hub" / "validation.parquet")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(eurus.HUB, "rl", str(tmp_path / "hub"))
    assert import_eurus("rl", tmp_path / "a").left_out == {"of code": 1}
    found = import_eurus("rl", tmp_path / "b", split="validation")
    assert [p.problem for p in load_problems(found.file)] == ["Else?"]
    with pytest.raises(UserError, match="split test: cannot be loaded from the Hub .*; pass a downloaded file"):
        import_eurus("rl", tmp_path / "c", split="test")


def test_unreachable_hub_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"Eurus-2-SFT-Data, split train: cannot be loaded") as raised:
        import_eurus("sft", tmp_path)
    assert "\n" not in str(raised.value)


def test_from_the_command_line(tmp_path):
    file = write(tmp_path / "x.jsonl", [rl(), rl(ability="code")])
    shown = CliRunner().invoke(app, ["data", "eurus", str(file), "--output", str(tmp_path / "out")])
    assert shown.output == f"1 rows kept; 1 of code left out\n{tmp_path / 'out' / 'problems.jsonl'}\n"
    shown = CliRunner().invoke(app, ["data", "eurus", str(file), "--output", str(tmp_path / "out"), "--json"])
    assert json.loads(shown.output)["left_out"] == {"of code": 1}
    shown = CliRunner().invoke(app, ["data", "eurus", str(file), "--output", str(file)])
    assert str(shown.exception).startswith(f"--output {file}: cannot be written")
