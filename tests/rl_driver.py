"""Runs a policy-optimisation recipe whose outcomes follow a fixed pattern: a random model is never right by itself.

    python tests/rl_driver.py RECIPE.json [FUNCTION]

Everything else is real. FUNCTION of `prmbench.training.rl.run`, if it is given, is where the process kills itself. Also started
by ``accelerate launch``, and killed in the middle.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import support
import torch

from prmbench.data.rollouts import Rollout
from prmbench.data.verdicts import Verdict
from prmbench.training.rl.batch import PromptGroup
from prmbench.training.rl.recipe import RLRecipe

RIGHT = {0: (0,), 1: (1, 2), 2: (0, 1, 3), 3: ()}
"""Which samples of a problem are right, by its number modulo 4: two rather wrong, one rather right, one that teaches nothing."""


def with_outcomes(group: PromptGroup) -> PromptGroup:
    """The same rollouts with outcomes by `RIGHT`."""
    right = RIGHT[int(group.rollouts[0].id[1:]) % 4]
    rollouts = [
        Rollout(**{**r.__dict__, "verdict": Verdict.CORRECT if r.sample in right else Verdict.WRONG})
        for r in group.rollouts
    ]
    return PromptGroup(group.prompt, tuple(rollouts), group.sampled)


def patched(sample: Any) -> Any:
    """`PolicyTrainer._sample` with these outcomes."""

    def chosen(self: Any, indices: Sequence[int]) -> list[PromptGroup]:
        return [with_outcomes(group) for group in sample(self, indices)]

    return chosen


N_PROBLEMS = 12


def save_world(root: Path) -> tuple[Path, Path]:
    """(policy folder, problems file): a random policy asked for numbers it hits now and then."""
    policy = support.save_checkpoint(root / "policy", seed=0)
    problems = root / "problems.jsonl"
    problems.write_text(
        "".join(json.dumps({"id": f"p{i}", "problem": f"Say {i}.", "answer": str(i)}) + "\n" for i in range(N_PROBLEMS))
    )
    return policy, problems


def save_reward(folder: Path, objective: str, reference: str, seed: int = 0, shift: float = 0.02) -> Path:
    """The policy with a little noise on its weights, so that log-ratios are small but not 0."""
    from transformers import AutoModelForCausalLM

    from prmbench.reward_models.card import Card, write_card

    support.save_checkpoint(folder, seed=seed)
    model = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += shift * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    write_card(folder, Card(kind="implicit", objective=objective, reference=reference, margin=None))
    return folder


def make_recipe(world: tuple[Path, Path], output: Path, **changes: Any) -> RLRecipe:
    """A recipe of one short step of GRPO."""
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


SETTINGS = {"max_steps": 3, "save_every": 1, "learning_rate": 1e-3, "method": "distrl"}


def write_recipe(world: tuple[Path, Path], tmp_path: Path, name: str, **changes: Any) -> tuple[Path, Path]:
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


def run_here(file: Path) -> list[str]:
    """What the driver does, in this process, which has imported everything; what it logs."""
    from prmbench.training.rl.run import train_rl

    threads, lines = torch.get_num_threads(), list[str]()
    torch.set_num_threads(1)
    try:
        train_rl(RLRecipe.model_validate_json(file.read_text()), log=lines.append)
    finally:
        torch.set_num_threads(threads)
    return lines


def figures(output: Path) -> dict[tuple[int, str], float]:
    """Some figures of every step of a run."""
    rows = json.loads((output / "rl.json").read_text())["history"]
    names = ("loss/sampled", "loss/candidates", "reward_model/loss", "reward_model/accuracy", "rollouts/mean_tokens")
    return {(row["step"], name): row[name] for row in rows for name in names}


def same_weights(a: Path, b: Path, tolerance: float) -> None:
    """Check that two weights files agree."""
    from safetensors.torch import load_file

    for name, weight in load_file(a).items():
        torch.testing.assert_close(load_file(b)[name], weight, atol=tolerance, rtol=0, msg=name)


if __name__ == "__main__":
    from prmbench.training.rl import run
    from prmbench.training.rl.trainer import PolicyTrainer

    torch.set_num_threads(1)
    PolicyTrainer._sample = patched(PolicyTrainer._sample)  # type: ignore[method-assign]
    recipe = RLRecipe.model_validate(json.loads(Path(sys.argv[1]).read_text()))
    for name in sys.argv[2:]:
        setattr(run, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    run.train_rl(recipe, log=lambda line: print(line, flush=True))
    sys.stdout.flush()
    os._exit(0)  # gloo's own ending aborts now and then
