"""The trainer against the plain reference step, on the same rollouts, and what TRL must be for that."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import rl_driver
import support
import torch
from rl_driver import make_recipe, same_weights, save_reward
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from prmbench.errors import UserError
from prmbench.reward_models.objectives import OBJECTIVES
from prmbench.training.rl.balance import OnlineObjective
from prmbench.training.rl.reference_step import PlainReward, reference_step, sample_groups
from prmbench.training.rl.run import train_rl

CASES = {
    "grpo": ({"method": "grpo"}, None),
    "grpo with ipvrm, dlw+adb": ({"method": "grpo"}, ("ipvrm", "dlw+adb", "old")),
    "distrl with ipvrm, dlw+adb": ({"method": "distrl"}, ("ipvrm", "dlw+adb", "old")),
    "distrl with ipvrm, frozen, start": ({"method": "distrl"}, ("ipvrm", "frozen", "start")),
    "distrl with implicit prm, adb": ({"method": "distrl"}, ("implicit_prm", "adb", "start")),
    "distrl with dpo, naive": ({"method": "distrl"}, ("dpo", "naive", "old")),
    "distrl as released": (
        {"method": "distrl", "preset": "released", "minibatches": 2, "oversample": 3},
        ("ipvrm", "dlw+adb", "old"),
    ),
    "distrl as released with dpo": (
        {"method": "distrl", "preset": "released", "minibatches": 2},
        ("dpo", "naive", "old"),
    ),
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
        reward_model = {"model": str(rm), "update": update, "reference": reference, "learning_rate": 1e-4}
        if changes.get("preset") == "released":
            reward_model["minibatch"] = 8
        changes = changes | {"reward_model": reward_model}
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
    optimizer = torch.optim.AdamW(plain.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    stop = {
        plain.generation_config.eos_token_id,
        support.wrap(support.byte_level()).convert_tokens_to_ids("<|end|>"),
    } - {None}
    given = None
    if reward:
        model = AutoModelForCausalLM.from_pretrained(rm, dtype=torch.float64)
        spec = OBJECTIVES.find(objective)
        options = recipe.reward_model
        released = recipe.preset == "released"
        online = OnlineObjective(spec, spec.beta, spec.margin or 0.0, update, released, options.minibatch)
        given = PlainReward(model, None if reference == "old" else start, online, None, options.max_grad_norm)
        if update != "frozen":
            given.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    if recipe.preset == "released":
        assert {0.0, 1.0} & {group.accuracy for group in batches[0][0]}  # filled with prompts that teach nothing
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


@pytest.mark.parametrize("weight", [0.01, 100.0])
def test_gae_that_swamps_the_outcome_is_said(world, tmp_path, chosen_outcomes, weight):
    rm, lines = save_reward(tmp_path / "rm", "ipvrm", str(world[0])), []
    options = {"reward_model": {"model": str(rm)}, "gae_weight": weight, "max_steps": 2, "learning_rate": 1e-4}
    result = train_rl(make_recipe(world, tmp_path / "out", **options), log=lines.append)
    row = result.history[0]
    assert row["advantage/gae_to_outcome"] == pytest.approx(row["advantage/gae"] / row["advantage/outcome"])
    assert any(f"GAE has gae_weight {weight:g}: its mean size is about" in line for line in lines)
    warnings = [line for line in lines if "which it swamps" in line]
    assert len(warnings) == (weight > 1)  # once in a run, though it holds in both steps
    assert all(r["advantage/gae_to_outcome"] > 3 for r in result.history) == (weight > 1)


def test_without_vllm_it_says_so(world, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["trl.import_utils"], "is_vllm_available", lambda: False)
    with pytest.raises(UserError, match="vLLM is not installed .* or set engine=hf"):
        train_rl(make_recipe(world, tmp_path / "out", engine="vllm"))


def test_what_vllm_samples_is_verified_and_grouped(world, tmp_path, monkeypatch):
    """TRL's weight sync needs a GPU build of vLLM, so its sampler is stood in for.

    Ids in, ids out, a prompt's samples one after another.
    """
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
