"""Kills, damaged states, full disks and numbers that are none, in supervised fine-tuning and reward-model training alike."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support_training import write_chats, write_outcomes

from prmbench.errors import UserError
from prmbench.resources import resource_folder
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm
from prmbench.training.sft.recipe import SFTRecipe
from prmbench.training.sft.run import train_sft

TRAIN = {"rm": train_rm, "sft": train_sft}
IMPORTS = (
    "import json, os, resource, sys, transformers\n"
    "from prmbench.training.rm.recipe import RMRecipe\n"
    "from prmbench.training.rm.run import train_rm\n"
    "from prmbench.training.sft.recipe import SFTRecipe\n"
    "from prmbench.training.sft.run import train_sft\n"
)
RUN = (
    "recipe = {'rm': RMRecipe, 'sft': SFTRecipe}[sys.argv[1]](**json.loads(sys.argv[2]))\n"
    "{'rm': train_rm, 'sft': train_sft}[sys.argv[1]](recipe)\n"
)


def make_recipe(kind, tiny, folder, **change):
    """Ten updates of two micro-batches, states at 4 and 8."""
    fields = {"model": str(tiny), "output": str(folder / "out"), "max_steps": 10, "save_every": 4, "batch_size": 4}
    fields |= {"micro_batch_size": 2, "learning_rate": 3e-3, "schedule": "constant", "held_out": 4, **change}
    if kind == "sft":
        return SFTRecipe(data=str(write_chats(folder / "chats.jsonl")), **fields)
    fields.setdefault("evaluate_every", 5)
    return RMRecipe(objective="ipvrm", data=str(write_outcomes(folder / "o.jsonl")), **fields)


def killed(kind, recipe, where):
    """Run a recipe in a process that ends itself by SIGKILL; `where` is code that arranges for it."""
    command = [sys.executable, "-c", IMPORTS + where + RUN, kind, recipe.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-3000:]


AFTER_THE_LAST_STEP = """
save = transformers.Trainer.save_model
def cut(self, output_dir=None, *rest, **others):
    if output_dir is not None and output_dir.endswith("last"):
        os.kill(os.getpid(), 9)
    return save(self, output_dir, *rest, **others)
transformers.Trainer.save_model = cut
"""

IN_STEP_TEN = """
step, count = transformers.Trainer.training_step, [0]
def cut(*arguments, **others):
    count[0] += 1
    if count[0] == 20:
        os.kill(os.getpid(), 9)
    return step(*arguments, **others)
transformers.Trainer.training_step = cut
"""

FULL_AFTER_SIX_STEPS = """
end = transformers.trainer_callback.CallbackHandler.on_step_end
def full(self, args, state, control):
    if state.global_step == 6:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    return end(self, args, state, control)
