"""EndoRM: the reward inside any language model, without training (arXiv 2506.23235)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.loading import checkpoint_hash, load_causal_lm, load_tokenizer
from prmbench.errors import UserError
from prmbench.reward_models.base import LoadRequest, RewardModel, register
from prmbench.reward_models.card import Card

DEFAULT_DISCOUNT = 0.95


def endo_rewards(logit: NDArray[np.float64], logsumexp: NDArray[np.float64], discount: float) -> NDArray[np.float64]:
    """r(s_t, a_t) = Q(s_t, a_t) - discount * V(s_{t+1}), Q the logit, V the log-sum-exp of the logits, V(terminal) = 0.

    Args:
        logit, logsumexp: float64, shape [t]: of each response token, at the state before it; the last token ends the turn.

    Returns:
        float64, shape [t].
    """
    return logit - discount * np.append(logsumexp[1:], 0.0)


@register("endo")
class EndoRewardModel(RewardModel):
    """Token values are `endo_rewards` of the model's own logits; the discount is 0.95 unless the card says otherwise."""

    def __init__(self, model: HFEngine, encoder: TraceEncoder, card: Card) -> None:
        self.model = model
        self.encoder = encoder
        self.card = card.model_copy(update={"discount": DEFAULT_DISCOUNT if card.discount is None else card.discount})
        self.vocabulary = model.vocabulary
        self.max_length = model.max_length
        self.hashes = {}
        self.facts = {}

    @classmethod
    def load(cls, request: LoadRequest) -> EndoRewardModel:
        """Load the model. See `RewardModel.load`."""
        if request.reference is not None:
            raise UserError("--reference: EndoRM scores with one model alone; leave it out, or use --kind implicit")
        request.refuse_engine("logits")
        digest = checkpoint_hash(request.folder)
        encoder = TraceEncoder(
            load_tokenizer(request.folder, request.options), request.card.tokens, request.chat_template
        )
        engine = HFEngine(load_causal_lm(request.folder, request.options), request.source)
        loaded = cls(engine, encoder, request.card)
        loaded.hashes = {"model": digest}
        loaded.facts = engine.facts()
        return loaded

    def device_and_dtype(self) -> tuple[str, str]:
        """See `RewardModel.device_and_dtype`."""
        return self.model.device_and_dtype()

    def token_values(self, batch: Sequence[EncodedTrace]) -> list[NDArray[np.float64]]:
        """The rewards. See `RewardModel.token_values`."""
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
