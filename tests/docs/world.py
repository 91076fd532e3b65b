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
from pages import ROOT
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

POSITIONS = 256
"""Positions of the tiny models."""

CARD = {"kind": "implicit", "objective": "ipvrm", "beta": 10.0, "margin": 5.0, "reference": "../SFT"}
ENTRIES = ROOT / "leaderboards" / "entries"


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
    support.write_traces(folder / "my-traces.jsonl", 12)
    _data(folder / "data")
    for name in ("leaderboards", "training", "tasks"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def _models(folder: Path) -> None:
    """The models that pages name: a policy, a reward model with its card, an adapter, and public PRMs laid out as published."""
    for name, seed, positions in (("SFT", 0, POSITIONS), ("CKPT", 1, POSITIONS), ("LLM", 2, 1024)):
        support.save_checkpoint(folder / name, seed=seed, max_position_embeddings=positions)
    (folder / "CKPT" / "prmbench.json").write_text(json.dumps(CARD))
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "SFT"), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.peft_config["default"].base_model_name_or_path = "SFT"
    adapted.save_pretrained(folder / "ADAPTER")
    shepherd = support_prm.save_causal(folder / "PRM", support_prm.mistral_tokenizer())
    shutil.copytree(shepherd, folder / "peiyi9979" / "math-shepherd-mistral-7b-prm")
    marked = support.wrap(support.byte_level())
    marked.add_special_tokens({"additional_special_tokens": ["<extra_0>"]})
    support_prm.save_mlp_classifier(folder / "Qwen" / "Qwen2.5-Math-PRM-7B", marked)
    support_prm.save_linear_classifier(folder / "CLASSIFIER", marked)
    support_prm.save_value_head(folder / "VALUE_HEAD", marked)


def _problems(name: str, n: int) -> list[dict[str, str]]:
    rng = random.Random(name)
    sums = [(rng.randint(1, 9), rng.randint(1, 9)) for _ in range(n)]
    return [{"id": f"{name}-{i}", "problem": f"{a} + {b} = ?", "answer": str(a + b)} for i, (a, b) in enumerate(sums)]


def _data(folder: Path) -> None:
    """A folder as ``PRMBENCH_DATA_DIR`` names one: ProcessBench and the problem sets, a few records each."""
    for name in ("processbench", "policy", "problems"):
        (folder / name).mkdir(parents=True)
    for i, name in enumerate(("gsm8k", "math", "olympiadbench", "omnimath")):
        traces = support.make_traces(10, seed=i)
        (folder / "processbench" / f"{name}.json").write_text(json.dumps([{**t, "id": f"{name}-{t['id']}"} for t in traces]))
    for name in ("aime", "amc", "amc23", "math500", "minerva_math", "olympiadbench"):
        _write(folder / "policy" / f"{name}.jsonl", _problems(name, 2))
    _write(folder / "problems" / "gsm8k_test.jsonl", _problems("gsm8k", 2))


def _write(path: Path, records: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
