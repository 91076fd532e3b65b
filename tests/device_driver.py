"""Runs scoring, sampling and training steps on the CPU and on a stand-in for a GPU, and prints the numbers of both as JSON.

    python tests/device_driver.py

On the stand-in a tensor that is made on the wrong device raises (`stand_in_device`). It is for the whole process, so this is one.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from stand_in_device import DEVICE, OnDevice, StandIn, move  # before torch is used

# isort: split
import numpy as np
import support
import torch

from prmbench.data.rollouts import Rollout
from prmbench.data.verdicts import Verdict
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.reward_models.card import Card
from prmbench.reward_models.objectives import OBJECTIVES
from prmbench.training.data.pairs import Response
from prmbench.training.model.forward import give_logprobs, give_values
from prmbench.training.prm.forward import give_pair_logits, give_step_logits
from prmbench.training.prm.trainer import step_losses
from prmbench.training.rl.balance import OnlineObjective
from prmbench.training.rl.batch import PromptGroup, make_batch
from prmbench.training.rl.loss import policy_loss
from prmbench.training.rl.methods import Algorithm
from prmbench.training.rl.reward import ImplicitReward
from prmbench.training.rl.sampler import VLLMOptions
from prmbench.training.rl.step import Preparation
from prmbench.training.rm.losses import find_loss
from prmbench.training.rm.trainer import RewardModelTrainer, Row, collate

VOCABULARY = 50
SEQUENCES = [np.arange(1, 12), np.arange(3, 10), np.arange(20, 28)]


def model(device: Any, seed: int = 0) -> Any:
    made = support.tiny_llama(VOCABULARY, seed)
    return made if device.type == "cpu" else move(made)


def gradient(of: Any) -> list[float]:
    """Norms of the gradients of a model's weights."""
    return [float(p.grad.norm()) for p in of.parameters() if p.grad is not None]


def scoring(device: Any) -> list[float]:
    engine = HFEngine(model(device), allowed=np.arange(1, VOCABULARY))
    found = engine.score(SEQUENCES, [2, 1, 3], HFEngine.provides, top=3)
    states = np.stack([one.hidden[0] for one in found])
    after = engine.next_logprobs(states, np.array([[1, 2], [3, 4], [5, 6]]))
    parts = [value for one in found for value in vars(one).values() if value is not None]
    return [float(x) for part in (*parts, after) for x in np.asarray(part).ravel()]


def sampling(device: Any) -> list[float]:
    engine = HFEngine(model(device))
    requests = [Request(prompt=SEQUENCES[k % 3], key=f"p{k % 3}", sample=k, forced=None) for k in range(6)]
    found = engine.generate(requests, frozenset({0, 7}), SamplingParams(max_new_tokens=12, top_p=0.9, top_k=9), 3)
    return [float(x) for one in found for x in one.ids]


def reward_model(device: Any, name: str) -> list[float]:
    """The loss of a batch, with a reference that computes as needed, and its gradient."""
    meaning, made = OBJECTIVES.find(name), model(device)
    trainer = object.__new__(RewardModelTrainer)
    trainer.loss, trainer.has_head = find_loss(meaning), meaning.kind == "q_rm"
    trainer.recipe = SimpleNamespace(scale=meaning.beta, offset=meaning.margin or 0.0)
    trainer.accelerator = SimpleNamespace(autocast=nullcontext)
    trainer.reference = model(device, 1)
    give_logprobs(trainer.reference, "reference")
    give_values(made, "after", 0) if trainer.has_head else give_logprobs(made, "it")
    rows = [Row(Response(ids, 2), None) for ids in (*SEQUENCES, SEQUENCES[0][:6])]
    batch = {key: value.to(device) for key, value in collate([tuple(rows[:2]), tuple(rows[2:])]).items()}
    loss = trainer.compute_loss(made, batch)
    loss.backward()
    return [float(loss.detach()), *gradient(made)]


def explicit(device: Any, pair: bool) -> list[float]:
    made = model(device)
    give_pair_logits(made, (4, 5), "it") if pair else give_step_logits(made, 0)
    call = {
        "input_ids": torch.arange(12).view(2, 6),
        "rows": torch.tensor([0, 0, 1]),
        "columns": torch.tensor([2, 4, 5]),
    }
    found = made(**{key: value.to(device) for key, value in call.items()})["values"]
    loss = step_losses(found, torch.tensor([1.0, 0.0, 0.25]).to(device)).mean()
    loss.backward()
    return [float(loss.detach()), *gradient(made)]