transformers.trainer_callback.CallbackHandler.on_step_end = full
"""


def weights(output):
    return load_file(Path(output) / "model.safetensors")


def same_weights(one, other):
    """Of the checkpoint, and of the last weights where they are written too."""
    pairs = [(weights(one), weights(other))]
    if (Path(one) / "last").is_dir():
        pairs.append((weights(Path(one) / "last"), weights(Path(other) / "last")))
    return all(torch.allclose(first[name], second[name], atol=1e-6) for first, second in pairs for name in first)


@pytest.fixture(scope="module", params=["rm", "sft"])
def whole(request, tiny, tmp_path_factory):
    """A run that nothing happened to."""
    kind = request.param
    recipe = make_recipe(kind, tiny, tmp_path_factory.mktemp(kind))
    return kind, recipe, TRAIN[kind](recipe)


@pytest.fixture(scope="module")
def cut(whole, tiny, tmp_path_factory):
    """The same run with another output, killed in its tenth step; and a function that puts its folder back as the kill left it."""
    kind, _, _ = whole
    folder = tmp_path_factory.mktemp(f"{kind}-cut")
    recipe = make_recipe(kind, tiny, folder)
    killed(kind, recipe, IN_STEP_TEN)
    output, kept = Path(recipe.output), folder / "kept"
    output.rename(kept)

    def restore():
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(kept, output)
        return output / "trainer"

    return recipe, restore


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAIN)
def test_killed_after_the_last_update(kind, tiny, tmp_path):
    """The last of eight, in the midst of an epoch of five."""
    expected = TRAIN[kind](make_recipe(kind, tiny, tmp_path, max_steps=8, output=str(tmp_path / "whole")))
    recipe = make_recipe(kind, tiny, tmp_path, max_steps=8)
    killed(kind, recipe, AFTER_THE_LAST_STEP)
    result = TRAIN[kind](recipe)
    assert result.steps == expected.steps == 8
    assert same_weights(result.output, expected.output)
    assert result.history[-1]["train_loss"] == pytest.approx(expected.history[-1]["train_loss"], abs=1e-6)


@pytest.mark.slow
def test_a_finished_run_does_nothing_again(whole):
    kind, recipe, expected = whole
    before = {path: path.stat().st_mtime_ns for path in expected.output.rglob("*") if path.is_file()}
    lines = []
    result = TRAIN[kind](recipe, log=lines.append)
    assert (result.output, result.steps, result.history) == (expected.output, expected.steps, expected.history)
    assert lines[-1] == f"{expected.output}: the run is finished; nothing is left to do"
    assert {path: path.stat().st_mtime_ns for path in expected.output.rglob("*") if path.is_file()} == before
    # Another recipe, or weights that are not those that were written, are another run.
    (expected.output / "model.safetensors").rename(expected.output / "kept.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.Trainer.train", lambda *_, **__: pytest.fail("trained"))
        with pytest.raises(pytest.fail.Exception, match="trained"):
            TRAIN[kind](recipe)
    (expected.output / "kept.safetensors").rename(expected.output / "model.safetensors")
    shutil.rmtree(expected.output / "trainer")


@pytest.mark.slow
def test_the_loss_of_the_run_counts_what_was_before_a_kill(whole, cut):
    kind, _, expected = whole
    recipe, restore = cut
    restore()
    result = TRAIN[kind](recipe)
    assert result.history[-1]["train_loss"] == pytest.approx(expected.history[-1]["train_loss"], abs=1e-6)
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert len(losses) == 10  # one row a step
    assert result.history[-1]["train_loss"] == pytest.approx(sum(losses) / 10)


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


DAMAGES = {
    "trainer_state.json": (empty, "trainer_state.json is not as it was saved"),
    "optimizer.pt": (Path.unlink, "optimizer.pt is missing"),
    "scheduler.pt": (empty, "scheduler.pt is not as it was saved"),
    "model.safetensors": (flip, "model.safetensors is not as it was saved"),
    "whole.json": (empty, "whole.json, line 1, column 1: broken JSON"),
}


@pytest.mark.slow
def test_a_damaged_state_is_left_for_the_one_before(whole, cut):
    kind, _, expected = whole
    recipe, restore = cut
    for name, (damage, said) in DAMAGES.items():
        states, lines = restore(), []
        damage(states / "checkpoint-8" / name)
        result = TRAIN[kind](recipe, log=lines.append)
        assert any(f"{states / 'checkpoint-8'}: is damaged" in line and said in line for line in lines), lines
        assert f"going on from {states / 'checkpoint-4'}" in lines
        assert same_weights(result.output, expected.output), name
    states = restore()
    for step in (4, 8):
        empty(states / f"checkpoint-{step}" / "optimizer.pt")
    with pytest.raises(UserError, match="checkpoint-4: is damaged .* there is no other state; delete"):
        TRAIN[kind](recipe)


@pytest.mark.slow
def test_a_state_that_was_cut_while_it_was_saved_is_none(whole, cut):
    kind, _, expected = whole
    recipe, restore = cut
    states, lines = restore(), []
    (states / "checkpoint-8" / "whole.json").unlink()
    empty(states / "checkpoint-8" / "trainer_state.json")
    result = TRAIN[kind](recipe, log=lines.append)
    assert f"going on from {states / 'checkpoint-4'}" in lines
    assert same_weights(result.output, expected.output)


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_run_goes_on(whole, tiny, tmp_path):
    kind, _, expected = whole
    recipe = make_recipe(kind, tiny, tmp_path)
    command = [sys.executable, "-c", IMPORTS + FULL_AFTER_SIX_STEPS + RUN, kind, recipe.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True)
    state = Path(recipe.output) / "trainer" / "checkpoint-8"
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"prmbench.errors.UserError: {state}: cannot be written (")
    assert last.endswith("make room, and run the same again: it goes on from the last saved state")
    assert not state.exists()
    lines = []
    result = TRAIN[kind](recipe, log=lines.append)
    assert f"going on from {state.parent / 'checkpoint-4'}" in lines
    assert same_weights(result.output, expected.output)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAIN)
@pytest.mark.parametrize("held_out", [0, 4])
def test_a_number_that_is_none_stops_the_run(kind, held_out, tiny, tmp_path):
    change = {"learning_rate": 1e30, "max_grad_norm": 1e30, "held_out": held_out, "save_every": 1}
    recipe = make_recipe(kind, tiny, tmp_path, **change, **({"evaluate_every": 1} if kind == "rm" else {}))
    said = r"(the loss is (nan|inf)|(weight '.*'|the value of a held-out response) is not a finite number) at step \d+; lower"
    with pytest.raises(UserError, match=said):
        TRAIN[kind](recipe)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    for state in (tmp_path / "out" / "trainer").glob("checkpoint-*"):
        assert all(weight.isfinite().all() for weight in weights(state).values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAIN)
def test_broken_weights_after_the_last_update_are_not_written(kind, tiny, tmp_path):
    recipe = make_recipe(kind, tiny, tmp_path, learning_rate=3e38, max_grad_norm=1e30, max_steps=1)
    with pytest.raises(UserError, match=r"weight '.*' is not a finite number at step 1; .*no state had been saved"):
        TRAIN[kind](recipe)
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_two_processes_on_a_cpu_go_on_after_a_kill(tiny, tmp_path):
    """With the launch configuration that ships: it starts two, and they resume."""
    recipe = make_recipe("rm", tiny, tmp_path, learning_rate=3e-4)
    configuration = resource_folder("training") / "accelerate" / "cpu-two-processes.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(configuration)]
    script = tmp_path / "run.py"

    def run(code):
        who = "print('process', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], flush=True)\n"
        script.write_text(IMPORTS + who + code + RUN)
        command = [*launch, str(script), "rm", recipe.model_dump_json()]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    cut = run(IN_STEP_TEN.replace("== 20", "== 10"))  # one micro-batch a process and step
    assert cut.returncode != 0
    assert "process 0 of 2" in cut.stdout
    assert "process 1 of 2" in cut.stdout
    assert (tmp_path / "out" / "trainer" / "checkpoint-8" / "whole.json").exists()
    done = run("")
    assert done.returncode == 0, done.stderr[-5000:]
    report = json.loads((tmp_path / "out" / "rm.json").read_text())
    assert report["steps"] == 10
    single = train_rm(recipe.model_copy(update={"output": str(tmp_path / "one")}))
    losses = [
        [row["eval_loss"] for row in history if "eval_loss" in row] for history in (report["history"], single.history)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
