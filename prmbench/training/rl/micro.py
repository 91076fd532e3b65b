"""One micro-batch: rows that go through a model together, and what is found out about their tokens on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prmbench.training.data.pairs import Response
from prmbench.training.model.forward import Model, pack
from prmbench.training.rl.advantages import last_token
from prmbench.training.rl.candidates import candidate_finder
from prmbench.training.rl.loss import Tokens
from prmbench.training.rl.methods import Algorithm


@dataclass
class MicroBatch:
    """Rows that go through a model together. They have n response tokens and m candidates.

    Attributes:
        rows: Numbers of the rows in the whole batch.
        real: False for a row that only keeps the processes in step, and counts nothing.
        teaches: Whether any process has a real row in this minibatch.
        dist: Whether the method has candidates.
        call: Arguments of the model.
        mask: Response tokens. Bool, shape [rows, t].
        old: Log-probs of the response tokens under pi_old. float32, shape [n].
        entropy: Entropy of pi_old at their states, in nats. float32, shape [n].
        where: Response token in whose place each candidate is. int64, shape [m].
        tokens: The candidates. int64, shape [m].
        old_picked: Log-probs of the candidates under pi_old. float32, shape [m].
        sampled: What the policy loss needs of the response tokens; None until advantages are known.
        candidates: What it needs of the candidates; None until advantages are known, or where the method has none.
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
        """Return the arguments that also ask for the candidates' log-probs; none where the method has no candidates."""
        return {"where": self.where, "tokens": self.tokens} if self.dist else {}

    def ends(self, algorithm: Algorithm, stop: Tensor) -> Tensor:
        """Mark the response tokens that have no candidates.

        Args:
            algorithm: The paper's are the ends of turn; the released code's are the last tokens, of cut rollouts too.
            stop: Ids that end a rollout. int64.

        Returns:
            Bool, shape [n].
        """
        if algorithm.details.all_likely:
            return torch.isin(self.call["input_ids"][self.call["rows"], self.call["columns"]], stop)
        return last_token(self.mask)[self.mask]

    def flat(self, padded: Tensor) -> Tensor:
        """Pick out the values of this micro-batch's tokens.

        Args:
            padded: Values of the whole batch. Shape [b, t].

        Returns:
            Shape [n], on this micro-batch's device.
        """
        mine = padded[torch.tensor(self.rows)][:, : self.mask.shape[1]]
        return mine.to(self.mask.device)[self.mask]


def make_micro(
    rows: Sequence[int], responses: Sequence[Response], *, teaches: bool, dist: bool, device: Any
) -> MicroBatch:
    """Put rows on a device as a micro-batch.

    Args:
        rows: Numbers of the rows. Without any, the batch's first row is taken, as one that counts nothing.
        responses: Responses of the whole batch.
        teaches: Whether any process has a real row in this minibatch.
        dist: Whether the method has candidates.
        device: The device.

    Returns:
        The micro-batch, with nothing measured yet.
    """
    kept = list(rows) or [0]
    call = {name: value.to(device) for name, value in pack([responses[i] for i in kept]).items()}
    return MicroBatch(kept, bool(rows), teaches, dist, call, call.pop("mask"))


@torch.no_grad()
def measure_old(model: Model, micro: MicroBatch, algorithm: Algorithm, stop: Tensor) -> None:
    """Fill in pi_old's log-probs, entropy and candidates.

    Args:
        model: pi_old, the policy as it is.
        micro: The micro-batch, which is changed.
        algorithm: The method and its numbers.
        stop: Ids that end a rollout. int64.
    """
    found = model(**micro.call, find=candidate_finder(algorithm))
    micro.old, micro.entropy = found["values"], found["entropy"]
    goes_on = ~micro.ends(algorithm, stop)[found["where"]]
    micro.where, micro.tokens, micro.old_picked = (found[name][goes_on] for name in ("where", "tokens", "picked"))
