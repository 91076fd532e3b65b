"""The reward model of a policy-optimisation run: what it says of sampled tokens and candidates, and its online updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from prmbench.data.tokens import EncodedTrace
from prmbench.engines.loading import LoadOptions, load_causal_lm
from prmbench.errors import UserError
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.card import Card, make_card, read_card
from prmbench.reward_models.objectives import OBJECTIVES, Objective
from prmbench.reward_models.registry import find_kind
from prmbench.training.data.pairs import Response
from prmbench.training.model.forward import give_logprobs
from prmbench.training.recipes.lora import LoraOptions, add_adapter
from prmbench.training.rl.balance import Update, check_update
from prmbench.training.rl.methods import Algorithm
from prmbench.training.rl.micro import MicroBatch, Model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STATE_WEIGHTS, STATE_MOMENTS = "weights.safetensors", "moments.safetensors"


class RewardOptions(BaseModel):
    """The reward model that the policy is optimised with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="checkpoint with its card: folder or Hub id; EndoRM's is the SFT policy")
    kind: str | None = Field(None, description="implicit, q_rm or endo; null: as its card says")
    update: Update = Field(
        "frozen", description="online: frozen, naive, dlw, adb or dlw+adb (Eq. 15); implicit reward models"
    )
    reference: str = Field(
        "old", description="pi_ref of its log-ratio: old (the policy that sampled the batch), start, or a checkpoint"
    )
    learning_rate: float = Field(1e-4, gt=0, allow_inf_nan=False, description="of its online updates")
    lora: LoraOptions | None = Field(
        None, description="an adapter is updated instead of all weights; merged when it is written"
    )


class Reward(ABC):
    """A reward model in use. beta: scale of its token values."""

    beta: float = 1.0

    @abstractmethod
    def values(self, micro: MicroBatch, responses: Sequence[Response]) -> tuple[Tensor, Tensor | None]:
        """Token values before beta: of the n sampled tokens, and of the m candidates where the kind gives them. float32."""


class FrozenReward(Reward):
    """Any kind that gives token values, scored as the evaluation commands score it."""

    def __init__(self, model: RewardModel) -> None:
        self.model = model
        self.beta = model.card.scale()

    def values(self, micro: MicroBatch, responses: Sequence[Response]) -> tuple[Tensor, None]:
        """See `Reward.values`."""
        mine = [responses[i] for i in micro.rows]
        traces = [EncodedTrace(r.ids, r.n_prompt, np.zeros(len(r) - r.n_prompt, dtype=np.int64), 1) for r in mine]
        found = np.concatenate(self.model.token_values(traces))
        return torch.from_numpy(found).float().to(micro.mask.device), None


