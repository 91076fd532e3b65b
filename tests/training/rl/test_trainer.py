"""The trainer against the plain reference step, on the same rollouts; kills; processes; what a run leaves behind."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rl_driver
import support
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler
from typer.testing import CliRunner

from prmbench.cli.app import app
from prmbench.errors import UserError
from prmbench.reward_models.card import Card, write_card
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.objectives import OBJECTIVES
from prmbench.training.rl.batch import PromptSampler
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rl.reference_step import PlainReward, reference_step, sample_groups
from prmbench.training.rl.run import train_rl

N_PROBLEMS = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(policy folder, problems file): a random policy asked for numbers it hits now and then."""
    root = tmp_path_factory.mktemp("rl")
    policy = support.save_checkpoint(root / "policy", seed=0)
    problems = root / "problems.jsonl"
    problems.write_text(
        "".join(json.dumps({"id": f"p{i}", "problem": f"Say {i}.", "answer": str(i)}) + "\n" for i in range(N_PROBLEMS))
    )
    return policy, problems


def save_reward(folder: Path, objective: str, reference: str, seed: int = 0, shift: float = 0.02) -> Path:
    """The policy with a little noise on its weights, so that log-ratios are small but not 0."""
    support.save_checkpoint(folder, seed=seed)
    model = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += shift * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    write_card(folder, Card(kind="implicit", objective=objective, reference=reference, margin=None))
    return folder


def make_recipe(world, output, **changes):
    policy, problems = world
    return RLRecipe.model_validate(
        {
            "model": str(policy),
            "problems": str(problems),
            "output": str(output),
            "prompt": "boxed",
            "batch_size": 4,
            "samples": 4,
            "micro_batch_size": 3,
            "max_new_tokens": 12,
            "max_steps": 1,
            "learning_rate": 1e-2,
            "p_min": 0.02,
            "alpha": 0.5,
            **changes,
        }
    )


@pytest.fixture
def chosen_outcomes(monkeypatch):
    """Rollouts as sampled, but with the driver's outcomes."""
    from prmbench.training.rl.trainer import PolicyTrainer

    monkeypatch.setattr(PolicyTrainer, "_sample", rl_driver.patched(PolicyTrainer._sample))


