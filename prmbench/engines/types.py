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
    """Where tokens are computed: it samples completions (`generate`) and says something of given tokens (`score`).

    Attributes:
        name: Name of the engine.
        source: What errors call the checkpoint.
        provides: Quantities that `score` gives.
    """

    name: str
    source: str
    provides: frozenset[Quantity]

    @property
    def vocabulary(self) -> int:
        """Number of logits of one position."""

    @property
    def max_length(self) -> int | None:
        """Longest sequence in tokens; None where it is not known."""

    def device_and_dtype(self) -> tuple[str, str]:
        """Say where the model computes and in what type, such as ``("cpu", "float32")``."""

    def facts(self) -> dict[str, Any]:
        """Say the architecture, and the size where it is known, for provenance."""

    def eos_ids(self) -> list[int]:
        """List the token ids that the checkpoint's own generation settings stop at."""

    def generate(
        self, requests: Sequence[Request], stop: frozenset[int], params: SamplingParams, seed: int
    ) -> list[Completion]:
        """Sample one completion for each request.

        Args:
            requests: What is to be sampled. Prompts of similar length batch best.
            stop: Token ids that end a completion.
            params: How tokens are chosen.
            seed: Seed of all random numbers.

        Returns:
            Completions in the order of the requests.

        Raises:
            ValueError: A prompt leaves no room for a completion.
        """

    def score(
        self, sequences: Sequence[NDArray[np.int64]], first: Sequence[int], want: frozenset[Quantity], *, top: int = 0
    ) -> list[TokenScores]:
        """Run one batch through the model and say something of its tokens.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            first: Position, at least 1, of the first token asked for in each sequence. All from there to the end are asked for.
            want: Quantities to return.
            top: How many of the likeliest tokens ``topk`` returns.

        Returns:
            What was asked for, one for each sequence.

        Raises:
            ValueError: The engine does not give a quantity, or a token is outside its vocabulary.
        """


@dataclass(frozen=True)
class TokenScores:
    """What a model says of the tokens asked for of one sequence. A field that was not asked for is None.

    For a token y_t at position p, everything is read from the state before it (position p - 1).

    Attributes:
        logprob: log pi(y_t given s_t). float64, shape [t].
        logit: Unnormalised logit of y_t. float64, shape [t].
        logsumexp: Log-sum-exp of all logits at s_t. float64, shape [t].
        topk_ids: Ids of the likeliest tokens, most likely first. int64, shape [t, k].
        topk_logprobs: Log-probs of the likeliest tokens. float64, shape [t, k].
        hidden: Last hidden state at s_t. float32, shape [t, width].
    """

    logprob: NDArray[np.float64] | None = None
    logit: NDArray[np.float64] | None = None
    logsumexp: NDArray[np.float64] | None = None
    topk_ids: NDArray[np.int64] | None = None
    topk_logprobs: NDArray[np.float64] | None = None
    hidden: NDArray[np.float32] | None = None
