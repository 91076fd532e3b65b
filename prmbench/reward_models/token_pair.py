"""Token pairs: two words of the vocabulary compared at the mark of every step, as Math-Shepherd and RLHFlow do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.load import load_causal_lm
from prmbench.engines.logit_maps import declared_logit_maps
from prmbench.engines.vllm.layout import Layer, apply_layers
from prmbench.engines.vllm.trunk import VLLMTrunk
from prmbench.reward_models.base import LoadRequest
from prmbench.reward_models.card import Card
from prmbench.reward_models.marked import MarkedRewardModel
from prmbench.reward_models.marks import MarkedTrace, MarkEncoder, MarkLayout, single_id


class TokenPairRewardModel(MarkedRewardModel):
    """log p(right) - log p(wrong) of two tokens, renormalised over the two: the difference of their logits.

    Attributes:
        trunk: The language model; with vLLM its decoder, whose head are two rows of the output layer.
    """

    reads = frozenset({"marks", "pair"})
    default_layout = MarkLayout(prompt="turns", before_steps=" ", mark="+", read="before")
    default_pair = ("+", "-")
    trunk: HFEngine | VLLMTrunk

    @classmethod
    def make_encoder(cls, request: LoadRequest) -> MarkEncoder:
        """Make the encoder, and check that the words of the pair are tokens. See `MarkedRewardModel.make_encoder`.

        Args:
            request: The checkpoint and how to load it.
        """
        encoder = super().make_encoder(request)
        cls.pair_ids(encoder, request.card)
        return encoder

    @classmethod
    def pair_ids(cls, encoder: MarkEncoder, card: Card) -> list[int]:
        """Find the ids of the two tokens.

        Args:
            encoder: What knows the vocabulary.
            card: The card, which may name other words.

        Returns:
            The id of the word for right, and that of the word for wrong.

        Raises:
            UserError: A word is not one token.
        """
        return [single_id(encoder, word) for word in card.pair or cls.default_pair]

    @classmethod
    def load_trunk(cls, request: LoadRequest) -> HFEngine:
        """Load the language model.

        Args:
            request: The checkpoint and how to load it.
        """
        return HFEngine(load_causal_lm(request.folder, request.options), request.source)

    def load_head(self, request: LoadRequest) -> None:
        """Find the two tokens: the head is the output layer. See `MarkedRewardModel.load_head`.

        Args:
            request: The checkpoint and how to load it.
        """
        self.pair = self.pair_ids(self.encoder, request.card)
        if isinstance(self.trunk, VLLMTrunk):
            self.rows = self.trunk.output_rows(self.pair)
            self.finish = next(iter(declared_logit_maps(self.trunk.config)), None)

    def states(self, batch: Sequence[MarkedTrace]) -> torch.Tensor:
        """Compute the states as `MarkedRewardModel.states`, but in the dtype of the model, as its output layer takes them.

        Args:
            batch: The traces, from `encode`.
        """
        assert isinstance(self.trunk, HFEngine)
        return self.trunk.states([trace.ids for trace in batch], [trace.marks for trace in batch])

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """Give the difference of the two logits. See `MarkedRewardModel.read`.

        Args:
            states: The states at the marks. Shape [rows, width], the dtype of the model.
        """
        if isinstance(self.trunk, VLLMTrunk):
            return self.from_outputs(apply_layers(self.layers(), states))
        logits = self.trunk.logits(states)
        return logits[:, self.pair[0]] - logits[:, self.pair[1]]

    def layers(self) -> Sequence[Layer]:
        """Name the two rows of the output layer. See `MarkedRewardModel.layers`."""
        return [self.rows]

    def from_outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        """Give the difference of the two logits. See `MarkedRewardModel.from_outputs`.

        Args:
            outputs: What the two rows give, before the architecture changes it. float32, shape [rows, 2].
        """
        logits = outputs if self.finish is None else self.finish(outputs)
        return logits[:, 0] - logits[:, 1]

    def scoring(self) -> dict[str, Any]:
        """Return the layout of the marks and the two tokens."""
        return {**super().scoring(), "pair": list(self.card.pair or self.default_pair)}