def policy(device: Any, method: str, preset: str = "paper") -> list[float]:
    """A step: pi_old, the reward model's update and scores, advantages, the correction of the sampler, losses and gradients."""
    made, phi = model(device), model(device, 1)
    give_logprobs(made, "the policy")
    give_logprobs(phi, "the reward model")
    rng = np.random.default_rng(0)
    groups = []
    for g in range(3):
        rows = [rng.integers(2, VOCABULARY, size=5 + k) for k in range(4)]
        rollouts = [
            Rollout(f"p{g}", k, "", "", "", ids, "stop", Verdict.CORRECT if k <= g else Verdict.WRONG)
            for k, ids in enumerate(rows)
        ]
        groups.append(
            PromptGroup(
                rng.integers(2, VOCABULARY, size=4),
                tuple(rollouts),
                tuple(-3 * rng.random(len(r), dtype=np.float32) for r in rows),
            )
        )
    batch = make_batch(groups, 2, [0])
    algorithm = Algorithm(method=method, preset=preset, p_min=0.02)
    card = Card(kind="implicit", objective="ipvrm")
    reward = None
    if algorithm.rules.rewards:
        online = OnlineObjective.of_card(card, "dlw+adb")
        optimizer = torch.optim.AdamW(phi.parameters(), lr=1e-3)
        reward = ImplicitReward(phi, card, online, None, nullcontext, optimizer)
    logged: dict[str, float] = {}
    preparation = Preparation(
        algorithm,
        torch.tensor([1], device=device),
        2,
        nullcontext,
        logged.__setitem__,
        reward=reward,
        start=phi if algorithm.rules.from_start else None,
        vllm=VLLMOptions(importance_sampling_mode="token_truncate"),
    )
    losses = []
    for micro in preparation.run(made, batch, learn=True):
        found = made(**micro.call, **micro.pick())
        loss = policy_loss(algorithm, found["values"], micro.sampled, found.get("picked"), micro.candidates).loss
        loss.backward()
        losses.append(float(loss.detach()))
    return [*losses, *gradient(made), *(value for _, value in sorted(logged.items()))]


STEPS = {
    "scoring": scoring,
    "sampling": sampling,
    **{
        f"rm {name}": lambda d, n=name: reward_model(d, n)
        for name in ("ipvrm", "ipvrm_late", "implicit_prm", "dpo", "q_rm")
    },
    "prm head": lambda d: explicit(d, pair=False),
    "prm pair": lambda d: explicit(d, pair=True),
    **{f"rl {name}": lambda d, n=name: policy(d, n) for name in ("grpo", "distrl", "prime", "spro")},
    "rl released": lambda d: policy(d, "distrl", "released"),
}


def guarded() -> list[str]:
    """Mistakes that the stand-in must find. Returns those that it did not."""
    there, here = torch.ones(3, device=DEVICE), torch.ones(3)
    assert isinstance(there, OnDevice)
    mistakes = {
        "sum": lambda: there + here,
        "product": lambda: torch.matmul(here[None], there[:, None]),
        "joined": lambda: torch.cat([there, here]),
        "chosen": lambda: torch.where(there > 0, there, here),
        "values put at indices": lambda: there.clone().index_put_((torch.tensor([0, 1, 2]),), here),
        "embedded": lambda: torch.nn.functional.embedding(here.long(), there[:, None]),
        "read": lambda: there.numpy(),
    }
    missed = []
    for name, mistake in mistakes.items():
        try:
            mistake()
        except (RuntimeError, TypeError):
            continue
        missed.append(name)
    there + torch.tensor(1.0)  # allowed: a number
    there[torch.tensor([0, 2])]  # allowed: indices
    return missed


def main() -> None:
    found: dict[str, Any] = {}
    with StandIn():
        found["missed"] = guarded()
    for name, step in STEPS.items():
        here = step(torch.device("cpu"))
        try:
            with StandIn():
                there: Any = step(DEVICE)
        except Exception as error:
            import traceback

            there = traceback.format_exc() if isinstance(error, RuntimeError) else repr(error)
        found[name] = [here, there]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
