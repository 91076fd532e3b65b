"""docs/score.md as a new user would try it: its plug-in copied, its records, its tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import support_prm
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2Model
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.reward_models.marks import MarkLayout
from prmbench.reward_models.presets import PRESETS
from prmbench.reward_models.registry import find_kind

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "score.md").read_text(encoding="utf-8")


def block(language, holding):
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL) if holding in text]
    return found


@pytest.fixture
def checkpoint(smollm2, tmp_path):
    """What the plug-in is for: a decoder, and a linear head of three classes beside it."""
    folder = support_prm.save_value_head(tmp_path / "ckpt", support_prm.smol_tokenizer(smollm2))
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("v_head")}
    support_prm._rewrite(folder, {**weights, "reward_head.weight": torch.randn(3, 16)})
    return folder


def test_the_plug_in(checkpoint, tmp_path):
    code = block("python", "@register")
    assert len(code.strip().split("\n")) <= 20
    (tmp_path / "three.py").write_text(code)
    (tmp_path / "my-solutions.jsonl").write_text(block("json", '"a-1"'))
    plugin = ["--plugin", str(tmp_path / "three.py"), "--kind", "three_class"]
    file = str(tmp_path / "my-solutions.jsonl")
    done = CliRunner().invoke(
        app, ["score", "--rm", str(checkpoint), *plugin, file, "--output", str(tmp_path / "scored")]
    )
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "scored" / "scores.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a-1", "2"]
    assert lines[0]["scores"] == lines[1]["scores"]  # the raw solution splits into the very steps

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    chat = [{"role": "user", "content": "What is 2 + 2?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    trunk = Qwen2Model.from_pretrained(checkpoint, dtype=torch.float64)
    head = load_file(checkpoint / "model.safetensors")["reward_head.weight"].double()
    for step, score in zip(["2 + 2 = 5.", "So \\boxed{5}."], lines[0]["scores"]["step"], strict=True):
        ids += (
            tokenizer(step, add_special_tokens=False)["input_ids"]
            + tokenizer("\n", add_special_tokens=False)["input_ids"]
        )
        with torch.no_grad():
            p = (head @ trunk(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]).softmax(-1)
        assert score == pytest.approx(float(torch.log((p[1] + p[2]) / p[0])), abs=1e-4)


def test_tables_hold_every_preset_and_field():
    rows = dict(re.findall(r"\| `(\w+)` \| [^|]+ \| (`[^|]+) \|", PAGE))
    listed = {name: kind for kind, names in rows.items() for name in re.findall(r"`([\w.-]+)`", names)}
    assert listed == {name: preset.card["kind"] for name, preset in PRESETS.items()}
    assert all(find_kind(kind) for kind in rows)
    marks = PAGE.partition("| `marks` | |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", marks)) >= set(MarkLayout.model_fields)


def test_the_page_says_what_verified_each_preset():
    page = PAGE.replace("`", "")
    for name, preset in PRESETS.items():
        if preset.verified is None:
            assert f"| {name} | unverified: {preset.reason} | |" in page
        else:
            assert f"| {name} | {preset.verified.code} | {preset.verified.commit[:10]} |" in page
