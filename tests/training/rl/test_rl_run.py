"""Whole runs: kills, processes, adapters, what a run leaves behind, what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import peft
import pytest
import rl_driver
import support
import torch
from pydantic import ValidationError
from rl_driver import figures, make_recipe, run_here, same_weights, save_reward, write_recipe
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import TokenOptions
from prmbench.errors import UserError
from prmbench.policies.policy import load_policy
from prmbench.reward_models.card import Card, write_card
from prmbench.reward_models.loading import load_reward_model
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rl.reward import FrozenReward
from prmbench.training.rl.run import train_rl


def test_the_command_line(world, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"method: grpo\nmodel: {world[0]}\nproblems: {world[1]}\noutput: {tmp_path / 'out'}\nbatch_size: 4\nsamples: 2\n"
        "max_steps: 1\nmax_new_tokens: 4\n"
    )
    runner = CliRunner()
    done = runner.invoke(app, ["train", "rl", str(recipe), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "output": str(tmp_path / "out"),
        "steps": 1,
        "evaluations": {},
        "reward_model": None,
    }
    shown = runner.invoke(app, ["train", "rl", str(recipe), "--dry-run", "--set", "expected={records: 12, tokens: 9}"])
    assert "2 updates on them" in shown.output, shown.output
    other = ["--dry-run", "--set", "expected={records: 12, tokens: 9}", "--set", "prompt=boxd"]
    wrong = runner.invoke(app, ["train", "rl", str(recipe), *other])
    assert isinstance(wrong.exception, UserError), wrong.output
    assert "boxd" in str(wrong.exception)
    for change, message in (("p_mim=0.2", "p_min"), ("temperature=0.7", "untempered")):
        wrong = runner.invoke(app, ["train", "rl", str(recipe), "--set", change])
        assert isinstance(wrong.exception, UserError)
        assert message in str(wrong.exception)


def driver(file):
    return [sys.executable, str(Path(rl_driver.__file__)), str(file)]


def run_driver(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kill_when(file, there):
    """Start the driver, and SIGKILL it as soon as a file is there."""
    process = subprocess.Popen(driver(file), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not there.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_losses(world, tmp_path, chosen_outcomes):
    """SIGKILL in the middle of the third step: the online reward model, its optimizer and its reference are all restored."""
    whole_file, whole = write_recipe(world, tmp_path, "whole", max_steps=4)
    run_here(whole_file)
    file, output = write_recipe(world, tmp_path, "killed", max_steps=4)
    kill_when(file, output / "trainer" / "checkpoint-4" / "trainer_state.json")
    assert not (output / "rl.json").exists()
    assert any("going on from" in line for line in run_here(file))
    wanted = figures(whole)
    assert {step for step, _ in wanted} == {1, 2, 3, 4}
    for key, value in figures(output).items():
        assert value == pytest.approx(wanted[key], abs=1e-6), key
    same_weights(whole / "model.safetensors", output / "model.safetensors", 1e-6)
    for part in ("", "reference/"):
        same_weights(
            whole / f"reward_model/{part}model.safetensors", output / f"reward_model/{part}model.safetensors", 1e-6
        )


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(world, tmp_path, chosen_outcomes):
    one_file, one = write_recipe(world, tmp_path, "one")
    run_here(one_file)
    two_file, two = write_recipe(world, tmp_path, "two", micro_batch_size=2)
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    run_driver([*accelerate, str(Path(rl_driver.__file__)), str(two_file)], env=environment)
    wanted = figures(one)
    for key, value in figures(two).items():
        assert value == pytest.approx(wanted[key], abs=2e-4), key
    same_weights(one / "model.safetensors", two / "model.safetensors", 2e-3)  # 6 steps of AdamW at 1e-3
    apart = [
        ((load_file(one / "model.safetensors")[name] - w).abs() > 1e-4).float().mean()
        for name, w in load_file(two / "model.safetensors").items()
    ]
    assert max(apart) < 0.05


@pytest.mark.slow
def test_an_adapter_trains_and_is_merged(world, tmp_path, chosen_outcomes):
    result = train_rl(
        make_recipe(
            world,
            tmp_path / "out",
            method="spro",
            lora={"rank": 4, "alpha": 8},
            max_steps=2,
            evaluate={"problems": [str(world[1])], "n": 2, "limit": 3, "max_new_tokens": 8, "resamples": 20},
        )
    )
    assert not (result.output / "adapter_config.json").exists()
    before, after = load_file(world[0] / "model.safetensors"), load_file(result.output / "model.safetensors")
    moved = {name for name, w in after.items() if not torch.equal(w, before[name])}
    assert any("q_proj" in name for name in moved)
    assert not any("embed" in name or "norm" in name for name in moved)
    assert result.history[0]["kl_start"] == 0  # the adapter starts as nothing
    assert result.history[1]["kl_start"] != 0
    assert list(result.evaluations) == [2]
    entry = json.loads((result.output / "entries" / "step-2" / "entry.json").read_text())
    report = json.loads((result.output / "rl.json").read_text())
    assert entry["subject"]["weights"]["model"] == report["hashes"]["policy"]


@pytest.mark.slow
def test_a_reward_model_learns_by_an_adapter(world, tmp_path, chosen_outcomes):
    """Frozen weights below; merged when written, and saved and read as a state like all others."""
    rm = save_reward(tmp_path / "rm", "ipvrm", str(world[0]))
    options = {"model": str(rm), "update": "dlw", "lora": {"rank": 2, "alpha": 8}, "learning_rate": 1e-2}
    result = train_rl(
        make_recipe(world, tmp_path / "out", method="distrl", max_steps=2, save_every=1, reward_model=options)
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (rm, result.reward_model))
    moved = {name for name, w in after.items() if not torch.equal(w, before[name])}
    assert any("q_proj" in name for name in moved)
    assert not any("embed" in name or "norm" in name for name in moved)
    assert load_reward_model(result.reward_model).card.objective == "ipvrm"


@pytest.mark.slow
def test_an_updated_reward_model_goes_back_into_the_harness(world, tmp_path, chosen_outcomes):
    """Its card leads to the reference it is a ratio against: pi_old of the last step, not where training began."""
    rm = save_reward(tmp_path / "rm", "ipvrm", str(world[0]))
    result = train_rl(
        make_recipe(
            world, tmp_path / "out", method="distrl", max_steps=2, reward_model={"model": str(rm), "update": "naive"}
        )
    )
    loaded = load_reward_model(result.reward_model)
    assert (loaded.card.objective, loaded.card.scale()) == ("ipvrm", 10.0)
    assert (loaded.card.reference, loaded.card.prompt) == ("reference", make_recipe(world, tmp_path / "out").prompt)
    assert loaded.warnings == []  # its reference and its chat template are those that the card names
    reference = load_file(result.reward_model / "reference" / "model.safetensors")
    for other in (world[0], result.output):
        others = load_file(other / "model.safetensors")
        assert any(not torch.equal(w, others[name]) for name, w in reference.items())
    started, ended = load_file(rm / "model.safetensors"), load_file(result.reward_model / "model.safetensors")
    assert any(not torch.equal(w, started[name]) for name, w in ended.items())


@pytest.mark.slow
def test_reinforce_and_frozen_kinds(world, tmp_path, chosen_outcomes):
    endo = make_recipe(
        world, tmp_path / "endo", method="grpo", reward_model={"model": str(world[0]), "kind": "endo"}, max_steps=1
    )
    result = train_rl(endo)
    assert result.reward_model is None
    assert result.history[0]["advantage/gae"] > 0
    q_rm = save_q_rm(tmp_path / "q_rm")
    reinforce = make_recipe(world, tmp_path / "reinforce", method="reinforce", reward_model={"model": str(q_rm)})
    row = train_rl(reinforce).history[0]
    assert abs(row["loss/sampled"]) > 0
    assert row["clip_share/sampled"] == 0
    assert 0 <= row["reward_model/pair_accuracy"] <= 1
    assert "reward_model/accuracy" not in row  # 0 means nothing to it


def save_q_rm(folder):
    support.save_checkpoint(folder, seed=3)
    weights = load_file(folder / "model.safetensors")
    weights["value_head.weight"] = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_card(folder, Card(kind="q_rm", objective="q_rm"))
    return folder


def test_a_frozen_model_scores_responses_its_own_way(tiny, tmp_path):
    rows = [np.array([1.0, 2.0]), np.array([3.0])]
    q_rm = FrozenReward(load_reward_model(save_q_rm(tmp_path / "q_rm")))
    endo = FrozenReward(load_reward_model(tiny, kind="endo", decay=0.5))
    assert q_rm.final(rows) == pytest.approx([0.2 * 1.5, 0.2 * 3.0])  # beta times the mean
    assert endo.final(rows) == pytest.approx([1.0 + 0.5 * 2.0, 3.0])


@pytest.mark.slow
def test_an_entry_measured_after_the_saved_state_is_measured_again(world, tmp_path, chosen_outcomes):
    """Killed between a measurement and the next saved state; what is sampled after the kill need not be the same."""
    evaluate = {"problems": [str(world[1])], "every": 1, "n": 1, "limit": 2, "max_new_tokens": 4, "resamples": 10}
    file, output = write_recipe(world, tmp_path, "out", max_steps=4, save_every=2, evaluate=evaluate)
    kill_when(file, output / "entries" / "step-3" / "entry.json")
    for run in (output / "entries" / "step-3").rglob("run.json"):
        run.write_text(run.read_text().replace('"policy": "', '"policy": "0'))
    run_here(file)
    report = json.loads((output / "rl.json").read_text())
    assert list(report["evaluations"]) == ["1", "2", "3", "4"]


def test_an_output_folder_is_one_runs_at_a_time(world, tmp_path):
    from prmbench.engines.processes import Share
    from prmbench.training.run_folder import hold_output

    recipe = make_recipe(world, tmp_path / "out")
    with hold_output(recipe, Share()), pytest.raises(UserError, match=r"process \d+ on .* is writing here"):
        train_rl(recipe)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        train_rl(make_recipe(world, tmp_path / "file" / "out"))


@pytest.mark.slow
def test_a_run_into_a_used_folder_leaves_nothing_of_the_earlier_one(world, tmp_path, chosen_outcomes):
    rm = save_reward(tmp_path / "rm", "ipvrm", str(world[0]))
    evaluate = {"problems": [str(world[1])], "n": 1, "limit": 2, "max_new_tokens": 4, "resamples": 10}
    first = {"reward_model": {"model": str(rm), "update": "naive"}, "max_steps": 2, "evaluate": evaluate}
    assert train_rl(make_recipe(world, tmp_path / "out", **first)).reward_model.exists()
    second = train_rl(make_recipe(world, tmp_path / "out", evaluate=evaluate))
    assert list(second.evaluations) == [1]
    assert not (tmp_path / "out" / "reward_model").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "distrl"}, "needs a reward_model"),
        ({"method": "spro", "reward_model": {"model": "RM"}}, "takes no reward_model"),
        ({"method": "reinforce", "reward_model": {"model": "RM"}}, "takes a reward model of kind q_rm"),
        ({"method": "grpo", "reward_model": {"model": "POLICY"}}, "set reward_model.kind"),
        (
            {"method": "grpo", "reward_model": {"model": "POLICY", "kind": "endo", "update": "naive"}},
            "only implicit reward models",
        ),
        ({"batch_size": 7}, "lower one of them"),
        ({"evaluate": {"problems": ["math50"]}}, "problem set 'math50' is not known"),
        ({"method": "distrl", "reward_model": {"model": "RM", "reference": "OTHER"}}, "differ in .* tokens"),
        ({"method": "grpo", "reward_model": {"model": "POLICY", "kind": "implict"}}, "did you mean 'implicit'"),
        ({"lora": {"targets": ["nope"]}}, "lora.targets"),
        ({"max_new_tokens": 5000}, "0 problems leave room"),
        ({"batch_size": 5, "oversample": 1, "samples": 3}, "cannot be dealt evenly"),
    ],
)
def test_what_is_refused(world, tmp_path, changes, message):
    changes = json.loads(json.dumps(changes).replace("POLICY", str(world[0])))
    if "RM" in json.dumps(changes):
        rm = save_reward(tmp_path / "rm", "ipvrm", str(world[0]))
        changes = json.loads(json.dumps(changes).replace('"RM"', json.dumps(str(rm))))
    if "OTHER" in json.dumps(changes):
        other = tmp_path / "other"
        tokenizer = support.wrap(support.sentencepiece_style())
        support.tiny_llama(len(tokenizer)).save_pretrained(other)
        tokenizer.save_pretrained(other)
        changes = json.loads(json.dumps(changes).replace("OTHER", str(other)))
    with pytest.raises(UserError, match=message):
        train_rl(make_recipe(world, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("temperature", 0.6, "rollouts are sampled at 1"),
        ("minibatches", 1, "greater than or equal to 2"),
        ("p_min", 0, "greater than 0"),
        ("method", "grop", "grpo"),
        ("minibatches", 5, "fewer than that"),
        ("lora", {"merge": False}, "lora.merge false"),
        ("learning_rate", float("inf"), "finite number"),
        ("dtype", "flot32", "dtype 'flot32'"),
    ],
)
def test_recipe_values(world, tmp_path, key, value, message):
    with pytest.raises(ValidationError, match=message):
        make_recipe(world, tmp_path, **{key: value})


@pytest.mark.parametrize(
    ("changes", "rate", "warns"),
    [
        ({}, 2e-6, False),
        ({"lora": {"rank": 2}}, 1e-4, False),
        ({"learning_rate": 1e-4}, 1e-4, True),
        ({"learning_rate": 1e-5}, 1e-5, True),
        ({"learning_rate": 2e-6}, 2e-6, False),
        ({"learning_rate": 1e-4, "lora": {"rank": 2}}, 1e-4, False),
        ({"learning_rate": 1e-4, "update": "frozen"}, 1e-4, False),
    ],
)
def test_rates_of_online_reward_models(world, tmp_path, changes, rate, warns):
    """1e-4 is Appendix C's rate of adapters; all weights move too far with it."""
    recipe = make_recipe(world, tmp_path, reward_model={"model": "rm", "update": "naive", **changes})
    assert recipe.reward_model.rate == rate
    assert any("worse from its first update; set reward_model.lora" in line for line in recipe.remarks()) == warns


