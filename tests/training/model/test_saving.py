"""What is saved is what was trained, whatever is tied, merged, or set in the checkpoint that was started from."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import support
import torch
from safetensors.torch import load_file
from support_training import mean_loss, write_chats, write_outcomes
from transformers import AutoModelForCausalLM, Trainer

import prmbench.training.model.exporter
from prmbench.errors import UserError
from prmbench.training.model.start import moved
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm
from prmbench.training.sft.recipe import SFTRecipe
from prmbench.training.sft.run import train_sft

LORA = {"rank": 4, "alpha": 8, "targets": ["embed_tokens", "q_proj", "v_proj"]}


def fields(model, folder, **change):
    found = {"model": str(model), "output": str(folder / "out"), "max_steps": 4, "batch_size": 4, "micro_batch_size": 2}
    return {**found, "learning_rate": 2e-2, "schedule": "constant", "held_out": 4, **change}


def sft(model, folder, **change):
    return SFTRecipe(data=str(write_chats(folder / "chats.jsonl")), **fields(model, folder, **change))


def rm(model, folder, **change):
    return RMRecipe(
        objective=change.pop("objective", "ipvrm"),
        data=str(write_outcomes(folder / "o.jsonl")),
        **fields(model, folder, **change),
    )


@pytest.fixture
def tied(tmp_path):
    return support.save_checkpoint(tmp_path / "tied", tie_word_embeddings=True)


@pytest.mark.slow
def test_an_adapter_on_tied_embeddings_is_merged_as_it_was_trained(tied, tmp_path):
    recipe = sft(tied, tmp_path, lora=LORA, epochs=1, max_steps=None)
    result = train_sft(recipe)
    in_training = [row["eval_loss"] for row in result.history if "eval_loss" in row]
    assert in_training[-1] < in_training[0] - 0.1
    assert mean_loss(result.output, recipe) == pytest.approx(in_training[-1], rel=0.02)
    written = AutoModelForCausalLM.from_pretrained(result.output)
    start = AutoModelForCausalLM.from_pretrained(tied)
    assert not torch.equal(written.get_input_embeddings().weight, start.get_input_embeddings().weight)
    assert torch.equal(written.get_output_embeddings().weight, start.get_output_embeddings().weight)


@pytest.mark.slow
@pytest.mark.parametrize(("train", "make"), [(train_sft, sft), (train_rm, rm)])
@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["q_prj"], r"lora.targets .*q_prj.*: Target modules"),
        ("q_prj", r"lora.targets q_prj: Target modules"),
        (["q_proj", "lm_head"], "lora.targets: the output layer cannot carry an adapter here; leave it out"),
    ],
)
def test_targets_that_cannot_be(train, make, targets, said, tiny, tmp_path):
    with pytest.raises(UserError, match=said):
        train(make(tiny, tmp_path, lora={**LORA, "targets": targets}))


@pytest.mark.slow
@pytest.mark.parametrize(("train", "make"), [(train_sft, sft), (train_rm, rm)])
def test_weights_that_are_not_those_that_were_trained_are_said(train, make, tied, tmp_path, monkeypatch):
    monkeypatch.setattr(prmbench.training.model.exporter, "untie", lambda _: None)
    recipe = make(tied, tmp_path, lora=LORA)
    said = r"out: what is written there is not what was trained: values of a probe differ by .* on average"
    with pytest.raises(UserError, match=said):
        train(recipe)
    # What was trained is kept: with the merge mended, the same call only writes.
    monkeypatch.undo()
    monkeypatch.setattr(Trainer, "training_step", lambda *_, **__: pytest.fail("trained again"))
    assert train(recipe).steps == 4


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["q_rm", "ipvrm"])
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_head_is_part_of_what_is_compared(objective, lora, tiny, tmp_path, monkeypatch):
    def lose(self, *arguments, **others):
        write(self, *arguments, **others)
        file = next(iter(Path(arguments[1]).glob("model.safetensors")))
        broken = {
            name: weight * (1.5 if name in ("value_head.weight", "lm_head.weight") else 1)
            for name, weight in load_file(file).items()
        }
        from safetensors.torch import save_file

        save_file(broken, file, metadata={"format": "pt"})

    recipe = rm(tiny, tmp_path, objective=objective, lora=lora)
    assert train_rm(recipe).steps == 4
    write = prmbench.training.model.exporter.Exporter._write
    monkeypatch.setattr(prmbench.training.model.exporter.Exporter, "_write", lose)
    with pytest.raises(UserError, match="what is written there is not what was trained"):
        train_rm(recipe.model_copy(update={"output": str(tmp_path / "again")}))


@pytest.mark.slow
@pytest.mark.parametrize(("train", "make"), [(train_sft, sft), (train_rm, rm)])
@pytest.mark.parametrize(
    ("settings", "saved"),
    [
        ({"temperature": 0.6, "top_p": 0.9}, {"do_sample": True, "temperature": 0.6, "top_p": 0.9}),
        ({"do_sample": False, "temperature": 0.6}, {"do_sample": True, "temperature": 0.6}),
        ({"early_stopping": True, "temperature": 0.6}, {"early_stopping": None, "temperature": None}),
    ],
)
def test_generation_settings_that_transformers_does_not_save(train, make, settings, saved, tmp_path):
    start = support.save_checkpoint(tmp_path / "start")
    (start / "generation_config.json").write_text(json.dumps(settings))
    result = train(make(start, tmp_path, max_steps=1))
    found = json.loads((result.output / "generation_config.json").read_text())
    assert {name: found.get(name) for name in saved} == saved


@pytest.mark.slow
@pytest.mark.parametrize(("train", "make"), [(train_sft, sft), (train_rm, rm)])
def test_saving_is_tried_before_the_first_step(train, make, tiny, tmp_path, monkeypatch):
    def full(self, folder, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", folder)

    monkeypatch.setattr(Trainer, "_save", full)
    monkeypatch.setattr(Trainer, "training_step", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(UserError, match=r"rehearsal: cannot be written \(No space left on device\); make room"):
        train(make(tiny, tmp_path))
    monkeypatch.setattr(Trainer, "_save", lambda *_, **__: (_ for _ in ()).throw(ValueError("this config is odd")))
    with pytest.raises(UserError, match=r"the model cannot be saved \(this config is odd\)"):
        train(make(tiny, tmp_path))
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def to_bfloat16(values):
    """Round float64 to bfloat16 and back, by the bits: to the nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("step", [5e-7, 2e-5, 1e-3])
