"""The reward model of a policy-optimisation run: what it says of sampled tokens and candidates, and its online updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from prmbench.data.tokens import EncodedTrace
from prmbench.engines.checkpoint import is_adapter
from prmbench.engines.load import LoadOptions, load_causal_lm
from prmbench.errors import UserError
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.card import Card, make_card, read_card
from prmbench.reward_models.objectives import meaning_of
from prmbench.reward_models.registry import find_kind
from prmbench.reward_models.remote import KEY_VARIABLE
from prmbench.training.data.pairs import Response
from prmbench.training.model.forward import Model, give_logprobs
from prmbench.training.model.sharding import beside, divide, divides, like, whole
from prmbench.training.model.start import mend_generation_settings
from prmbench.training.recipes.lora import LoraOptions, add_adapter
from prmbench.training.recipes.optimisation import name_revisions
from prmbench.training.rl.balance import OnlineObjective, Update
from prmbench.training.rl.micro import MicroBatch
from prmbench.training.rm.heldout import final_values

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

STATE_NAME = "state.pt"
FULL_RATE = 2e-6
"""Learning rate of a reward model all of whose weights are updated, as in the released code."""


class RewardOptions(BaseModel):
    """The reward model that the policy is optimised with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        description="checkpoint with its card, as a folder or Hub id, or the address of a server (prmbench serve); EndoRM's is the "
        "SFT policy"
    )
    revision: str | None = Field(None, description="commit, branch or tag of the model's Hub id")
    kind: str | None = Field(None, description="implicit, q_rm or endo; null reads it from the card")
    objective: str | None = Field(
        None, description="what an implicit model was trained with, such as ipvrm or dpo; null reads it from the card"
    )
    update: Update = Field(
        "frozen", description="online update of an implicit model: frozen, naive, dlw, adb or dlw+adb (Eq. 15)"
    )
    reference: str = Field(
        "old", description="pi_ref of its log-ratio: old (the policy that sampled the batch), start, or a checkpoint"
    )
    reference_revision: str | None = Field(None, description="commit, branch or tag of the reference's Hub id")
    key_variable: str = Field(KEY_VARIABLE, description="environment variable with the key of a server")
    learning_rate: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="rate of online updates; null: 1e-4 with lora, 2e-6 for all weights",
    )
    minibatch: int | None = Field(
        None, ge=1, description="rollouts of one online update, whole prompts; null: all of the step; released: 128"
    )
    max_grad_norm: float = Field(
        1.0, gt=0, description="norm to which gradients of online updates are clipped; released: 10"
    )
    lora: LoraOptions | None = Field(
        None, description="adapter that is updated instead of all weights, and merged when the model is written"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_revisions(cls, fields: Any) -> Any:
        """Put revisions behind the names of the models that they are of."""
        return name_revisions(fields, {"revision": "model", "reference_revision": "reference"})

    @property
    def rate(self) -> float:
        """Learning rate of the online updates. Appendix C's 1e-4 is that of adapters; all weights have the released code's."""
        return self.learning_rate or (FULL_RATE if self.lora is None else 1e-4)


class Reward(ABC):
    """A reward model in use.

    Attributes:
        beta: Scale of its token values.
    """

    beta: float = 1.0

    @abstractmethod
    def values(self, micro: MicroBatch, responses: Sequence[Response]) -> tuple[Tensor, Tensor | None]:
        """Score the tokens of a micro-batch.

        Args:
            micro: The micro-batch, with what was measured of pi_old.
            responses: Responses of the whole batch.

        Returns:
            Token values before beta, of the n sampled tokens and of the m candidates. float32, shapes [n] and [m]; None
            instead of the second where the kind or the method has no candidates.
        """

    @abstractmethod
    def final(self, rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Score whole responses by the model's own convention.

        Args:
            rows: Token values before beta of each response. Each float64, shape [t].

        Returns:
            Scores. float64, shape [n].
        """


class FrozenReward(Reward):
    """Any kind that gives token values, scored as the evaluation commands score it."""

    def __init__(self, model: RewardModel) -> None:
        """Use a reward model.

        Args:
            model: The reward model.
        """
        self.model = model
        self.beta = model.card.scale()

    def values(self, micro: MicroBatch, responses: Sequence[Response]) -> tuple[Tensor, None]:
        """See `Reward.values`.

        Args:
            micro: The micro-batch.
            responses: Responses of the whole batch.
        """
        mine = [responses[i] for i in micro.rows]
        traces = [EncodedTrace(r.ids, r.n_prompt, np.zeros(len(r) - r.n_prompt, dtype=np.int64), 1) for r in mine]
        found = np.concatenate(self.model.token_values(traces))
        return torch.from_numpy(found).float().to(micro.mask.device), None

    def final(self, rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """See `Reward.final`.

        Args:
            rows: Token values before beta of each response.
        """
        weighted = [total for row in rows if (total := self.model.weighted_total(row)) is not None]
        if weighted:
            return self.beta * np.array(weighted)
        card = self.model.card
        return final_values(rows, meaning_of(card.objective, card.kind), self.beta)


@dataclass
class ImplicitReward(Reward):
    """A log-ratio to pi_old, or to a fixed model, whose numerator may be updated.

    Attributes:
        model: pi_phi.
        card: Its card.
        objective: How it is updated.
        reference: pi_ref; None for pi_old.
        autocast: Makes the context that it computes in.
        optimizer: Optimizer of its updates; None where it is frozen.
        max_grad_norm: Norm that its gradients are clipped to.
        parts: Number of processes that it is divided among; 1: every process has it whole.
    """

    model: PreTrainedModel
    card: Card
    objective: OnlineObjective
    reference: Model | None
    autocast: Callable[[], AbstractContextManager[object]]
    optimizer: torch.optim.AdamW | None = None
    max_grad_norm: float = 1.0
    parts: int = 1

    def __post_init__(self) -> None:
        self.beta = self.objective.beta

    @torch.no_grad()
    def values(self, micro: MicroBatch, responses: Sequence[Response]) -> tuple[Tensor, Tensor | None]:
        """See `Reward.values`.

        Args:
            micro: The micro-batch.
            responses: Responses of the whole batch.
        """
        with self.autocast():
            mine = self.model(**micro.call, **micro.pick())
            if self.reference is None:
                theirs = {"values": micro.old, "picked": micro.old_picked}
            else:
                theirs = self.reference(**micro.call, **micro.pick())
        if "picked" not in mine:
            return mine["values"] - theirs["values"], None
        return mine["values"] - theirs["values"], mine["picked"] - theirs["picked"]

    def final(self, rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """See `Reward.final`.

        Args:
            rows: Token values before beta of each response.
        """
        return final_values(rows, self.objective.meaning, self.beta)

    def learn(self, micros: Sequence[MicroBatch], gradient: Tensor, reduce: Callable[[Tensor], Tensor]) -> float:
        """Make one step of its optimizer.

        The loss may join any tokens of any rows of the batch, on whatever process they are. So it is given as its gradient
        with respect to token values, which the model's backward passes take from there.

        Args:
            micros: This process's micro-batches.
            gradient: Gradient of the whole batch's loss. float32, shape [b, t].
            reduce: Sums a tensor over processes.

        Returns:
            Norm of the gradient before clipping.
        """
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        # FSDP averages over processes what is to be summed. It needs every process in every pass.
        for micro in micros:
            if not micro.real and self.parts == 1:
                continue
            with self.autocast():
                values = self.model(**micro.call)["values"]
            weights = self.parts * micro.flat(gradient) if micro.real else torch.zeros_like(values)
            (values * weights).sum().backward()
        parameters = list(self.trained().values())
        if self.parts == 1:
            for parameter in parameters:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = reduce(own)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(whole(norm))

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters that are updated, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def save_state(self, folder: Path, *, write: bool) -> None:
        """Write what is updated, and the optimizer's state, to go on from. All processes must call it.

        Args:
            folder: Where they are written, whole.
            write: Whether this process is the one that writes.
        """
        assert self.optimizer is not None
        state = _gather({"weights": self.trained(), "optimizer": self.optimizer.state_dict()}, keep=write)
        if write:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(state, folder / STATE_NAME)

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote.

        Args:
            folder: Where it was written.
        """
        assert self.optimizer is not None
        state = _read_state(folder)
        parameters = list(self.trained().items())
        with torch.no_grad():
            for name, parameter in parameters:
                parameter.copy_(like(state["weights"][name], parameter))
        moments = state["optimizer"]["state"]
        for index, own in moments.items():
            # Copied, since the file that they are read from goes when later states are saved.
            moments[index] = {name: like(value, parameters[index][1]).clone() for name, value in own.items()}
        self.optimizer.load_state_dict(state["optimizer"])


def _gather(found: Any, *, keep: bool) -> Any:
    """Gather every tensor of nested dictionaries, one after the other, on the CPU. Where `keep` is false, only others keep it."""
    if isinstance(found, dict):
        return {name: _gather(value, keep=keep) for name, value in found.items()}
    if not isinstance(found, Tensor):
        return found
    tensor = whole(found.detach())
    return tensor.cpu() if keep else None


def _read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / STATE_NAME, map_location="cpu", weights_only=True, mmap=True)
    return state


def without_adapter(model: Any, call: Callable[..., Any]) -> Model:
    """Return a model as it is without its adapter.

    Args:
        model: The model with its adapter.
        call: What is called: the model, or what wraps it.

    Returns:
        The model without the adapter; the weights are shared.
    """

    def off(**arguments: Any) -> Any:
        with model.disable_adapter():
            return call(**arguments)

    return off


def reward_kind(options: RewardOptions, folder: Path) -> str:
    """Find the kind of a run's reward model: what the recipe says, else the card. An adapter without both is implicit.

    Args:
        options: The recipe's part about it.
        folder: Its folder.

    Returns:
        The kind.

    Raises:
        UserError: Neither recipe nor card names one, or it is not known.
    """
    kind = options.kind or (read_card(folder) or {}).get("kind") or ("implicit" if is_adapter(folder) else None)
    if kind is None:
        raise UserError(f"{folder}: has no card (prmbench.json) that says what it is; set reward_model.kind")
    find_kind(str(kind))
    return str(kind)


def load_implicit(
    options: RewardOptions,
    folder: Path,
    load: LoadOptions,
    reference: Model | None,
    accelerator: Accelerator,
    *,
    over_base: bool = False,
    size: int | None = None,
    released: bool = False,
) -> ImplicitReward:
    """Load pi_phi, divided as the policy is, with an optimizer where it is updated.

    Args:
        options: The recipe's part about it.
        folder: Its folder. An adapter is merged into its base.
        load: How weights are loaded.
        reference: pi_ref; None for pi_old.
        accelerator: The accelerator of the policy's trainer.
        over_base: Whether pi_ref is what pi_phi starts from. With an adapter it is then pi_phi without it, and no second copy of
            the weights is needed.
        size: Number of token ids, from 0 on, that log-probs are taken over; None: all.
        released: Whether online updates use the released code's loss.

    Returns:
        The reward model.

    Raises:
        UserError: The card is broken, or the objective cannot be updated so.
    """
    card = _card(options, folder)
    objective = OnlineObjective.of_card(card, options.update, released=released, minibatch=options.minibatch)
    model = _load_numerator(options, folder, beside(load, accelerator), size)
    if options.lora is not None and options.update != "frozen":
        reference = without_adapter(model, model) if over_base else reference
    else:
        model.requires_grad_(options.update != "frozen")
    if divides(accelerator):
        divide(model, accelerator)
    reward = ImplicitReward(
        model,
        card,
        objective,
        reference,
        accelerator.autocast,
        max_grad_norm=options.max_grad_norm,
        parts=accelerator.num_processes if divides(accelerator) else 1,
    )
    if options.update != "frozen":
        parameters = reward.trained().values()
        reward.optimizer = torch.optim.AdamW(parameters, lr=options.rate, weight_decay=0.0)
    return reward


def load_updated(options: RewardOptions, folder: Path, load: LoadOptions, state: Path) -> tuple[PreTrainedModel, Card]:
    """Load a reward model as it was when its state was saved, ready to be written as a checkpoint.

    Args:
        options: The recipe's part about it.
        folder: The folder that it started from.
        load: How weights are loaded.
        state: Where `ImplicitReward.save_state` wrote.

    Returns:
        The model, an adapter merged; and its card.
    """
    model = _load_numerator(options, folder, load)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weights in _read_state(state)["weights"].items():
            parameters[name].copy_(weights)
    return model.merge_and_unload() if hasattr(model, "peft_config") else model, _card(options, folder)


def _card(options: RewardOptions, folder: Path) -> Card:
    fields = read_card(folder) or {"kind": "implicit"}
    fields |= {"objective": options.objective} if options.objective is not None else {}
    return make_card(fields, str(folder / "prmbench.json"))


def _load_numerator(options: RewardOptions, folder: Path, load: LoadOptions, size: int | None = None) -> Any:
    """pi_phi, with the adapter that is updated."""
    model: Any = load_causal_lm(folder, load)
    mend_generation_settings(model)  # or it could not be written at the end
    give_logprobs(model, options.model, size)
    if options.lora is not None and options.update != "frozen":
        model = add_adapter(model, options.lora).eval()  # it scores and is updated without dropout
    return model