@pytest.mark.slow
def test_an_adapter_and_its_reference_share_their_weights(world, tmp_path, chosen_outcomes, monkeypatch):
    """A reward model that starts from its own reference: pi_ref is pi_phi without the adapter, and nothing else is loaded."""
    from prmbench.training.model import sharding
    from prmbench.training.rl import reward as reward_module
    from prmbench.training.rl import run as run_module

    rm = support.save_checkpoint(tmp_path / "rm", seed=0)
    write_card(rm, Card(kind="implicit", objective="implicit_prm", reference=str(world[0])))
    loaded = []

    def load(folder, options, load=sharding.load_causal_lm):
        loaded.append(folder)
        return load(folder, options)

    for module in (sharding, reward_module):
        monkeypatch.setattr(module, "load_causal_lm", load)
    options = {"model": str(rm), "update": "dlw", "reference": "start", "lora": {"rank": 2, "alpha": 8}}
    changes = {"method": "prime", "max_steps": 2, "reward_model": {**options, "learning_rate": 1e-2}}
    found = {}
    for name in ("shared", "apart"):
        loaded.clear()
        if name == "apart":
            monkeypatch.setattr(run_module, "checkpoint_hash", str)  # as if the weights were others
        found[name] = train_rl(make_recipe(world, tmp_path / name, **changes)).history
        assert (
            len(loaded) == {"shared": 2, "apart": 3}[name]
        )  # the reward model, at the end once more, and its reference; the policy comes otherwise
    assert found["shared"][0]["reward_model/score"] != 0  # after its first update
    for mine, theirs in zip(found["shared"], found["apart"], strict=True):
        for figure in ("reward_model/loss", "reward_model/score", "loss/sampled"):
            assert mine[figure] == pytest.approx(theirs[figure], abs=1e-6)


