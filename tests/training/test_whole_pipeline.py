"""The whole pipeline of the paper on a handful of made Eurus records, on the command line, with one prompt in every stage."""

from __future__ import annotations

import json

import pytest
import support
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.data.prompts import find_prompt
from prmbench.engines.load import LoadOptions
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.reward_models.loading import load_reward_model

ASK = "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"
EURUS = find_prompt("eurus")


def command(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, f"{arguments}\n{done.output}\n{done.exception!r}"
    return done.stdout


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Records as Eurus-2 has them. A question has a right answer and a wrong one, so that the tuned policy gives both."""
    folder = tmp_path_factory.mktemp("raw")

    def chat(question, answer, task="Math"):
        turns = [{"from": "human", "value": question + ASK}, {"from": "gpt", "value": f"\\boxed{{{answer}}}"}]
        return {"dataset": "made", "task": task, "conversations": turns}

    def problem(question, answer, ability="math"):
        turns = [{"role": "system", "content": "Other."}, {"role": "user", "content": question + ASK}]
        reward = {"style": "rule", "ground_truth": answer}
        return {"data_source": "made", "ability": ability, "prompt": turns, "reward_model": reward}

    questions = [f"Name {i}." for i in range(4)]
    chats = [chat(q, answer) for q in questions for answer in "47"] + [chat("Sort.", "x", "Coding")]
    write(folder / "sft.jsonl", chats)
    write(folder / "rl.jsonl", [problem("Sort.", "x", "code"), *(problem(q, "4") for q in questions)])
    return folder


@pytest.mark.slow
def test_from_records_to_the_leaderboard(raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = support.save_checkpoint(tmp_path / "base", template=None, max_position_embeddings=1024)

    # Convert. Rows of code are set aside and counted.
    assert "8 rows kept; 1 of coding left out" in command("data", "eurus", raw / "sft.jsonl", "--output", "eurus")
    assert "4 rows kept; 1 of code left out" in command("data", "eurus", raw / "rl.jsonl", "--output", "eurus")

    # Fine-tune a base model without a chat template: it gets one that ships, and later stages find it.
    recipe = {"model": str(base), "data": "eurus/chats.jsonl", "output": "sft", "chat_template": "chatml"}
    recipe |= {"batch_size": 8, "micro_batch_size": 8, "max_steps": 25, "learning_rate": 1e-2, "schedule": "constant"}
    (tmp_path / "sft.yaml").write_text(json.dumps(recipe))
    command("train", "sft", "sft.yaml")

    # Sample. The policy has seen both answers to every question, so it gives both.
    sampled = ["--problems", "eurus/problems.jsonl", "--prompt", "eurus", "--max-new-tokens", "12"]
    command("rollout", "--policy", "sft", *sampled, "--output", "rollouts", "--n", "8")
    rows = [json.loads(line) for line in (tmp_path / "rollouts" / "rollouts.jsonl").read_text().splitlines()]
    verdicts = {row["verdict"] for row in rows}
    assert verdicts >= {"correct", "wrong"}, verdicts

    # Train a reward model on the rollouts: same prompt, same system message, by its card too.
    recipe = {"objective": "ipvrm", "model": "sft", "data": "rollouts", "output": "rm", "prompt": "eurus"}
    recipe |= {"batch_size": 2, "micro_batch_size": 2, "max_steps": 2, "learning_rate": 1e-4}
    (tmp_path / "rm.yaml").write_text(json.dumps(recipe))
    command("train", "rm", "rm.yaml")
    card = json.loads((tmp_path / "rm" / "prmbench.json").read_text())
    assert card["prompt"] == "eurus"
    model = load_reward_model("rm")
    prompt_ids = load_tokenizer(tmp_path / "sft", LoadOptions()).apply_chat_template(
        [{"role": "system", "content": EURUS.system}, {"role": "user", "content": EURUS.render("Name 0.")}],
        add_generation_prompt=True,
        return_dict=False,
    )
    encoded = model.encode("Name 0.", ["\\boxed{4}"])
    assert encoded.ids[: encoded.n_prompt].tolist() == prompt_ids

    # Optimise the policy with it, and measure both.
    recipe = {"method": "distrl", "model": "sft", "problems": "eurus/problems.jsonl", "output": "rl", "prompt": "eurus"}
    recipe |= {"batch_size": 2, "micro_batch_size": 8, "samples": 8, "max_steps": 1, "max_new_tokens": 12}
    recipe |= {"reward_model": {"model": "rm", "update": "dlw+adb", "lora": {"rank": 2, "alpha": 2}}}
    (tmp_path / "rl.yaml").write_text(json.dumps(recipe))
    command("train", "rl", "rl.yaml")
    (step,) = json.loads((tmp_path / "rl" / "rl.json").read_text())["history"]
    assert step["rollouts/accuracy"] > 0
    updated = json.loads((tmp_path / "rl" / "reward_model" / "prmbench.json").read_text())
    assert (updated["prompt"], updated["reference"]) == ("eurus", "reference")

    support.write_traces(tmp_path / "traces.jsonl", 8)
    for name, what in (
        ("rm", ["--rm", "rm", "--data", "traces.jsonl"]),
        ("updated", ["--rm", "rl/reward_model", "--data", "traces.jsonl"]),
        ("policy", ["--policy", "rl", "--subset", "eurus/problems.jsonl", "--n", "2", *sampled[2:]]),
    ):
        command("eval", *what, "--resamples", "50", "--output", f"runs/{name}")
        command("leaderboard", "add", f"runs/{name}", "--folder", "board")
    entry = json.loads((tmp_path / "runs" / "rm" / "entry.json").read_text())
    assert entry["subject"]["scoring"]["prompt"] == "eurus"
    command("leaderboard", "build", "--folder", "board")
    board = (tmp_path / "board" / "leaderboard.md").read_text()
    assert board.count("\n## ") == 2  # ProcessBench and policies
