"""Q-RM: a scalar for every token, from a bias-free linear head on the states of a language model (docs/protocols.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.data.tokens import EncodedTrace, TraceEncoder
from prmbench.engines.batching import vllm_batch_tokens
from prmbench.engines.checkpoint import checkpoint_hash, read_weights
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.load import load_causal_lm
from prmbench.engines.vllm.trunk import VLLMTrunk
from prmbench.errors import UserError
from prmbench.reward_models.base import LoadRequest, RewardModel
from prmbench.reward_models.card import Card, ReadState

VALUE_HEAD = "value_head"


def state_offset(read_state: ReadState) -> int:
    """Say where the state that the value of a token is read from lies, relative to the token.

    Args:
        read_state: Whether it is the state after the token or before it.

    Returns:
        0 after the token, -1 before it.
    """
    return 0 if read_state == "after" else -1


class QRewardModel(RewardModel):
    """Token value Z_t = w . h, where h is the last hidden state after y_t or, by the card, before it.

    Attributes:
        encoder: What turns a trace into token ids.
        model: The engine that holds the language model; with vLLM its decoder, whose head is w.
        head: The weights w. float64, shape [width].
    """

    encoder: TraceEncoder
    model: HFEngine | VLLMTrunk
    head: NDArray[np.float64]

    def __init__(self, model: HFEngine | VLLMTrunk, encoder: TraceEncoder, card: Card) -> None:
        """Take what was loaded.

        Args:
            model: The engine that holds the language model, or its decoder in vLLM.
            encoder: What turns a trace into token ids.
            card: The card, with the user's settings over it.
        """
        self.model, self.encoder, self.card = model, encoder, card
        self.vocabulary, self.max_length = model.vocabulary, model.max_length
        self.hashes, self.facts = {}, model.facts() | {"read_state": card.read_state}

    @classmethod
    def load(cls, request: LoadRequest) -> QRewardModel:
        """Load the model and its head. See `RewardModel.load`.

        Args:
            request: The checkpoint and how to load it.
        """
        request.refuse_reference()
        head = read_value_head(request.folder)  # before the weights, which take longer
        digest, encoder = checkpoint_hash(request.folder), request.encoder()
        in_vllm = VLLMTrunk(request.folder, request.options, request.source) if request.engine == "vllm" else None
        model = in_vllm or HFEngine(load_causal_lm(request.folder, request.options), request.source)
        width = model.width if isinstance(model, VLLMTrunk) else model.head.weight.shape[1]
        if head.shape != (1, width):
            raise UserError(
                f"{request.folder}: {VALUE_HEAD}.weight has shape {list(head.shape)}; expected [1, {width}] for this model"
            )
        if in_vllm is not None:
            in_vllm.open([(torch.from_numpy(head), None)])
        loaded = cls(model, encoder, request.card)
        loaded.hashes, loaded.engine, loaded.head = {"model": digest}, request.engine, head[0].astype(np.float64)
        if not head.any():
            loaded.warnings = [f"{request.source}: the head is all zeros, so that every score is 0: it is not trained"]
        if in_vllm is None:  # `token_values` may ask one token further
            loaded.max_length = loaded.max_length and loaded.max_length - 1
        else:
            loaded.batch_tokens = vllm_batch_tokens(model.device_and_dtype()[0])
        return loaded

    def decoders(self) -> list[HFEngine | VLLMTrunk]:
        """The language model. See `RewardModel.decoders`."""
        return [self.model]

    def device_and_dtype(self) -> tuple[str, str]:
        """Return where the model computes and in what type."""
        return self.model.device_and_dtype()

    def token_values(self, batch: Sequence[EncodedTrace]) -> list[NDArray[np.float64]]:
        """Give Z. See `RewardModel.token_values`.

        Args:
            batch: The traces, from `encode`.
        """
        offset = state_offset(self.card.read_state)
        if isinstance(self.model, VLLMTrunk):
            at = [np.arange(trace.n_prompt, len(trace.ids)) + offset for trace in batch]
            values = self.model.outputs([trace.ids for trace in batch], at)[:, 0].double().numpy()
            return np.split(values, np.cumsum([len(one) for one in at])[:-1])
        # The engine gives the state before a token. The state after y_t is the one before y_{t+1}: ask one token further.
        shift = 1 + offset
        ids = [np.append(trace.ids, np.zeros(shift, dtype=np.int64)) for trace in batch]
        found = self.model.score(ids, [trace.n_prompt + shift for trace in batch], frozenset({"hidden"}))
        out = []
        for tokens in found:
            assert tokens.hidden is not None
            out.append(tokens.hidden.astype(np.float64) @ self.head)
        return out


def read_value_head(folder: Path) -> NDArray[np.float32]:
    """Read the weight of the head from the safetensors files of a checkpoint.

    Args:
        folder: Folder of the checkpoint.

    Returns:
        The weight. float32, shape [1, width].

    Raises:
        UserError: There is none.
    """
    found = read_weights(folder, [f"{VALUE_HEAD}.weight"])
    if found:
        return found[f"{VALUE_HEAD}.weight"].numpy()
    raise UserError(
        f"{folder}: holds no '{VALUE_HEAD}.weight'; expected a Q-RM checkpoint as `prmbench train rm` writes it"
    )