def test_the_released_code_is_one_word(world, tmp_path):
    """`preset: released` brings its numbers; what the recipe gives itself goes over them, and is said."""
    policy, problems = map(str, world)
    fields = {"model": policy, "problems": problems, "output": "out", "preset": "released", "method": "distrl"}
    reward = {"model": "rm", "update": "dlw+adb"}
    plain = RLRecipe.model_validate({**fields, "reward_model": reward})
    assert (plain.samples, plain.batch_size, plain.oversample, plain.minibatches) == (16, 512, 2, 4)
    assert (plain.learning_rate, plain.weight_decay, plain.lora, plain.gae_weight) == (2e-5, 0.01, None, 0.05)
    assert (plain.alpha, plain.p_min, plain.schedule, plain.max_grad_norm) == (0.1, 0.1, "constant", 1.0)
    options = plain.reward_model
    assert (options.learning_rate, options.minibatch, options.max_grad_norm, options.lora) == (2e-6, 128, 10.0, None)
    assert options.reference == "old"
    assert plain.departures() == []
    changed = RLRecipe.model_validate(
        {**fields, "samples": 4, "lora": {"rank": 2}, "reward_model": {**reward, "learning_rate": 1e-4}}
    )
    assert (changed.samples, changed.batch_size) == (4, 512)
    assert changed.departures() == [
        "samples 4 (there 16)",
        "lora an adapter (there all weights)",
        "reward_model.learning_rate 0.0001 (there 2e-06)",
    ]
    again = RLRecipe.model_validate(changed.model_dump())
    assert again == changed
    paper = RLRecipe.model_validate({**fields, "preset": "paper", "lora": {"rank": 2}})
    assert (paper.samples, paper.batch_size, paper.gae_weight, paper.departures()) == (4, 256, 1.0, [])


