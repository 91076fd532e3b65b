"""One micro-batch: rows that go through a model together, and what is found out about their tokens on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prmbench.training.data.pairs import Response
from prmbench.training.model.forward import pack
from prmbench.training.model.logprobs import Find
from prmbench.training.rl.candidates import likely_tokens, released_candidates
from prmbench.training.rl.loss import Tokens
from prmbench.training.rl.methods import Algorithm

Model = Callable[..., dict[str, Tensor]]
"""A model whose forward `prmbench.training.model.forward.give_logprobs` has replaced, wrapped or not."""


@dataclass
class MicroBatch:
    """Attributes:
    rows: of the whole batch. real: False for a row that only keeps processes in step and counts nothing.
    teaches: whether any process has a real row in this minibatch.
    dist: whether the method has candidates.
    call: arguments of the model. mask: bool, shape [rows, t].
    old, entropy: of pi_old at the n response tokens. where, tokens, old_picked: its candidates, shape [m] each.
    sampled, candidates: what the policy loss needs, once advantages are known.
    """

    rows: list[int]
    real: bool
    teaches: bool
    dist: bool
    call: dict[str, Tensor]
    mask: Tensor
    old: Tensor = field(default_factory=lambda: torch.zeros(0))
    entropy: Tensor = field(default_factory=lambda: torch.zeros(0))
    where: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    tokens: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    old_picked: Tensor = field(default_factory=lambda: torch.zeros(0))
    sampled: Tokens | None = None
    candidates: Tokens | None = None

    def pick(self) -> dict[str, Tensor]:
        """Arguments that also ask for the candidates' log-probs; none where there are no candidates in this method."""
        return {"where": self.where, "tokens": self.tokens} if self.dist else {}

    def flat(self, padded: Tensor) -> Tensor:
        """The n values of this micro-batch's tokens. padded: shape [b, t] of the whole batch."""
        mine = padded[torch.tensor(self.rows)][:, : self.mask.shape[1]]
        return mine.to(self.mask.device)[self.mask]


def make_micro(
    rows: Sequence[int], responses: Sequence[Response], *, teaches: bool, dist: bool, device: Any
) -> MicroBatch:
    """Rows as a micro-batch on a device; no rows at all: the batch's first, as one that counts nothing."""
    kept = list(rows) or [0]
    call = {name: value.to(device) for name, value in pack([responses[i] for i in kept]).items()}
    return MicroBatch(kept, bool(rows), teaches, dist, call, call.pop("mask"))


def candidate_finder(algorithm: Algorithm, stop: Tensor) -> Find:
    """Chooses candidates at every state but those where the rollout's end of turn was sampled; none for a method without them.

    Args:
        stop: int64, ids that end a rollout.
    """

    def find(logprobs: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
        if algorithm.method != "distrl":
            nothing = sampled.new_zeros(0)
            return nothing, nothing
        if algorithm.details.all_likely:
            where, tokens = likely_tokens(logprobs, algorithm.p_min)
        else:
            where, tokens = released_candidates(logprobs, sampled, algorithm.p_min)
        goes_on = ~torch.isin(sampled, stop)[where]
        return where[goes_on], tokens[goes_on]

    return find


@torch.no_grad()
def measure_old(model: Model, micro: MicroBatch, find: Find) -> None:
    """Fill in pi_old's log-probs, entropy and candidates."""
    found = model(**micro.call, find=find)
    micro.old, micro.entropy = found["values"], found["entropy"]
    micro.where, micro.tokens, micro.old_picked = found["where"], found["tokens"], found["picked"]
