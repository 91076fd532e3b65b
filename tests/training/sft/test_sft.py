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
from support_training import write_chats
from transformers import AutoModelForCausalLM

from prmbench.data.tokens import TraceEncoder
from prmbench.errors import UserError
from prmbench.reward_models.loading import load_reward_model
from prmbench.training.data.chats import Chat, encode_chat, load_chats
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


def mean_loss(folder, recipe):
    """Plain mean negative log-likelihood of the response tokens of the held-out chats, one at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    encoder = TraceEncoder(support.wrap(support.byte_level()))
    total, count = 0.0, 0
    for chat in load_chats(recipe.data)[-recipe.held_out :]:
        ids, p = encode_chat(encoder, chat)
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor(ids)[None]).logits[0].double(), -1)
        total -= sum(float(logprobs[t - 1, ids[t]]) for t in range(p, len(ids)))
        count += len(ids) - p
    return total / count


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


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_weights(recipe, tmp_path):
    whole = train_sft(recipe.model_copy(update={"output": str(tmp_path / "whole"), "save_every": 4}))
    killed = recipe.model_copy(update={"output": str(tmp_path / "cut"), "save_every": 4})
    code = (
        "import json, os, sys, trl; from prmbench.training.sft.run import SFTRecipe, train_sft\n"
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
        train_sft(recipe.model_copy(update={"max_length": 8}))


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
