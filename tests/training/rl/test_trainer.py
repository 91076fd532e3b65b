"""The trainer against the plain reference step, on the same rollouts; kills; processes; what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import support
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from prmbench.reward_models.card import Card, write_card
from prmbench.rollouts import Rollout
from prmbench.training.objectives import OBJECTIVES
from prmbench.training.rl import run as rl_run
from prmbench.training.rl.batch import Group
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rl.reference_step import PlainReward, reference_step
from prmbench.training.rl.run import train_rl
from prmbench.verify import Verdict

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
    """Rollouts as sampled, but with outcomes of a fixed pattern: a random model is never right by itself."""
    from prmbench.training.rl.trainer import PolicyTrainer

    original = PolicyTrainer._sample
    seen: list[list[Group]] = []

    def sample(self, indices):
        groups = []
        for group in original(self, indices):
            number = int(group.rollouts[0].id[1:])
            right = {0: (0,), 1: (1, 2), 2: (0, 1, 3), 3: ()}[number % 4]
            rollouts = tuple(
                Rollout(**{**r.__dict__, "verdict": Verdict.CORRECT if r.sample in right else Verdict.WRONG})
                for r in group.rollouts
            )
            groups.append(Group(group.prompt, rollouts))
        seen.append(groups)
        return groups

    monkeypatch.setattr(PolicyTrainer, "_sample", sample)
    return seen


CASES = {
    "grpo": ({"method": "grpo"}, None),
    "grpo with ipvrm, dlw+adb": ({"method": "grpo"}, ("ipvrm", "dlw+adb", "old")),
    "distrl with ipvrm, dlw+adb": ({"method": "distrl"}, ("ipvrm", "dlw+adb", "old")),
    "distrl with ipvrm, frozen, start": ({"method": "distrl"}, ("ipvrm", "frozen", "start")),
    "distrl with implicit prm, adb": ({"method": "distrl"}, ("implicit_prm", "adb", "start")),
    "distrl with dpo, naive": ({"method": "distrl"}, ("dpo", "naive", "old")),
    "distrl as released": ({"method": "distrl", "preset": "released"}, ("ipvrm", "dlw", "old")),
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
    original = rl_run.PolicyTrainer if hasattr(rl_run, "PolicyTrainer") else None
    assert original is None  # imported where it is used: the hook below is on the module that defines it
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
        spec = OBJECTIVES[objective]
        given = PlainReward(model, None if reference == "old" else start, spec, spec.beta, spec.margin, update)
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
    moved = {name: p for name, p in plain.state_dict().items()}
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
