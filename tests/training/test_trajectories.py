"""Losses, gradient norms and rewards of every kind of training, step by step, as `trajectories.json` holds them.

A change of these figures is a change of what is trained, wherever it comes from: our code, TRL, transformers, torch. It must be
meant. ``PRMBENCH_WRITE_TRAJECTORIES=1`` writes the file anew.

The same figures must come out of settings that are the same computation in other portions: more micro-batches, layers computed
twice, sequences in one row, a run that stopped and went on.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import rl_driver
import support
import torch
from safetensors.torch import load_file, save_file
from support_training import TRAINED, write_chats, write_outcomes

from prmbench.reward_models.card import Card, write_card
from prmbench.training.model import trainer as trainer_module
from prmbench.training.prm.recipe import PRMRecipe
from prmbench.training.prm.run import train_prm
from prmbench.training.rl.methods import METHODS
from prmbench.training.rl.run import train_rl
from prmbench.training.rl.trainer import PolicyTrainer
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm
from prmbench.training.sft.recipe import SFTRecipe
from prmbench.training.sft.run import train_sft
from prmbench.training.watch.stopping import StopRequest

FILE = Path(__file__).parent / "trajectories.json"
WIDTH = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
EXPLICIT = ("step_ce", "step_soft", "token_pair", "beta_binomial", "prefix_gain")
POLICIES = {
    "rl/grpo": ({"method": "grpo"}, None),
    "rl/grpo with ipvrm": ({"method": "grpo"}, ("ipvrm", "naive")),
    "rl/distrl": ({"method": "distrl"}, ("ipvrm", "dlw+adb")),
    "rl/prime": ({"method": "prime"}, ("implicit_prm", "naive")),
    "rl/spro": ({"method": "spro"}, None),
    "rl/reinforce": ({"method": "reinforce"}, ("q_rm", "frozen")),
}
NAMES = ("sft", *(f"rm/{name}" for name in (*TRAINED, *EXPLICIT)), *POLICIES)
OWN_METHODS = set(METHODS.names())  # now: other tests bring more
QUICK = {"sft", "rm/ipvrm", "rl/distrl"}
KEPT = (
    *("loss", "grad_norm", "eval_loss", "eval_pair_accuracy", "eval_accuracy"),
    *("loss/sampled", "loss/candidates", "kl_old", "entropy", "rollouts/accuracy", "rollouts/mean_tokens"),
    *("reward_model/loss", "reward_model/grad_norm", "reward_model/score", "advantage/gae", "candidates/mass"),
)
RELATIVE, ABSOLUTE = 2e-3, 2e-5
"""How far figures may part: float32 sums in another order, carried through AdamW, whose first steps are signs of gradients."""
PORTIONS = {
    "micro-batches": {"micro_batch_size": 2},
    "checkpointing": {"gradient_checkpointing": True},
    "without padding": {"padding_free": True, "attn_implementation": "eager"},
    "stopped": {},
}


def start(folder):
    """The checkpoint that everything starts from, made once a folder."""
    place = folder / "start"
    return place if place.exists() else support.save_checkpoint(place, seed=0, **WIDTH)


def run(name, folder, **changes):
    """Train; returns the kept figures of the log."""
    kind, _, what = name.partition("/")
    if kind == "rl":
        return run_rl(name, folder, changes)
    fields = {"model": str(start(folder)), "output": str(folder / "out"), "max_steps": 3, "save_every": 100}
    fields |= {"batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-3, "schedule": "constant", "held_out": 4}
    if what == "prefix_gain":  # its batches are of groups of traces, and there are 8
        fields |= {"batch_size": 4, "held_out": 2}
    fields |= changes
    if kind == "sft":
        result = train_sft(SFTRecipe(data=str(write_chats(folder / "chats.jsonl")), **fields))
    elif what in EXPLICIT:
        result = train_prm(PRMRecipe(objective=what, data=str(write_labelled(folder / "l.jsonl")), **fields))
    else:
        result = train_rm(RMRecipe(objective=what, data=str(write_outcomes(folder / "o.jsonl")), **fields))
    return figures(result.history)


def write_labelled(file):
    records = []
    for trace in support.make_traces(24):
        right = trace["label"] if trace["label"] >= 0 else len(trace["steps"])
        labels = ["right" if i < right else "wrong" for i in range(len(trace["steps"]))]
        values = [0.75 if one == "right" else 0.25 for one in labels]
        fields = {key: value for key, value in trace.items() if key != "label"}
        counts = {"successes": [round(4 * one) for one in values], "trials": [4] * len(values)}
        records.append({**fields, "labels": labels, "values": values, **counts})
    file.write_text("".join(json.dumps(one) + "\n" for one in records))
    return file


def run_rl(name, folder, changes):
    fields, reward = POLICIES[name]
    policy = start(folder)
    _, problems = (
        rl_driver.save_world(folder / "world")
        if not (folder / "world").exists()
        else (0, folder / "world/problems.jsonl")
    )
    if reward is not None:
        objective, update = reward
        options = {"model": str(save_reward(folder / "rm", policy, objective)), "update": update}
        fields = {**fields, "reward_model": options | ({} if update == "frozen" else {"learning_rate": 1e-3})}
    recipe = rl_driver.make_recipe(
        (policy, problems),
        folder / "out",
        **{"max_steps": 2, "learning_rate": 1e-3, "micro_batch_size": 4, "save_every": 100, **fields, **changes},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicyTrainer, "_sample", rl_driver.patched(PolicyTrainer._sample))
        return figures(train_rl(recipe).history)


def save_reward(folder, policy, objective):
    if folder.exists():
        return folder
    support.save_checkpoint(folder, seed=0, **WIDTH)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(7)
    weights = {key: w + 0.02 * torch.randn(w.shape, generator=generator) for key, w in sorted(weights.items())}
    if objective == "q_rm":
        weights["value_head.weight"] = torch.randn(1, 16, generator=generator)
        card = Card(kind="q_rm", objective="q_rm")
    else:
        card = Card(kind="implicit", objective=objective, reference=str(policy), margin=None)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_card(folder, card)
    return folder


def figures(history):
    return {
        key: [float(f"{row[key]:.7g}") for row in history if key in row]
        for key in KEPT
        if any(key in row for row in history)
    }


@contextmanager
def asked_from_the_start(**_):
    """A run that is asked to stop at once: it ends after its first step, saved."""
    yield StopRequest(asked=True)


def run_stopped(name, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "stop_signals", asked_from_the_start)
        with pytest.raises(KeyboardInterrupt, match="stopped after step 1"):
            run(name, folder)
    return run(name, folder)


LOG_RATIOS = ("rm/ipvrm", "rm/ipvrm_late", "rm/ipvrm_early", "rm/implicit_prm", "rm/dpo")
"""Trainings of log-ratios, which are 0 before the first update: the order of their values is that of rounding."""


def follow(found, name):
    wanted = kept()[name]
    assert found.keys() == wanted.keys()
    for key, values in wanted.items():
        first = 1 if key == "eval_pair_accuracy" and name in LOG_RATIOS else 0
        assert len(found[key]) == len(values)
        assert found[key][first:] == pytest.approx(values[first:], rel=RELATIVE, abs=ABSOLUTE), key


def kept():
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_it_is_the_trajectory_that_was_kept(name, tmp_path):
    found = run(name, tmp_path)
    if os.environ.get("PRMBENCH_WRITE_TRAJECTORIES"):
        everything = kept() if FILE.exists() else {}
        everything[name] = found
        ordered = {one: everything[one] for one in NAMES if one in everything}
        FILE.write_text(
            json.dumps(ordered, indent=1).replace("[\n   ", "[").replace("\n   ", " ").replace("\n  ]", "]") + "\n",
            encoding="utf-8",
        )
    follow(found, name)


@pytest.mark.slow
@pytest.mark.parametrize("portion", PORTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_in_other_portions(name, portion, tmp_path):
    found = run_stopped(name, tmp_path) if portion == "stopped" else run(name, tmp_path, **PORTIONS[portion])
    follow(found, name)


def test_every_training_has_one():
    """Of steps that differ, so that a test on them can fail."""
    assert kept().keys() == set(NAMES)
    assert {name.removeprefix("rl/").split(" ")[0] for name in POLICIES} == OWN_METHODS
    for name, of in kept().items():
        assert len(of["loss"]) == (2 if name.startswith("rl/") else 3), name
        assert len(set(of["grad_norm"])) == len(of["grad_norm"]), name