CASES = {
    "grpo": ({"method": "grpo"}, None),
    "grpo with ipvrm, dlw+adb": ({"method": "grpo"}, ("ipvrm", "dlw+adb", "old")),
    "distrl with ipvrm, dlw+adb": ({"method": "distrl"}, ("ipvrm", "dlw+adb", "old")),
    "distrl with ipvrm, frozen, start": ({"method": "distrl"}, ("ipvrm", "frozen", "start")),
    "distrl with implicit prm, adb": ({"method": "distrl"}, ("implicit_prm", "adb", "start")),
    "distrl with dpo, naive": ({"method": "distrl"}, ("dpo", "naive", "old")),
    "distrl as released": ({"method": "distrl", "preset": "released"}, ("ipvrm", "dlw", "old")),
    "distrl, checkpointed": ({"method": "distrl", "gradient_checkpointing": True}, ("ipvrm", "naive", "old")),
    "prime": ({"method": "prime"}, ("implicit_prm", "naive", "start")),
    "spro": ({"method": "spro", "max_steps": 2}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_the_reference_step(world, tmp_path, monkeypatch, chosen_outcomes, case):
    changes, reward = CASES[case]
    policy_folder, _ = world
    if reward:
        objective, update, reference = reward
        rm = save_reward(tmp_path / "rm", objective, str(policy_folder))
        changes = changes | {"reward_model": {"model": str(rm), "update": update, "reference": reference}}
    recipe = make_recipe(world, tmp_path / "out", **changes)
    batches = []
    from prmbench.training.rl import trainer as trainer_module

    make_batch = trainer_module.make_batch

    def remember(groups, *rest):
        batch = make_batch(groups, *rest)
        batches.append((list(groups), batch.minibatches))
        return batch

    monkeypatch.setattr(trainer_module, "make_batch", remember)
    result = train_rl(recipe)

    plain = AutoModelForCausalLM.from_pretrained(policy_folder, dtype=torch.float64)
    start = AutoModelForCausalLM.from_pretrained(policy_folder, dtype=torch.float64)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    stop = {
        plain.generation_config.eos_token_id,
        support.wrap(support.byte_level()).convert_tokens_to_ids("<|end|>"),
    } - {None}
    given = None
    if reward:
        model = AutoModelForCausalLM.from_pretrained(rm, dtype=torch.float64)
        spec = OBJECTIVES.find(objective)
        given = PlainReward(model, None if reference == "old" else start, spec, spec.beta, spec.margin or 0.0, update)
        if update != "frozen":
            given.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    for step, (groups, minibatches) in enumerate(batches):
        record = reference_step(
            plain,
            optimizer,
            groups,
            minibatches,
            recipe,
            stop=stop,
            reward=given,
            start=start if recipe.method == "spro" else None,
        )
        row = result.history[step]
        sampled = record.losses
        logged = row["loss/sampled"] + recipe.alpha * row["loss/candidates"]
        assert logged == pytest.approx(np.mean(sampled), abs=2e-4)
        if record.reward_loss is not None:
            assert row["reward_model/loss"] == pytest.approx(record.reward_loss, abs=1e-4)
    if recipe.method == "distrl":
        assert abs(result.history[0]["loss/candidates"]) > 1e-5
        assert result.history[0]["candidates/size"] > 0
    # AdamW's first steps are signs of gradients: where a gradient is rounding, weights may part by twice the rate.
    moved = plain.state_dict()
    found = load_file(result.output / "model.safetensors")
    before = start.state_dict()
    for name, weight in found.items():
        wanted, rate = moved[name], recipe.learning_rate
        assert (wanted - before[name]).abs().max() > rate / 2
        apart = (weight.double() - wanted).abs() > 0.05 * rate
        assert apart.double().mean() < 0.02, name
    if reward and update != "frozen":
        after = load_file(result.reward_model / "model.safetensors")
        for name, weight in after.items():
            apart = (weight.double() - model.state_dict()[name]).abs() > 0.05 * 1e-4
            assert apart.double().mean() < 0.02, name


def test_plain_rollouts_follow_the_policy():
    """Frequencies of first tokens are the softmax; rollouts end at a stop token or at the limit, which is wrong."""
    policy = support.tiny_llama(7, hidden_size=16, num_attention_heads=2, num_key_value_heads=2)
    prompt = np.array([1, 2, 3])
    with torch.no_grad():
        wanted = policy(input_ids=torch.from_numpy(prompt)[None]).logits[0, -1].softmax(-1).numpy()
    generator = torch.Generator().manual_seed(0)
    (group,) = sample_groups(policy, [("a", prompt)], 600, lambda name, ids: ids[0] == 5, {0}, 3, generator)
    first = np.bincount([r.ids[0] for r in group.rollouts], minlength=7) / 600
    assert np.abs(first - wanted).max() < 4 * np.sqrt(0.25 / 600)
    for rollout in group.rollouts:
        done = rollout.ids[-1] == 0
        assert 0 not in rollout.ids[:-1]
        assert rollout.finish_reason == ("stop" if done else "length")
        assert done or len(rollout.ids) == 3
        assert rollout.correct == (done and rollout.ids[0] == 5)


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
    for change, message in (("p_mim=0.2", "p_min"), ("temperature=0.7", "untempered")):
        wrong = runner.invoke(app, ["train", "rl", str(recipe), "--set", change])
        assert isinstance(wrong.exception, UserError)
        assert message in str(wrong.exception)


SETTINGS = {"max_steps": 3, "save_every": 1, "learning_rate": 1e-3, "method": "distrl"}


def write_recipe(world, tmp_path, name, **changes):
    """(file, output folder): DistRL with an IPVRM that learns too."""
    rm = tmp_path / "rm"
    if not rm.exists():
        save_reward(rm, "ipvrm", str(world[0]))
    recipe = make_recipe(
        world,
        tmp_path / name,
        **{**SETTINGS, "reward_model": {"model": str(rm), "update": "dlw+adb"}, **changes},
    )
    file = tmp_path / f"{name}.json"
    file.write_text(recipe.model_dump_json())
    return file, tmp_path / name


def driver(file):
    return [sys.executable, str(Path(rl_driver.__file__)), str(file)]


def run_driver(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_here(file):
    """What the driver does, in this process, which has imported everything; what it logs."""
    threads, lines = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        train_rl(RLRecipe.model_validate_json(file.read_text()), log=lines.append)
    finally:
        torch.set_num_threads(threads)
    return lines


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


def figures(output):
    rows = json.loads((output / "rl.json").read_text())["history"]
    names = ("loss/sampled", "loss/candidates", "reward_model/loss", "reward_model/accuracy", "rollouts/mean_tokens")
    return {(row["step"], name): row[name] for row in rows for name in names}


def same_weights(a, b, tolerance):
    for name, weight in load_file(a).items():
        torch.testing.assert_close(load_file(b)[name], weight, atol=tolerance, rtol=0, msg=name)


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
    q_rm = tmp_path / "q_rm"
    support.save_checkpoint(q_rm, seed=3)
    weights = load_file(q_rm / "model.safetensors")
    weights["value_head.weight"] = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    save_file(weights, q_rm / "model.safetensors", metadata={"format": "pt"})
    write_card(q_rm, Card(kind="q_rm", objective="q_rm"))
    reinforce = make_recipe(world, tmp_path / "reinforce", method="reinforce", reward_model={"model": str(q_rm)})
    row = train_rl(reinforce).history[0]
    assert abs(row["loss/sampled"]) > 0
    assert row["clip_share/sampled"] == 0


def test_without_vllm_it_says_so(world, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["trl.import_utils"], "is_vllm_available", lambda: False)
    with pytest.raises(UserError, match="vLLM is not installed .* or set engine=hf"):
        train_rl(make_recipe(world, tmp_path / "out", engine="vllm"))


def test_what_vllm_samples_is_verified_and_grouped(world, tmp_path, monkeypatch):
    """TRL's weight sync needs a GPU build of vLLM, so its sampler is stood in for: ids in, ids out, a prompt's samples one after
    another."""
    from prmbench.training.rl.trainer import PolicyTrainer

    tokenizer = support.wrap(support.byte_level())
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    asked = []

    def generate(self, prompt_ids, images, multimodal_fields, num_generations):
        assert num_generations == 4
        asked.extend(prompt_ids)
        numbers = [tokenizer.decode(ids).split("Say ")[1].split(".")[0] for ids in prompt_ids]
        texts = [f"\\boxed{{{n}}}" if k % 2 else "\\boxed{99}" for k, n in enumerate(numbers)]
        cut = [k % 4 == 3 for k in range(len(texts))]  # right, but without an end of turn
        return [tokenizer(t).input_ids + ([] if c else [end]) for t, c in zip(texts, cut, strict=True)], None

    monkeypatch.setattr(PolicyTrainer, "_generate_single_turn", generate)
    make_inputs = PolicyTrainer._make_inputs

    def with_vllm(self, batch):
        self.use_vllm = True
        return make_inputs(self, batch)

    monkeypatch.setattr(PolicyTrainer, "_make_inputs", with_vllm)
    row = train_rl(make_recipe(world, tmp_path / "out")).history[0]
    assert len(asked) == 32
    assert all(asked[i] == asked[i - i % 4] for i in range(32))
    assert row["rollouts/accuracy"] == 0.25
    assert row["rollouts/truncated"] == 0.25
    assert row["rollouts/kept_prompts"] == 4


@pytest.mark.slow
def test_a_step_that_teaches_nothing_changes_nothing(world, tmp_path, monkeypatch):
    """Even after one that did: on a gradient of zeros AdamW would go on by its momentum. Nor are figures made up for it."""
    from prmbench.training.rl.trainer import PolicyTrainer

    sample = PolicyTrainer._sample
    rm = save_reward(tmp_path / "rm", "ipvrm", str(world[0]))

    def only_at_first(self, indices):
        groups = sample(self, indices)
        return [rl_driver.with_outcomes(g) for g in groups] if self.rollout_step == 0 else groups

    monkeypatch.setattr(PolicyTrainer, "_sample", only_at_first)
    found = {}
    for steps in (1, 3):
        found[steps] = train_rl(
            make_recipe(
                world,
                tmp_path / str(steps),
                method="distrl",
                max_steps=steps,
                reward_model={"model": str(rm), "update": "naive"},
            )
        )
    assert [row["rollouts/kept_prompts"] for row in found[3].history] == [4, 0, 0]
    same_weights(found[1].output / "model.safetensors", found[3].output / "model.safetensors", 0)
    same_weights(found[1].reward_model / "model.safetensors", found[3].reward_model / "model.safetensors", 0)
    assert "reward_model/accuracy" in found[3].history[0]
    assert not {"reward_model/accuracy", "entropy", "advantage/gae"} & found[3].history[1].keys()


@pytest.mark.slow
def test_a_minibatch_without_prompts_changes_nothing(world, tmp_path, monkeypatch, chosen_outcomes):
    """One kept prompt, two minibatches: one update, not two."""
    from prmbench.training.rl import trainer as module

    monkeypatch.setattr(
        module, "keep_groups", lambda groups, size, algorithm: [g for g in groups if 0 < g.accuracy < 1][:1]
    )
    result = train_rl(make_recipe(world, tmp_path / "out"))
    optimizer_steps = result.history[0]["rollouts/kept_prompts"]
    assert optimizer_steps == 1
    before, after = load_file(world[0] / "model.safetensors"), load_file(result.output / "model.safetensors")
    moved = max(float((after[name] - w).abs().max()) for name, w in before.items())
    assert moved == pytest.approx(1e-2, rel=0.05)  # AdamW's first step is the learning rate; a second would add to it


@pytest.mark.slow
def test_a_reward_model_that_is_no_number_stops_the_run(world, tmp_path, chosen_outcomes):
    rm = save_reward(tmp_path / "rm", "ipvrm", str(world[0]), shift=1e4)
    recipe = make_recipe(
        world,
        tmp_path / "out",
        method="grpo",
        max_steps=3,
        reward_model={"model": str(rm), "update": "naive", "learning_rate": 1e30},
    )
    with pytest.raises(UserError, match="is not a finite number; lower reward_model.learning_rate"):
        train_rl(recipe)


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


def test_trl_is_what_this_was_written_for():
    """Where this fails TRL has changed: read its changelog, mend `PolicyTrainer`, raise TESTED_TRL."""
    parameters = {
        "_prepare_inputs": ["self", "generation_batch"],
        "_compute_loss": ["self", "model", "inputs"],
        "_save_checkpoint": ["self", "model", "trial"],
        "_generate_single_turn": [
            "self",
            "prompt_ids",
            "images",
            "multimodal_fields",
            "num_generations",
            "has_tool_images",
        ],
    }
    for name, wanted in parameters.items():
        found = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)
        assert found == wanted, f"GRPOTrainer.{name} takes {found}; PolicyTrainer was written for {wanted}"
    source = inspect.getsource(GRPOTrainer)
    for used in ("self._step += 1", "self._buffered_inputs", "self._metrics[", "self._dist = ", "self.vllm_generation"):
        assert used in source, f"GRPOTrainer no longer has `{used}`, which PolicyTrainer relies on"
    assert "return self._compute_loss(model, inputs)" in inspect.getsource(GRPOTrainer.compute_loss)
    assert GRPOTrainer.loss_is_scaled_for_ga is True, "TRL now lets transformers scale the loss"
    theirs = RepeatSampler(list(range(5)), mini_repeat_count=2, batch_size=2, repeat_count=3, shuffle=False)
    ours = list(PromptSampler(5, 2, 2, 3, seed=0))
    order = np.random.default_rng([0, 0]).permutation(5)
    assert ours == [int(order[i]) for i in theirs], "TRL's loader now wants prompts in another layout"
    assert len(PromptSampler(5, 2, 2, 3, seed=0)) == len(ours) == len(theirs)


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
        ("tokens", {"system": "x"}, "the prompt template says"),
    ],
)
def test_recipe_values(world, tmp_path, key, value, message):
    with pytest.raises(ValidationError, match=message):
        make_recipe(world, tmp_path, **{key: value})
