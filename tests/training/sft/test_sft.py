from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import support
import torch
from safetensors.torch import load_file
from support_training import mean_loss, write_chats
from transformers import AutoTokenizer
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.data.tokens import TraceEncoder
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model
from prmbench.training.data.chats import Chat, encode_chat, load_chats, truncate
from prmbench.training.recipes.chat_templates import find_template
from prmbench.training.recipes.lora import LoraOptions
from prmbench.training.sft.recipe import SFTRecipe
from prmbench.training.sft.run import train_sft


@pytest.fixture
def recipe(tiny, tmp_path):
    return SFTRecipe(
        model=str(tiny),
        data=str(write_chats(tmp_path / "chats.jsonl")),
        output=str(tmp_path / "out"),
        held_out=4,
        epochs=4,
        batch_size=4,
        micro_batch_size=2,
        learning_rate=5e-3,
        schedule="constant",
    )


@pytest.mark.slow
def test_learns_and_saves_a_checkpoint_that_evaluates(recipe, tiny):
    result = train_sft(recipe)
    assert (result.steps, result.n_records, result.n_overlong) == (20, 20, 0)
    losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
    assert losses[-1] < losses[0] - 0.5
    # The trainer's loss is the mean over response tokens, nothing else: prompts carry none.
    assert losses[0] == pytest.approx(mean_loss(tiny, recipe), rel=0.02)
    assert mean_loss(result.output, recipe) == pytest.approx(losses[-1], rel=0.02)
    model = load_reward_model(result.output, reference=tiny)
    assert np.abs(model.score([model.encode("What is 1 + 2?", ["1 + 2 = 3."])])[0].sums).max() > 0
    assert json.loads((result.output / "sft.json").read_text())["recipe"]["learning_rate"] == 5e-3


@pytest.mark.slow
def test_lora_is_merged_into_an_ordinary_checkpoint(recipe, tiny):
    result = train_sft(recipe.model_copy(update={"lora": LoraOptions(rank=4, alpha=8), "max_steps": 3}))
    assert not (result.output / "adapter_config.json").exists()
    assert mean_loss(result.output, recipe) < mean_loss(tiny, recipe)


