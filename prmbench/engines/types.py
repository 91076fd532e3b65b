"""What an engine is, and what it says about tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from prmbench.engines.sampling import Completion, Request, SamplingParams

Quantity = Literal["logprob", "logit", "logsumexp", "topk", "hidden"]
QUANTITIES: tuple[Quantity, ...] = ("logprob", "logit", "logsumexp", "topk", "hidden")


class Engine(Protocol):
    """Two verbs, `generate` and `score`. provides: the quantities that `score` gives; asking for more is a ValueError."""

    name: str
    source: str
    provides: frozenset[Quantity]

    @property
    def vocabulary(self) -> int:
        """Number of logits of one position."""

    @property
    def max_length(self) -> int | None:
        """Longest sequence, where it is known."""

    def device_and_dtype(self) -> tuple[str, str]:
        """Where the model computes and in what type."""

    def facts(self) -> dict[str, Any]:
        """Architecture and size, for provenance."""

    def eos_ids(self) -> list[int]:
        """Token ids that the checkpoint's own generation settings stop at."""

    def generate(
        self, requests: Sequence[Request], stop: frozenset[int], params: SamplingParams, seed: int
    ) -> list[Completion]:
        """Sample one completion for each request."""

    def score(
        self, sequences: Sequence[NDArray[np.int64]], first: Sequence[int], want: frozenset[Quantity], *, top: int = 0
    ) -> list[TokenScores]:
        """What the model says of tokens that are given."""


@dataclass(frozen=True)
class TokenScores:
    """What the model says of the asked-for tokens of one sequence; fields not asked for are None.

    For a token y_t at position p, everything is read from the state before it (position p - 1).

    Attributes:
        logprob: log pi(y_t given s_t). logit: its unnormalised logit. logsumexp: of all logits at s_t. float64, shape [t].
        topk_ids: int64, shape [t, k]; topk_logprobs: float64, shape [t, k]; most likely first.
        hidden: float32, shape [t, width]: the last hidden state at s_t.
    """

    logprob: NDArray[np.float64] | None = None
    logit: NDArray[np.float64] | None = None
    logsumexp: NDArray[np.float64] | None = None
    topk_ids: NDArray[np.int64] | None = None
    topk_logprobs: NDArray[np.float64] | None = None
    hidden: NDArray[np.float32] | None = None