@pytest.mark.slow
def test_a_reward_model_that_is_padded_to_another_size(world, tmp_path, chosen_outcomes):
    """The same weights, and logits that no token has: its log-ratio to the policy is 0."""
    rm = support.padded_copy(world[0], tmp_path / "rm")
    write_card(rm, Card(kind="implicit", objective="implicit_prm"))
    for reference in ("old", "start"):
        reward = {"model": str(rm), "reference": reference}
        result = train_rl(make_recipe(world, tmp_path / reference, method="distrl", reward_model=reward))
        assert result.history[0]["reward_model/score"] == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
def test_an_adapter_without_a_card_is_a_reward_model(world, tmp_path, chosen_outcomes):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(world[0]), config).save_pretrained(tmp_path / "adapter")
    reward = {"model": str(tmp_path / "adapter"), "objective": "ipvrm", "update": "naive", "lora": {"rank": 2}}
    (tmp_path / "own.jinja").write_text(support.THINKING_TEMPLATE)
    prompts = {"tokens": {"system": "Be brief."}, "chat_template": str(tmp_path / "own.jinja")}
    result = train_rl(make_recipe(world, tmp_path / "out", method="distrl", reward_model=reward, **prompts))
    card = load_reward_model(result.reward_model).card
    assert (card.kind, card.objective) == ("implicit", "ipvrm")
    # The prompts of the recipe are those of the policy that is written, and of the reward model.
    written = json.loads((result.output / "prompts.json").read_text())
    assert (written["systems"], card.tokens.system) == (["Be brief."], "Be brief.")
    assert (
        written["chat_template"] == card.chat_template == hashlib.sha256(support.THINKING_TEMPLATE.encode()).hexdigest()
    )
    policy = load_policy(str(result.output), find_prompt("boxed"), tokens=TokenOptions(system="Be brief."))
    assert policy.warnings == []
