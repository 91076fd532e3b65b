"""Q-RM: a scalar for every token, from a bias-free linear head on the states of a language model (docs/protocols.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prmbench.data.tokens import EncodedTrace
from prmbench.engines.checkpoint import read_weights
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.types import Engine
from prmbench.errors import UserError
from prmbench.reward_models.base import EngineRewardModel, LoadRequest
from prmbench.reward_models.card import ReadState

VALUE_HEAD = "value_head"


def state_offset(read_state: ReadState) -> int:
    """Say where the state that the value of a token is read from lies, relative to the token.

    Args:
        read_state: Whether it is the state after the token or before it.

    Returns:
        0 after the token, -1 before it.
    """
    return 0 if read_state == "after" else -1


class QRewardModel(EngineRewardModel):
    """Token value Z_t = w . h, where h is the last hidden state after y_t or, by the card, before it.

    Attributes:
        model: The engine that holds the language model.
        head: The weights w. float64, shape [width].
    """

    needs = "hidden states"
    model: HFEngine
    head: NDArray[np.float64]

    @classmethod
    def load(cls, request: LoadRequest) -> QRewardModel:
        """Load the model and its head. See `RewardModel.load`.

        Args:
            request: The checkpoint and how to load it.
        """
        request.refuse_reference()
        request.refuse_engine(cls.needs)  # before its head is looked for: another engine could not use one
        head = read_value_head(request.folder)
        loaded = super().load(request)
        assert isinstance(loaded, QRewardModel)
        width = loaded.model.head.weight.shape[1]
        if head.shape != (1, width):
            raise UserError(
                f"{request.folder}: {VALUE_HEAD}.weight has shape {list(head.shape)}; expected [1, {width}] for this model"
            )
        loaded.head = head[0].astype(np.float64)
        if not head.any():
            loaded.warnings = [f"{request.source}: the head is all zeros, so that every score is 0: it is not trained"]
        loaded.max_length = loaded.max_length and loaded.max_length - 1  # `token_values` may ask one token further
        loaded.facts["read_state"] = request.card.read_state
        return loaded

    def decoders(self) -> list[Engine]:
        """The language model. See `RewardModel.decoders`."""
        return [self.model]

    def token_values(self, batch: Sequence[EncodedTrace]) -> list[NDArray[np.float64]]:
        """Give Z. See `RewardModel.token_values`.

        Args:
            batch: The traces, from `encode`.
        """
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
