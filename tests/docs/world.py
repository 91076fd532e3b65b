"""The names that pages use, as real files: tiny models, a few problems and traces, and runs.

A page's commands run in a folder that holds what `build` writes. So ``prmbench eval --rm CKPT --reference SFT`` runs as it stands.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import support
import support_prm
import support_training
from pages import ROOT
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

POSITIONS = 256
"""Positions of the tiny models."""

MARKS = ("<extra_0>", "ки")
"""Tokens at which public PRMs are read."""

CARD = {"kind": "implicit", "objective": "ipvrm", "beta": 10.0, "margin": 5.0, "reference": "../SFT"}
SAME = {"CKPT": ("ipvrm", "implicit_prm", "out/ipvrm", "out/distrl/reward_model"), "SFT": ("sft", "out/distrl")}
"""Other names of models on pages, by the model that they are."""


def build(folder: Path) -> Path:
    """Write every file that pages name.

    Args:
        folder: A new folder.

    Returns:
        The folder.
    """
    folder.mkdir()
    _models(folder)
    for name in ("problems", "train", "mine", "validation"):
        _write(folder / f"{name}.jsonl", _problems(name, 3))
    support.write_traces(folder / "my-traces.jsonl", 6)
    traces = [json.loads(line) for line in (folder / "my-traces.jsonl").read_text().splitlines()]
    _write(folder / "scores.jsonl", [{"id": t["id"], "scores": [0.9] * len(t["steps"])} for t in traces])
    solutions = [{"problem": trace["problem"], "steps": trace["steps"]} for trace in support.make_traces(3)]
    _write(folder / "my-solutions.jsonl", solutions)
    support.write_candidates(folder / "samples.jsonl")
    support_training.write_outcomes(folder / "outcomes.jsonl")
    _data(folder / "data")
    for name in ("docs", "leaderboards", "training", "tasks"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def lend_verdicts(path: Path) -> None:
    """Call the first rollout of each problem right, since a random model never is, and training needs both outcomes.

    Args:
        path: A file of rollouts.
    """
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    right = {"verdict": "correct", "correct": True, "finish_reason": "stop"}
    _write(path, [{**record, **right} if record["sample"] == 0 else record for record in records])


def _models(folder: Path) -> None:
    """The models that pages name: a policy, a reward model with its card, an adapter, and public PRMs laid out as published."""
    tokenizer = support.wrap(support.byte_level())
    tokenizer.add_tokens(list(MARKS), special_tokens=True)
    for name, seed, positions in (("SFT", 0, POSITIONS), ("CKPT", 1, POSITIONS), ("LLM", 2, 1024)):
        model = support.tiny_llama(len(tokenizer), seed, max_position_embeddings=positions)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "CKPT" / "prmbench.json").write_text(json.dumps(CARD))
    for model, names in SAME.items():
        for name in names:
            shutil.copytree(folder / model, folder / name, dirs_exist_ok=True)
            if model == "CKPT":
                card = {**CARD, "reference": str(Path(*[".."] * (name.count("/") + 1), "SFT"))}
                (folder / name / "prmbench.json").write_text(json.dumps(card))
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder / "SFT"), LoraConfig(r=2, target_modules=["q_proj"])
    )
    adapted.peft_config["default"].base_model_name_or_path = "SFT"
    adapted.save_pretrained(folder / "ADAPTER")
    shepherd = support_prm.save_causal(folder / "PRM", support_prm.mistral_tokenizer())
    shutil.copytree(shepherd, folder / "peiyi9979" / "math-shepherd-mistral-7b-prm")
    support_prm.save_mlp_classifier(folder / "Qwen" / "Qwen2.5-Math-PRM-7B", tokenizer)
    support_prm.save_linear_classifier(folder / "CLASSIFIER", tokenizer)
    support_prm.save_value_head(folder / "VALUE_HEAD", tokenizer)


def _problems(name: str, n: int) -> list[dict[str, object]]:
    rng = random.Random(name)
    sums = [(rng.randint(1, 9), rng.randint(1, 9)) for _ in range(n)]
    return [{"id": f"{name}-{i}", "problem": f"{a} + {b} = ?", "answer": str(a + b)} for i, (a, b) in enumerate(sums)]


def _data(folder: Path) -> None:
    """A folder as ``PRMBENCH_DATA_DIR`` names one: ProcessBench and the problem sets, a few records each."""
    for name in ("processbench", "policy", "problems"):
        (folder / name).mkdir(parents=True)
    for i, name in enumerate(("gsm8k", "math", "olympiadbench", "omnimath")):
        traces = support.make_traces(4, seed=i)
        (folder / "processbench" / f"{name}.json").write_text(
            json.dumps([{**t, "id": f"{name}-{t['id']}"} for t in traces])
        )
    for name in ("aime", "amc", "amc23", "math500", "minerva_math", "olympiadbench"):
        _write(folder / "policy" / f"{name}.jsonl", _problems(name, 2))
    _write(folder / "problems" / "gsm8k_test.jsonl", _problems("gsm8k", 2))


def _write(path: Path, records: Iterable[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