def test_the_share_of_weights_that_move(step):
    weights = to_bfloat16(np.random.default_rng(0).normal(scale=0.02, size=4000))
    wanted = np.mean([to_bfloat16(weights + sign * step) != weights for sign in (1, -1)])
    found = moved(torch.from_numpy(weights).bfloat16(), step)
    assert found == pytest.approx(wanted, abs=1e-3)  # float32 rounds first here
    assert moved(torch.from_numpy(weights).float(), step) > max(found - 1e-9, 0.8)


@pytest.mark.slow
@pytest.mark.parametrize("make", [sft, rm])
def test_full_training_in_half_precision_is_refused_at_a_small_rate(make, tiny, tmp_path):
    train = train_sft if make is sft else train_rm
    recipe = make(tiny, tmp_path, dtype="bfloat16", learning_rate=5e-7)
    said = r"dtype bfloat16: at learning_rate 5e-07 an update moves 0\.\d% of the weights \(in float32 [\d.]+%\); set dtype"
    with pytest.raises(UserError, match=said):
        train(recipe)
    # An adapter is float32 itself; and what no type is named for is float32.
    assert train(make(tiny, tmp_path, dtype="bfloat16", learning_rate=5e-7, lora=LORA, max_steps=1)).steps == 1
    assert make(tiny, tmp_path, dtype="auto").load_options.dtype == "float32"
    assert make(tiny, tmp_path, dtype="auto", lora=LORA).load_options.dtype == "auto"
