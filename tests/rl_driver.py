"""Runs a policy-optimisation recipe whose outcomes follow a fixed pattern: a random model is never right by itself.

    python tests/rl_driver.py RECIPE.json

Everything else is real. Also started by ``accelerate launch``, and killed in the middle.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prmbench.data.rollouts import Rollout
from prmbench.data.verdicts import Verdict
from prmbench.training.rl.batch import Group

RIGHT = {0: (0,), 1: (1, 2), 2: (0, 1, 3), 3: ()}
"""Which samples of a problem are right, by its number modulo 4: two rather wrong, one rather right, one that teaches nothing."""


def with_outcomes(group: Group) -> Group:
    """The same rollouts with outcomes by `RIGHT`."""
    right = RIGHT[int(group.rollouts[0].id[1:]) % 4]
    rollouts = [
        Rollout(**{**r.__dict__, "verdict": Verdict.CORRECT if r.sample in right else Verdict.WRONG})
        for r in group.rollouts
    ]
    return Group(group.prompt, tuple(rollouts))


def patched(sample: Any) -> Any:
    """`PolicyTrainer._sample` with these outcomes."""

    def chosen(self: Any, indices: Sequence[int]) -> list[Group]:
        return [with_outcomes(group) for group in sample(self, indices)]

    return chosen


if __name__ == "__main__":
    import torch

    from prmbench.training.rl.recipe import RLRecipe
    from prmbench.training.rl.run import train_rl
    from prmbench.training.rl.trainer import PolicyTrainer

    torch.set_num_threads(1)
    PolicyTrainer._sample = patched(PolicyTrainer._sample)  # type: ignore[method-assign]
    recipe = RLRecipe.model_validate(json.loads(Path(sys.argv[1]).read_text()))
    train_rl(recipe, log=lambda line: print(line, flush=True))
    sys.stdout.flush()
    os._exit(0)  # gloo's own ending aborts now and then
