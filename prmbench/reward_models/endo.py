"""EndoRM: the reward inside any language model, without training (arXiv 2506.23235)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.types import Engine
from prmbench.reward_models.base import EngineRewardModel
from prmbench.reward_models.card import Card

DEFAULT_DECAY = 0.95
"""The decay factor that the paper names (Appendix C). It names no floor."""


def endo_rewards(
    logit: NDArray[np.float64], logsumexp: NDArray[np.float64], discount: float = 1.0
) -> NDArray[np.float64]:
    """Give the reward of every response token, r(s_t, a_t) = Q(s_t, a_t) - V(s_{t+1}).

    Q is the logit and V the log-sum-exp of all logits: the inverse soft Bellman operator. Where the last token ends the turn, V of
    the state after it is 0. So the sum over a response is its log-probability plus V(s_1), whatever its length.

    Args:
        logit: Logit of each response token, at the state before it. float64, shape [t].
        logsumexp: Log-sum-exp of all logits at the same states, float64, shape [t]; or shape [t + 1], with that at the state
            after the last token, of a response that was cut.
        discount: Weight of V(s'). Below 1 every token gets a share of V, which rewards length.

    Returns:
        The rewards. float64, shape [t].
    """
    return logit - discount * np.append(logsumexp, 0.0)[1 : len(logit) + 1]


def position_weights(n: int, decay: float, floor: float) -> NDArray[np.float64]:
    """Give the weights of the tokens of a response in the score of the whole of it.

    Args:
        n: Number of tokens.
        decay: Factor from one token to the next, above 0 and at most 1.
        floor: Smallest weight, between 0 and 1.

    Returns:
        decay^(h-1) for the token at position h, or the floor where that is larger. float64, shape [n].
    """
    return np.maximum(decay ** np.arange(n, dtype=np.float64), floor)


class EndoRewardModel(EngineRewardModel):
    """Token values are `endo_rewards` of the model's own logits. A whole response is scored with `position_weights`.

    Attributes:
        encoder: What turns a trace into token ids.
    """

    needs = "logits"
    reads = frozenset({"discount", "decay", "decay_floor"})
    encoder: TraceEncoder

    def __init__(self, model: Engine, encoder: TraceEncoder, card: Card) -> None:
        """Take what was loaded.

        Args:
            model: The engine that holds the language model.
            encoder: What turns a trace into token ids.
            card: The card, with the user's settings over it.
        """
        super().__init__(model, encoder, card)
        self.max_length = model.max_length and model.max_length - 1  # `token_values` may ask one token further
        self.ends = frozenset({encoder.end_of_turn, *model.eos_ids()})

    def decoders(self) -> list[Engine]:
        """The language model. See `RewardModel.decoders`."""
        return [self.model]

    def token_values(self, batch: Sequence[EncodedTrace]) -> list[NDArray[np.float64]]:
        """Give the rewards. See `RewardModel.token_values`.

        Args:
            batch: The traces, from `encode`.
        """
        discount = 1.0 if self.card.discount is None else self.card.discount
        # The engine gives the state before a token: of a response that was cut, ask one token further.
        cut = [int(int(trace.ids[-1]) not in self.ends) for trace in batch]
        ids = [np.append(trace.ids, np.zeros(one, dtype=np.int64)) for trace, one in zip(batch, cut, strict=True)]
        found = self.model.score(ids, [trace.n_prompt for trace in batch], frozenset({"logit", "logsumexp"}))
        out = []
        for tokens, one in zip(found, cut, strict=True):
            assert tokens.logit is not None
            assert tokens.logsumexp is not None
            out.append(endo_rewards(tokens.logit[: len(tokens.logit) - one], tokens.logsumexp, discount))
        return out

    def weighted_total(self, values: NDArray[np.float64]) -> float:
        """Score a whole response: token values weighted by position. See `RewardModel.weighted_total`.

        Args:
            values: Token values of the response. float64, shape [t].
        """
        weights = self.scoring()
        return float(position_weights(len(values), weights["decay"], weights["decay_floor"]) @ values)

    def scoring(self) -> dict[str, Any]:
        """Return how positions weigh in the score of a whole response, and the prompt."""
        decay = DEFAULT_DECAY if self.card.decay is None else self.card.decay
        return {**(super().scoring() or {}), "decay": decay, "decay_floor": self.card.decay_floor or 0.0}
