"""EndoRM: the reward inside any language model, without training (arXiv 2506.23235)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.types import Engine
from prmbench.reward_models.base import EngineRewardModel
from prmbench.reward_models.card import Card

DEFAULT_DISCOUNT = 0.95


def endo_rewards(logit: NDArray[np.float64], logsumexp: NDArray[np.float64], discount: float) -> NDArray[np.float64]:
    """Give the reward of every response token, r(s_t, a_t) = Q(s_t, a_t) - discount * V(s_{t+1}).

    Q is the logit and V the log-sum-exp of all logits. The last token ends the turn, and V of the state after it is 0.

    Args:
        logit: Logit of each response token, at the state before it. float64, shape [t].
        logsumexp: Log-sum-exp of all logits at the same states. float64, shape [t].
        discount: Weight of V(s'), between 0 and 1.

    Returns:
        The rewards. float64, shape [t].
    """
    return logit - discount * np.append(logsumexp[1:], 0.0)


class EndoRewardModel(EngineRewardModel):
    """Token values are `endo_rewards` of the model's own logits."""

    needs = "logits"

    def __init__(self, model: Engine, encoder: TraceEncoder, card: Card) -> None:
        """Take what was loaded.

        Args:
            model: The engine that holds the language model.
            encoder: What turns a trace into token ids.
            card: The card, with the user's settings over it. Its discount is 0.95 where it says none.
        """
        discount = DEFAULT_DISCOUNT if card.discount is None else card.discount
        super().__init__(model, encoder, card.model_copy(update={"discount": discount}))

    def token_values(self, batch: Sequence[EncodedTrace]) -> list[NDArray[np.float64]]:
        """Give the rewards. See `RewardModel.token_values`.

        Args:
            batch: The traces, from `encode`.
        """
        assert self.card.discount is not None
        found = self.model.score(
            [trace.ids for trace in batch], [trace.n_prompt for trace in batch], frozenset({"logit", "logsumexp"})
        )
        out = []
        for tokens in found:
            assert tokens.logit is not None
            assert tokens.logsumexp is not None
            out.append(endo_rewards(tokens.logit, tokens.logsumexp, self.card.discount))
        return out
