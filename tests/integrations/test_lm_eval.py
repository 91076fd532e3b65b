from __future__ import annotations

import json
import subprocess
import sys

import pytest
import support
from typer.testing import CliRunner

import prmbench
from prmbench.cli.app import app
from prmbench.data.critic_prompt import critic_prompt
from prmbench.data.rollouts import read_rollouts
from prmbench.engines.sampling import SamplingParams
from prmbench.integrations.lm_eval import (
    acc_correct,
    acc_error,
    f1,
    problems,
    score_completions,
    score_verdicts,
    traces,
)
from prmbench.resources import resource_folder
from prmbench.stats.repeats import pass_at_k
from prmbench.stats.votes import vote
from prmbench.verify.extract import parse_verdict

SETS = ("aime", "amc", "amc23", "math500", "minerva_math", "olympiadbench", "gsm8k")
SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")


def test_prompt_keeps_what_the_texts_hold():
    text = critic_prompt("Is {paragraphs} {problem}?", ["{problem} one", "two {x}"])
    assert "Is {paragraphs} {problem}?" in text
    assert "<paragraph_0>\n{problem} one\n</paragraph_0>\n\n<paragraph_1>\ntwo {x}\n</paragraph_1>" in text
    assert text.rstrip().endswith("\\boxed{}.")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("First \\boxed{2}, no: \\boxed{-1}", -1),
        ("\\boxed{ $3$ }", 3),
        ("\\boxed{paragraph 3}", None),
        ("the answer is 3", None),
        ("\\boxed{1.5}", None),
        ("", None),
    ],
)
def test_verdicts(text, verdict):
    assert parse_verdict(text) == verdict


def test_votes():
    assert vote([None, 2, 1, 2, None, None]) == 2
    assert vote([1, 2]) == 1
    assert vote([None, None]) is None


def test_figures_of_completions_are_those_of_the_policy_benchmark():
    doc = {"answer": "0.5", "style": "boxed"}
    texts = [
        "\\boxed{1/2}",
        "\\boxed{2}",
        "\\boxed{2.0}",
        "\\boxed{2}",
        "no answer",
        "\\boxed{.5}",
        "\\boxed{3}",
        "\\boxed{4}",
    ]
    found = score_completions(doc, [texts])
    assert found == {"avg@8": 2 / 8, "pass@8": pass_at_k(8, 2, 8), "maj@8": 0.0}
    assert score_completions(doc, [["\\boxed{1/2}", "\\boxed{2}"]])["maj@2"] == 0.5


def test_figures_of_verdicts():
    rows = [
        ({"label": 1}, "\\boxed{1}"),
        ({"label": 0}, "\\boxed{1}"),
        ({"label": -1}, "\\boxed{-1}"),
        ({"label": -1}, "?"),
    ]
    found = [score_verdicts(doc, [text]) for doc, text in rows]
    hits = [one["f1"] for one in found]
    assert (acc_error(hits), acc_correct(hits), f1(hits)) == (0.5, 0.5, 0.5)
    assert [one["parsed"] for one in found] == [1, 1, 1, 0]
    several = score_verdicts({"label": 2}, [["\\boxed{2}", "?", "?", "\\boxed{2}", "\\boxed{0}"]])
    assert several == {"f1": (2, True), "acc_error": (2, True), "acc_correct": (2, True), "parsed": 0.6}


def test_documents(tmp_path):
    assert len(problems(set="miniature", prompt="bare")["test"]) == 100
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"id": "a", "problem": "Say {{ 7 }}.", "answer": "7"}) + "\n")
    (doc,) = problems(set="gsm8k", problems=str(file), version=1.0)["test"]
    assert doc["prompt"].startswith("Say {{ 7 }}.")
    made = support.write_traces(tmp_path / "t.jsonl", 3)
    assert len(traces(subset="gsm8k", traces=str(made))["test"]) == 3


def test_real_documents(processbench):
    assert len(traces(subset="gsm8k", version=1.0)["test"]) == 400
    counts = {name: len(problems(set=name)["test"]) for name in SETS}
    assert counts == {
        "aime": 90, "amc": 83, "amc23": 40, "math500": 500, "minerva_math": 272, "olympiadbench": 675, "gsm8k": 1319,
    }  # fmt: skip


@pytest.mark.slow
def test_lm_eval_finds_every_task_valid(processbench):
    names = [f"prmbench_{name}_avg8" for name in (*SETS, "miniature")]
    names += [f"prmbench_processbench_{name}{many}" for name in SUBSETS for many in ("", "_maj8")]
    names += ["prmbench_avg8", "prmbench_processbench", "prmbench_processbench_maj8"]
    command = [sys.executable, "-m", "lm_eval", "validate", "--include_path", str(resource_folder("tasks"))]
    done = subprocess.run([*command, "--tasks", ",".join(names)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All tasks found and valid" in done.stdout


def test_path_of_the_tasks():
    run = CliRunner().invoke(app, ["tasks", "path"])
    assert run.stdout.strip() == str(resource_folder("tasks"))


@pytest.mark.slow
def test_lm_eval_and_prmbench_agree_on_every_item(smollm2, tmp_path):
    """A real model, greedily, through both: the same text and the same verdict, right ones and wrong ones among them."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    sums = [(2, 2), (3, 4), (5, 5), (17, 26), (48, 39), (123, 456)]
    file = tmp_path / "sums.jsonl"
    lines = [
        {"id": f"{a}+{b}", "problem": f"What is {a} + {b}? Answer briefly.", "answer": str(a + b)} for a, b in sums
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prmbench.measure_policy(
        str(smollm2),
        subsets=[str(file)],
        output=tmp_path / "ours",
        n=1,
        params=SamplingParams(temperature=0, max_new_tokens=40),
        prompt="number",
        n_resamples=10,
    )
    ours = {r.id: r for r in read_rollouts(tmp_path / "ours" / "sums")}
    manager = TaskManager(
        include_path=str(resource_folder("tasks")), metadata={"problems": str(file), "prompt": "number"}
    )
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(smollm2), "dtype": "float32"},
        device="cpu",
        tasks=["prmbench_gsm8k_avg8"],
        task_manager=manager,
        gen_kwargs="do_sample=False,temperature=0,max_gen_toks=40",
        apply_chat_template=True,
        batch_size=16,
        bootstrap_iters=0,
    )
    theirs = {s["doc"]["id"]: s for s in found["samples"]["prmbench_gsm8k_avg8"]}
    assert theirs.keys() == ours.keys()
    ended = [name for name, r in ours.items() if r.finish_reason == "stop"]
    for name in ended:  # lm-eval does not say which completions were cut; ours that were cut are wrong
        texts = theirs[name]["resps"][0]
        assert len(texts) == 8
        assert {text.strip() for text in texts} == {ours[name].completion.strip()}
        assert theirs[name]["avg@8"] == float(ours[name].correct), name
    assert len(ended) >= 4
    assert {ours[name].correct for name in ended} == {True, False}
