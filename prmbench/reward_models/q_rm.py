"""Q-RM: a scalar for every token, from a bias-free linear head on a language model's states (DESIGN 4.7)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.loading import checkpoint_hash, load_causal_lm, load_tokenizer, read_weights
from prmbench.errors import UserError
from prmbench.reward_models.base import LoadRequest, RewardModel, register
from prmbench.reward_models.card import Card, ReadState

VALUE_HEAD = "value_head"


def state_offset(read_state: ReadState) -> int:
    """Where the state of token y_t is read, relative to its position: 0 after it, -1 before it."""
    return 0 if read_state == "after" else -1


@register("q_rm")
class QRewardModel(RewardModel):
    """Token value Z_t = w . h, h the last hidden state after y_t (or, by the card, before it)."""

    def __init__(self, model: HFEngine, head: NDArray[np.float32], encoder: TraceEncoder, card: Card) -> None:
        self.model = model
        self.head = head.astype(np.float64)
        self.encoder = encoder
        self.card = card
        self.vocabulary = model.vocabulary
        self.max_length = model.max_length and model.max_length - 1  # `score` may ask one token further
        self.hashes = {}
        self.facts = {}

    @classmethod
    def load(cls, request: LoadRequest) -> QRewardModel:
        """Load the model and its head. See `RewardModel.load`."""
        if request.reference is not None:
            raise UserError("--reference: Q-RM scores with one model alone; leave it out, or use --kind implicit")
        request.refuse_engine("hidden states")
        digest = checkpoint_hash(request.folder)
        head = read_value_head(request.folder)
        encoder = TraceEncoder(
            load_tokenizer(request.folder, request.options), request.card.tokens, request.chat_template
        )
        engine = HFEngine(load_causal_lm(request.folder, request.options), request.source)
        width = engine.head.weight.shape[1]
        if head.shape != (1, width):
            raise UserError(
                f"{request.folder}: {VALUE_HEAD}.weight has shape {list(head.shape)}; expected [1, {width}] for this model"
            )
        loaded = cls(engine, head[0], encoder, request.card)
        loaded.hashes = {"model": digest}
        loaded.facts = {**engine.facts(), "read_state": request.card.read_state}
        return loaded

    def device_and_dtype(self) -> tuple[str, str]:
        """See `RewardModel.device_and_dtype`."""
        return self.model.device_and_dtype()

    def token_values(self, batch: Sequence[EncodedTrace]) -> list[NDArray[np.float64]]:
        """Z. See `RewardModel.token_values`."""
        # The engine gives the state before a token. The state after y_t is the one before y_{t+1}: ask one token further.
        shift = 1 + state_offset(self.card.read_state)
        ids = [np.append(trace.ids, np.zeros(shift, dtype=np.int64)) for trace in batch]
        found = self.model.score(ids, [trace.n_prompt + shift for trace in batch], frozenset({"hidden"}))
        out = []
        for tokens in found:
            assert tokens.hidden is not None
            out.append(tokens.hidden.astype(np.float64) @ self.head)
        return out


def read_value_head(folder: Path) -> NDArray[np.float32]:
    """The head's weight from a checkpoint's safetensors files. Raises UserError when there is none."""
    found = read_weights(folder, [f"{VALUE_HEAD}.weight"])
    if found:
        return found[f"{VALUE_HEAD}.weight"].numpy()
    raise UserError(
        f"{folder}: holds no '{VALUE_HEAD}.weight'; expected a Q-RM checkpoint as `prmbench train rm` writes it"
    )