@dataclass
class ImplicitReward(Reward):
    """A log-ratio to pi_old, or to a fixed model, whose numerator may be updated.

    Attributes:
        model: pi_phi. reference: pi_ref; None: pi_old. autocast: makes the context that it computes in.
        optimizer: None: frozen. spec, margin: of the objective that its card names.
    """

    model: PreTrainedModel
    card: Card
    reference: Model | None
    autocast: Callable[[], AbstractContextManager[object]]
    optimizer: torch.optim.AdamW | None = None
    max_grad_norm: float = 1.0
    spec: Objective = field(init=False)
    margin: float = field(init=False)

    def __post_init__(self) -> None:
        self.beta = self.card.scale()
        if self.card.objective is None:
            raise UserError(
                "the reward model's card names no objective, so its final value is not known: write one into it"
            )
        self.spec = OBJECTIVES.find(self.card.objective)
        self.margin = (self.spec.margin or 0.0) if self.card.margin is None else self.card.margin

    @torch.no_grad()
    def values(self, micro: MicroBatch, responses: Sequence[Response]) -> tuple[Tensor, Tensor | None]:
        """See `Reward.values`."""
        with self.autocast():
            mine = self.model(**micro.call, **micro.pick())
            if self.reference is None:
                theirs = {"values": micro.old, "picked": micro.old_picked}
            else:
                theirs = self.reference(**micro.call, **micro.pick())
        if "picked" not in mine:
            return mine["values"] - theirs["values"], None
        return mine["values"] - theirs["values"], mine["picked"] - theirs["picked"]

    def learn(self, micros: Sequence[MicroBatch], gradient: Tensor, reduce: Callable[[Tensor], Tensor]) -> float:
        """One step of its optimizer.

        The loss may join any tokens of any rows of the batch, on whatever process they are: so it is given as its gradient with
        respect to token values, which the model's backward passes take from there.

        Args:
            gradient: of the loss of the whole batch, shape [b, t]. reduce: sums a tensor over processes.

        Returns:
            Norm of the gradient before clipping.
        """
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        for micro in micros:
            if not micro.real:
                continue
            with self.autocast():
                values = self.model(**micro.call)["values"]
            (values * micro.flat(gradient)).sum().backward()
        parameters = self.trained()
        for parameter in parameters:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = reduce(own)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def trained(self) -> list[torch.nn.Parameter]:
        """What is updated."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def write(self, folder: Path) -> None:
        """Write its weights as a checkpoint, an adapter merged."""
        merged = self.model.merge_and_unload() if hasattr(self.model, "peft_config") else self.model
        merged.save_pretrained(folder)

    def save_state(self, folder: Path) -> None:
        """Write weights and optimizer, to go on from."""
        from safetensors.torch import save_file, save_model

        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / STATE_WEIGHTS))
        if self.optimizer is not None:
            moments = {
                f"{i}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
                for i, state in self.optimizer.state_dict()["state"].items()
                for name, value in state.items()
            }
            save_file({name: value.contiguous() for name, value in moments.items()}, str(folder / STATE_MOMENTS))

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote."""
        from safetensors.torch import load_file, load_model

        load_model(self.model, str(folder / STATE_WEIGHTS))
        if self.optimizer is not None:
            whole = self.optimizer.state_dict()
            for name, value in load_file(str(folder / STATE_MOMENTS)).items():
                index, _, part = name.partition(".")
                whole["state"].setdefault(int(index), {})[part] = value
            self.optimizer.load_state_dict(whole)


def reward_kind(options: RewardOptions, folder: Path) -> str:
    """The kind of a run's reward model. Raises UserError when neither recipe nor card names one."""
    kind = options.kind or (read_card(folder) or {}).get("kind")
    if kind is None:
        raise UserError(f"{folder}: has no card (prmbench.json) that says what it is; set reward_model.kind")
    find_kind(str(kind))
    return str(kind)


def check_reward(algorithm: Algorithm, options: RewardOptions | None, kind: str | None) -> None:
    """Raise UserError where a method and a reward model do not fit."""
    needs, method = algorithm.needs, algorithm.method
    if options is None:
        if needs.rewards and not needs.optional:
            raise UserError(f"method {method}: needs a reward_model ({', '.join(needs.rewards)})")
        return
    if not needs.rewards:
        raise UserError(f"method {method}: takes no reward_model; leave it out")
    if kind not in needs.rewards:
        raise UserError(
            f"method {method}: takes a reward model of kind {', '.join(needs.rewards)}; {options.model} is {kind}"
        )
    if kind != "implicit" and options.update != "frozen":
        raise UserError(
            f"reward_model.update {options.update}: only implicit reward models are updated online; set frozen"
        )


def load_implicit(
    options: RewardOptions,
    folder: Path,
    load: LoadOptions,
    reference: Model | None,
    autocast: Callable[[], AbstractContextManager[object]],
    max_grad_norm: float,
) -> ImplicitReward:
    """Load pi_phi, with an optimizer where it is updated.

    Raises:
        UserError: a broken card, an adapter, an objective that cannot be updated so.
    """
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder}: is an adapter; merge it into a checkpoint of its own first (recipe: lora.merge true)"
        )
    card = make_card(read_card(folder) or {"kind": "implicit"}, str(folder / "prmbench.json"))
    model: Any = load_causal_lm(folder, load)
    give_logprobs(model, options.model)
    if options.lora is not None and options.update != "frozen":
        model = add_adapter(model, options.lora).eval()  # it scores and is updated without dropout
    else:
        model.requires_grad_(options.update != "frozen")
    reward = ImplicitReward(model, card, reference, autocast, max_grad_norm=max_grad_norm)
    if reward.spec.kind != "implicit":
        raise UserError(f"{options.model}: was trained with {card.objective}, which makes no implicit reward model")
    check_update(reward.spec, options.update)
    if options.update != "frozen":
        reward.optimizer = torch.optim.AdamW(reward.trained(), lr=options.learning_rate, weight_decay=0.0)
    return reward
