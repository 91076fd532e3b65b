"""Kills after the last update, damaged states, numbers that are none, a finished run called again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rl_driver
import support
from rl_driver import figures, make_recipe, run_here, same_weights, save_reward, write_recipe

from prmbench.errors import UserError
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rl.run import train_rl

WEIGHTS = ("model.safetensors", "reward_model/model.safetensors", "reward_model/reference/model.safetensors")


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """(folder, evaluate options): three steps of DistRL, measured at the end, that nothing happened to."""
    from prmbench.training.rl.trainer import PolicyTrainer

    folder = tmp_path_factory.mktemp("whole")
    evaluate = {"problems": [str(world[1])], "n": 1, "limit": 2, "max_new_tokens": 4, "resamples": 10}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicyTrainer, "_sample", rl_driver.patched(PolicyTrainer._sample))
        file, _ = write_recipe(world, folder, "whole", evaluate=evaluate)
        run_here(file)
    return folder, evaluate


def killed_in(function, world, folder, name, evaluate):
    """A run that killed itself in a function of `prmbench.training.rl.run`: (recipe file, output)."""
    file, output = write_recipe(world, folder, name, evaluate=evaluate)
    command = [sys.executable, str(Path(rl_driver.__file__)), str(file), function]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr[-3000:]
    assert not (output / "rl.json").exists()
    return file, output


def check_same(whole, output):
    report = json.loads((output / "rl.json").read_text())
    assert report["steps"] == 3
    assert list(report["evaluations"]) == ["3"]
    assert report["evaluations"] == json.loads((whole / "rl.json").read_text())["evaluations"]
    wanted = figures(whole)
    assert figures(output) == {key: pytest.approx(value, abs=1e-6) for key, value in wanted.items()}
    for name in WEIGHTS:
        same_weights(whole / name, output / name, 1e-6)
    assert not (output / "trainer").exists()


@pytest.mark.slow
@pytest.mark.parametrize("function", ["_finish", "_measure", "_export_reward"])
def test_killed_after_the_last_update(world, whole, chosen_outcomes, function):
    """It trains no further step, and writes what it would have written; in the last measurement too."""
    folder, evaluate = whole
    file, output = killed_in(function, world, folder, function, evaluate)
    assert (output / "model.safetensors").exists() == (function != "_finish")
    lines = run_here(file)
    assert any("going on from" in line and "checkpoint-6" in line for line in lines)
    check_same(folder / "whole", output)


@pytest.mark.slow
def test_a_finished_run_does_nothing_again(world, whole, chosen_outcomes, monkeypatch):
    folder, _ = whole
    report = folder / "whole" / "rl.json"
    before = report.stat().st_mtime_ns, (folder / "whole" / "model.safetensors").stat().st_mtime_ns
    from prmbench.training.rl import run

    monkeypatch.setattr(run, "_work", lambda *_: pytest.fail("it worked again"))
    recipe = RLRecipe.model_validate_json((folder / "whole.json").read_text())
    lines = []
    result = train_rl(recipe, log=lines.append)
    assert any("the run is finished; nothing is left to do" in line for line in lines)
    assert (result.steps, list(result.evaluations), len(result.history)) == (3, [3], 3)
    assert result.reward_model == folder / "whole" / "reward_model"
    assert before == (report.stat().st_mtime_ns, (folder / "whole" / "model.safetensors").stat().st_mtime_ns)


@pytest.mark.slow
def test_a_damaged_state_is_left_for_the_one_before(world, whole, chosen_outcomes):
    """The reward model's state and the trainer's alike; never other weights, and a sentence where no state is left."""
    folder, evaluate = whole
    file, output = killed_in("_finish", world, folder, "damaged", evaluate)
    kept = folder / "kept"
    shutil.copytree(output, kept)
    for name in ("reward_model/state.pt", "trainer_state.json", "optimizer.pt"):
        shutil.rmtree(output)
        shutil.copytree(kept, output)
        damaged = output / "trainer" / "checkpoint-6" / name
        damaged.write_bytes(b"")
        lines = run_here(file)
        assert any(f"is damaged ({name} is not as it was saved); going back" in line for line in lines)
        assert any("going on from" in line and "checkpoint-4" in line for line in lines)
        check_same(folder / "whole", output)
    shutil.rmtree(output)
    shutil.copytree(kept, output)
    for state in (output / "trainer").glob("checkpoint-*"):
        (state / "reward_model" / "state.pt").unlink()
    with pytest.raises(UserError, match=r"state.pt is missing\), and there is no other state; delete .*trainer"):
        run_here(file)
    assert not (output / "rl.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_a_policy_that_is_no_number_stops_the_run(world, tmp_path, chosen_outcomes, steps):
    """After the last update too: nothing is written, and the state before is kept."""
    recipe = make_recipe(world, tmp_path / "out", max_steps=steps, minibatches=2, learning_rate=1e38, save_every=1)
    with pytest.raises(UserError, match=r"is not a finite number at step \d|the loss is (nan|inf) at step \d"):
        train_rl(recipe)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.slow
def test_settings_that_cannot_be_saved_are_mended_before_the_first_step(world, tmp_path, chosen_outcomes, monkeypatch):
    """A temperature without do_sample, as in Llama-2-chat, in the policy and in a reward model that learns."""
    policy = support.save_checkpoint(tmp_path / "policy", seed=0)
    rm = save_reward(tmp_path / "rm", "ipvrm", str(policy))
    for folder in (policy, rm):
        file = folder / "generation_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"temperature": 0.6}))
    reward = {"model": str(rm), "update": "naive"}
    result = train_rl(make_recipe((policy, world[1]), tmp_path / "out", reward_model=reward))
    assert (result.reward_model / "model.safetensors").exists()

    from prmbench.training.rl import reward as rewards
    from prmbench.training.rl import run

    monkeypatch.setattr(run, "_export", lambda *_: (_ for _ in ()).throw(ValueError("no such format")))
    monkeypatch.setattr(rewards.ImplicitReward, "learn", lambda *_: pytest.fail("it had begun to learn"))
    with pytest.raises(UserError, match=r"the model cannot be saved \(no such format\)"):
        train_rl(make_recipe((policy, world[1]), tmp_path / "other", reward_model=reward))


@pytest.mark.slow
def test_a_full_disk_is_one_sentence(world, tmp_path, chosen_outcomes, monkeypatch):
    from prmbench.training.rl.reward import ImplicitReward

    rm = save_reward(tmp_path / "rm", "ipvrm", str(world[0]))
    save = ImplicitReward.save_state

    def full(self, folder, *, write):
        if "checkpoint-4" in str(folder):
            raise OSError(28, "No space left on device")
        save(self, folder, write=write)

    monkeypatch.setattr(ImplicitReward, "save_state", full)
    reward = {"model": str(rm), "update": "naive"}
    recipe = make_recipe(world, tmp_path / "out", max_steps=2, save_every=1, reward_model=reward)
    with pytest.raises(UserError, match=r"checkpoint-4: cannot be written \(No space left on device\); make room"):
        train_rl(recipe)
    assert [path.name for path in (tmp_path / "out" / "trainer").glob("checkpoint-*")] == ["checkpoint-2"]