def test_the_command_line(recipe, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(recipe.model_copy(update={"max_steps": 1}).model_dump_json())  # JSON is YAML
    done = CliRunner().invoke(app, ["train", "sft", str(file), "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert shown == {"output": recipe.output, "steps": 1, "records": 20, "overlong": 0, "pass_rate": None}
    again = CliRunner().invoke(app, ["train", "sft", str(file)])  # the same call after the end does nothing
    assert "1 steps on 20 records (0 too long, cut)" in again.output
    assert f"checkpoint: {recipe.output}" in again.output


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_weights(recipe, tmp_path):
    whole = train_sft(recipe.model_copy(update={"output": str(tmp_path / "whole"), "save_every": 4}))
    killed = recipe.model_copy(update={"output": str(tmp_path / "cut"), "save_every": 4})
    code = (
        "import json, os, sys, trl; from prmbench.training.sft.recipe import SFTRecipe\n"
        "from prmbench.training.sft.run import train_sft\n"
        "step = trl.SFTTrainer.training_step; count = [0]\n"
        "def counted(*args, **kwargs):\n"
        "    count[0] += 1\n"
        "    if count[0] == 20: os.kill(os.getpid(), 9)\n"  # ten updates of two micro-batches
        "    return step(*args, **kwargs)\n"
        "trl.SFTTrainer.training_step = counted\n"
        "train_sft(SFTRecipe(**json.loads(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, killed.model_dump_json()], capture_output=True)
    assert done.returncode == -9
    lines = []
    again = train_sft(killed, log=lines.append)
    assert f"going on from {tmp_path / 'cut' / 'trainer' / 'checkpoint-8'}" in lines
    assert again.steps == whole.steps
    assert not (again.output / "trainer").exists()
    first, second = (load_file(result.output / "model.safetensors") for result in (whole, again))
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_another_recipe_never_goes_on_from_saved_states(recipe):
    states = Path(recipe.output) / "trainer"
    (states / "checkpoint-4").mkdir(parents=True)
    (states / "checkpoint-4" / "trainer_state.json").write_text("{}")
    (states / "recipe.json").write_text(recipe.model_copy(update={"learning_rate": 1.0}).model_dump_json())
    with pytest.raises(UserError, match="the state of a run of another recipe"):
        train_sft(recipe)


def test_overlong_records_are_counted_and_none_left_is_an_error(recipe):
    with pytest.raises(UserError, match=r"no record is left to train on \(max_length 8"):
        train_sft(recipe.model_copy(update={"max_length": 8, "overlong": "drop"}))
    encoder = recipe.encoder(Path(recipe.model))
    whole = recipe.load(encoder)
    limit = int(np.median([len(ids) for ids, _ in whole.kept]))
    dropped = recipe.model_copy(update={"max_length": limit, "overlong": "drop"}).load(encoder)
    cut = recipe.model_copy(update={"max_length": limit}).load(encoder)
    assert len(dropped.kept) + len(dropped.held) + dropped.n_overlong == 24
    assert (cut.n_overlong, len(cut.kept), len(cut.held)) == (dropped.n_overlong, 20, 4)
    assert max(len(ids) for ids, _ in cut.kept) == limit
    for (ids, p), (short, q) in zip(whole.kept, cut.kept, strict=True):
        assert short[:q].tolist() == ids[:q].tolist()
        assert short[q:].tolist() == ids[p : p + len(short) - q].tolist()


@pytest.mark.parametrize(
    ("prompt", "answer", "limit", "kept"),
    [
        (60, 30, 100, (60, 30)),
        (100, 30, 100, (70, 30)),  # a short answer stays whole
        (30, 100, 100, (30, 70)),  # a short prompt does
        (150, 150, 100, (50, 50)),  # in proportion
        (100, 200, 100, (34, 66)),
        (50, 51, 100, (51 - 1, 50)),
        (1000, 1, 8, (7, 1)),
        (4, 8, 6, (2, 4)),
    ],
)
def test_long_chats_are_cut_as_llama_factory_cuts_them(prompt, answer, limit, kept):
    ids = np.arange(prompt + answer)
    short, n = truncate(ids, prompt, limit)
    assert (n, len(short) - n) == kept
    assert short.tolist() == [*range(kept[0]), *range(prompt, prompt + kept[1])]


def test_a_blank_answer_is_left_out_or_refused(recipe):
    file = Path(recipe.data)
    chats = [json.loads(line) for line in file.read_text().splitlines()]
    chats[7]["messages"][-1]["content"] = " "
    file.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    encoder = recipe.encoder(Path(recipe.model))
    assert len(recipe.load(encoder).kept) == 19
    with pytest.raises(UserError, match="line 8: the answer is blank"):
        recipe.model_copy(update={"strict": True}).load(encoder)
    chats = [*chats[:5], chats[7]]
    file.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    with pytest.raises(UserError, match="1 of 6 rows are of no use, more than a tenth"):
        recipe.load(encoder)


@pytest.mark.slow
@pytest.mark.parametrize("shipped", [True, False])
def test_a_base_model_gets_a_chat_template_that_is_saved_with_it(recipe, tmp_path, shipped):
    base = support.save_checkpoint(tmp_path / "base", template=None)
    with pytest.raises(UserError, match="the tokenizer has no chat template; set chat_template .*: chatml, llama3"):
        train_sft(recipe.model_copy(update={"model": str(base)}))
    with pytest.raises(UserError, match="chat_template 'lama3': no such file, nor a template that ships .did you mean"):
        train_sft(recipe.model_copy(update={"model": str(base), "chat_template": "lama3"}))
    (tmp_path / "mine.jinja").write_text(support.TEMPLATE)
    template = "chatml" if shipped else str(tmp_path / "mine.jinja")
    result = train_sft(recipe.model_copy(update={"model": str(base), "chat_template": template, "max_steps": 1}))
    encoder = TraceEncoder(AutoTokenizer.from_pretrained(result.output))
    asked = {
        True: "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n",
        False: "<|user|>2 + 2?<|end|>\n<|assistant|>",
    }
    assert encoder.render_prompt("2 + 2?") == asked[shipped]


def test_the_turns_of_llama_3():
    tokenizer = support.wrap(support.byte_level(), find_template("llama3"))
    special = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special}, replace_extra_special_tokens=False)
    encoder = TraceEncoder(tokenizer)
    said = "<|start_header_id|>{}<|end_header_id|>\n\n"
    wanted = f"<s>{said.format('user')}2 + 2?<|eot_id|>{said.format('assistant')}"
    assert encoder.render_prompt("2 + 2?") == wanted
    assert tokenizer.convert_ids_to_tokens(encoder.end_of_turn) == "<|eot_id|>"


def test_ids_are_the_prompt_with_its_generation_mark_then_the_answer_verbatim():
    encoder = TraceEncoder(support.wrap(support.byte_level(), support.THINKING_TEMPLATE))
    ids, p = encode_chat(encoder, Chat((("system", "s"), ("user", "2 + 2?")), "  It is 4. "))
    decode = encoder.tokenizer.decode
    assert decode(ids[:p]) == "<|system|>s<|end|>\n<|user|>2 + 2?<|end|>\n<|assistant|>"
    assert decode(ids[p:]) == "  It is 4. <|end|>"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": []}, "expected 'messages'"),
        ({"text": "x"}, "expected 'messages'"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
            "the last turn is the user's",
        ),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]}, r"'messages\[0\]' is"),
        ({"messages": [{"role": "robot", "content": "a"}, {"role": "assistant", "content": "b"}]}, "robot"),
    ],
)
def test_chat_mistakes_are_named(tmp_path, record, message):
    (tmp_path / "c.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=message):
        load_chats(tmp_path / "c.jsonl")


def test_conversations_of_the_other_naming(tmp_path):
    record = {"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    (tmp_path / "c.jsonl").write_text(json.dumps(record) + "\n")
    assert load_chats(tmp_path / "c.jsonl") == [Chat((("system", "s"), ("user", "q")), "a")]


def test_what_is_left_out_is_said(recipe):
    file = Path(recipe.data)
    chats = [json.loads(line) for line in file.read_text().splitlines()]
    chats[7]["messages"][-1]["content"] = " "
    file.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    (remark,) = recipe.load(recipe.encoder(Path(recipe.model))).remarks
    assert "left out as of no use: 1 x the answer is blank, first" in remark
    assert "line 8" in remark
