"""Runs trainings in several processes that divide their models, and says what each process held of them.

    accelerate launch --config_file training/accelerate/cpu-two-processes-fsdp.yaml tests/sharded_driver.py JOBS.json

JOBS.json is a list of jobs: ``kind``, ``recipe`` and, where the run is to be stopped and started again, ``stop``: the forward
and backward pass in which the second process gets a SIGTERM. Each process writes JOBS.json.RANK: for each job the models it
held after the first pass, as numbers of weights held and of weights in all; how many trained weights, and gradients of them; and
the types of what the trained model gave.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rl_driver
import torch
from transformers import PreTrainedModel

from prmbench.training.model.trainer import GuardedTrainer
from prmbench.training.prm.recipe import PRMRecipe
from prmbench.training.prm.run import train_prm
from prmbench.training.rl.recipe import RLRecipe
from prmbench.training.rl.run import train_rl
from prmbench.training.rl.trainer import PolicyTrainer
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.rm.run import train_rm
from prmbench.training.sft.recipe import SFTRecipe
from prmbench.training.sft.run import train_sft

KINDS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "rm": (RMRecipe, train_rm),
    "sft": (SFTRecipe, train_sft),
    "prm": (PRMRecipe, train_prm),
    "rl": (RLRecipe, train_rl),
}


def alive() -> list[Any]:
    """Every model that is alive, whoever keeps it."""
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, PreTrainedModel) and hasattr(one, "lm_head")]


def held(before: list[Any]) -> list[list[int]]:
    """(weights that this process holds, weights in all) of every model that was not alive before; DeepSpeed keeps old ones."""
    counted = []
    for model in alive():
        if any(model is one for one in before):
            continue
        weights = list(model.parameters())
        counted.append([sum(map(_local, weights)), sum(getattr(one, "ds_numel", one.numel()) for one in weights)])
    return counted


def _local(weight: torch.Tensor) -> int:
    """How many numbers of a weight this process holds. ZeRO-3 keeps its part beside the weight, which is empty unless gathered."""
    if hasattr(weight, "ds_tensor"):
        return int(weight.ds_tensor.numel()) + weight.numel()
    return int(getattr(weight, "_local_tensor", weight).numel())


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job, a second time where it was stopped. Returns what this process held."""
    recipe_type, train = KINDS[job["kind"]]
    recipe = recipe_type.model_validate(job["recipe"])
    found: dict[str, Any] = {"models": [], "types": [], "seconds": None}
    step, passes, before = GuardedTrainer.training_step, [0], alive()

    def watched(self: Any, *arguments: Any, **others: Any) -> Any:
        passes[0] += 1
        if passes[0] == 1:
            given = lambda _m, _i, out: found["types"].append(sorted({str(one.dtype) for one in _floats(out)}))  # noqa: E731
            handle = self.model_wrapped.register_forward_hook(given)
        if passes[0] == job.get("stop") and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        loss = step(self, *arguments, **others)
        if passes[0] == 1:
            handle.remove()
            found["models"] = held(before)
            found["seconds"] = _patience()
            trained = [one for one in self.model.parameters() if one.requires_grad]
            found["gradients"] = [
                sum(part.numel() for part in parts) for parts in zip(*map(_both, trained), strict=True)
            ]
        return loss

    GuardedTrainer.training_step = watched  # type: ignore[method-assign]
    try:
        try:
            train(recipe)
        except KeyboardInterrupt:
            found["stopped"] = True
            train(recipe)
    finally:
        GuardedTrainer.training_step = step  # type: ignore[method-assign]
    return found


def _both(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What this process holds of a weight, and of its gradient."""
    gradient = torch.zeros(0) if weight.grad is None else weight.grad
    return getattr(weight, "_local_tensor", weight), getattr(gradient, "_local_tensor", gradient)


def _patience() -> float:
    """How many seconds this process waits for the others."""
    group = torch.distributed.distributed_c10d._get_default_group()
    options: Any = group._get_backend(torch.device("cpu")).options
    return float(options._timeout.total_seconds())


def _floats(found: Any) -> list[torch.Tensor]:
    return [one for one in found.values() if isinstance(one, torch.Tensor) and one.is_floating_point()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    PolicyTrainer._sample = rl_driver.patched(PolicyTrainer._sample)  # type: ignore[method-assign]
    jobs = Path(sys.argv[1])
    results = [run(job) for job in json.loads(jobs.read_text())]
    Path(f"{jobs}.{os.environ['RANK']}").write_text(json.dumps(results))
    os._exit(0)  # gloo's own ending aborts now and then
