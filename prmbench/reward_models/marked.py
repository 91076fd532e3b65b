"""Reward models that read one score a step from the state at its mark: classifiers, token pairs, value heads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from prmbench.data.tokens import EncodedTrace
from prmbench.engines.hf.engine import HFEngine, states_at
from prmbench.engines.hf.trunk import Trunk
from prmbench.engines.loading import checkpoint_hash, load_causal_lm, load_tokenizer, read_weights
from prmbench.errors import UserError
from prmbench.reward_models.base import LoadRequest, RewardModel, StepScores, register
from prmbench.reward_models.card import Card
from prmbench.reward_models.marks import MarkedTrace, MarkEncoder, MarkLayout
from prmbench.stats.protocols import STEP_PROTOCOL


class MarkedRewardModel(RewardModel):
    """A decoder, and `read`: from the last hidden states at the marks to scores in logit space.

    A kind of one's own implements `load_head` and `read`; the decoder's weights are loaded with transformers' own class for the
    config's ``model_type``, so no code that the checkpoint carries is run.
    """

    step_valued = True
    reads = frozenset({"marks"})
    own_layout = True
    default_layout = MarkLayout()
    encoder: MarkEncoder

    def __init__(self, trunk: Trunk, card: Card) -> None:
        self.trunk = trunk
        self.card = card
        self.vocabulary = trunk.vocabulary
        self.max_length = trunk.max_length
        self.facts = trunk.facts()

    @classmethod
    def load(cls, request: LoadRequest) -> MarkedRewardModel:
        """Load decoder and head. See `RewardModel.load`."""
        encoder = cls._encoder(request)
        hashed = checkpoint_hash(request.folder)
        model = cls(Trunk(request.folder, request.options, request.source), request.card)
        model.load_head(request)
        model.hashes, model.encoder = {"model": hashed}, encoder
        return model

    @classmethod
    def _encoder(cls, request: LoadRequest) -> MarkEncoder:
        request.refuse_reference()
        request.refuse_engine("hidden states")
        tokenizer = load_tokenizer(request.folder, request.options)
        layout = request.card.marks or cls.default_layout
        return MarkEncoder(tokenizer, request.card.tokens, layout, request.chat_template)

    def load_head(self, request: LoadRequest) -> None:
        """Load what `read` needs. Raises UserError when the checkpoint has no such head."""

    @abstractmethod
    def read(self, states: torch.Tensor) -> torch.Tensor:
        """Scores in logit space, shape [rows], of last hidden states, float32, shape [rows, width]."""

    def device_and_dtype(self) -> tuple[str, str]:
        """See `RewardModel.device_and_dtype`."""
        return self.trunk.device_and_dtype()

    def states(self, batch: Sequence[MarkedTrace]) -> torch.Tensor:
        """The last hidden states at the marks of a batch, in order. float32, shape [marks, width]."""
        return self.trunk.states([trace.ids for trace in batch], [trace.marks for trace in batch]).float()

    @torch.inference_mode()
    def score(self, batch: Sequence[EncodedTrace]) -> list[StepScores]:
        """One score a step. See `RewardModel.score`."""
        marked = [trace for trace in batch if isinstance(trace, MarkedTrace)]
        scores = self.read(self.states(marked)).double().cpu().numpy()
        edges = np.cumsum([len(trace.marks) for trace in marked])[:-1]
        return [
            StepScores(trace.step_counts(), scores=one)
            for trace, one in zip(marked, np.split(scores, edges), strict=True)
        ]

    def fixed_thresholds(self) -> dict[str, float]:
        """Scores are logits of probabilities."""
        return {STEP_PROTOCOL: 0.0}

    def scoring(self) -> dict[str, Any]:
        """See `RewardModel.scoring`."""
        return {"marks": self.encoder.layout.model_dump()}


@register("classifier")
class ClassifierRewardModel(MarkedRewardModel):
    """log p(right) - log p(wrong) of a two-class head, class 1 for right.

    The head is a linear layer ``score`` (transformers' token classification, TRL's PRM trainer), or two with a ReLU between
    them, ``score.0`` and ``score.2`` (Qwen2.5-Math-PRM).
    """

    def load_head(self, request: LoadRequest) -> None:
        """Read the head from the checkpoint's files by name. See `MarkedRewardModel.load_head`."""
        names = [f"score.{part}{kind}" for part in ("", "0.", "2.") for kind in ("weight", "bias")]
        found = read_weights(request.folder, names)
        parts = ["score"] if "score.weight" in found else ["score.0", "score.2"]
        self.layers = [
            (found[f"{part}.weight"], found.get(f"{part}.bias")) for part in parts if f"{part}.weight" in found
        ]
        if len(self.layers) != len(parts):
            raise UserError(
                f"{request.folder}: holds no 'score.weight', nor 'score.0.weight' and 'score.2.weight'; expected a two-class head "
                "on a decoder (Qwen2.5-Math-PRM, transformers' token classification)"
            )
        shapes = [tuple(weight.shape) for weight, _ in self.layers]
        width = self.trunk.width
        inner = shapes[0][0] if len(shapes) == 2 else width
        expected = [(inner, width), (2, inner)][-len(shapes) :]
        if shapes != expected:
            raise UserError(
                f"{request.folder}: the head's weights have shapes {shapes}, expected {expected}: two classes, wrong and "
                f"right, for states of width {width}"
            )
        for weight, bias in self.layers:
            if bias is not None and tuple(bias.shape) != weight.shape[:1]:
                raise UserError(
                    f"{request.folder}: a bias of the head has shape {list(bias.shape)}, expected [{len(weight)}]"
                )
        self.layers = [
            (weight.to(self.trunk.device), None if bias is None else bias.to(self.trunk.device))
            for weight, bias in self.layers
        ]

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """The difference of the two logits. See `MarkedRewardModel.read`."""
        for i, (weight, bias) in enumerate(self.layers):
            states = torch.nn.functional.linear(torch.relu(states) if i else states, weight, bias)
        return states[:, 1] - states[:, 0]


@register("value_head")
class ValueHeadRewardModel(MarkedRewardModel):
    """The scalar of a value head, a logit: its sigmoid is the authors' step reward (Skywork-o1-Open-PRM: ``v_head.summary``)."""

    default_layout = MarkLayout(prompt="text", bos=True, before_steps="\n", mark="\n")

    def load_head(self, request: LoadRequest) -> None:
        """Read the head from the checkpoint's files by name. See `MarkedRewardModel.load_head`."""
        found = read_weights(request.folder, ["v_head.summary.weight", "v_head.summary.bias"])
        weight = found.get("v_head.summary.weight")
        if weight is None:
            raise UserError(
                f"{request.folder}: holds no 'v_head.summary.weight'; expected a value head as Skywork-o1-Open-PRM has it"
            )
        if tuple(weight.shape) != (1, self.trunk.width):
            raise UserError(
                f"{request.folder}: v_head.summary.weight has shape {list(weight.shape)}; expected [1, {self.trunk.width}]"
            )
        bias = found.get("v_head.summary.bias", torch.zeros(1))
        if tuple(bias.shape) != (1,):
            raise UserError(f"{request.folder}: v_head.summary.bias has shape {list(bias.shape)}; expected [1]")
        self.weight, self.bias = weight[0].to(self.trunk.device), bias.to(self.trunk.device)

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """The scalar. See `MarkedRewardModel.read`."""
        return states @ self.weight + self.bias


@register("token_pair")
class TokenPairRewardModel(MarkedRewardModel):
    """log p(right) - log p(wrong) of two vocabulary tokens, renormalised over the two: the difference of their logits."""

    reads = frozenset({"marks", "pair"})
    default_layout = MarkLayout(prompt="turns", before_steps=" ", mark="+", read="before")
    default_pair = ("+", "-")

    def __init__(self, engine: HFEngine, card: Card) -> None:
        self.model = engine
        self.card = card
        self.vocabulary = engine.vocabulary
        self.max_length = engine.max_length
        self.facts = engine.facts()

    @classmethod
    def load(cls, request: LoadRequest) -> TokenPairRewardModel:
        """Load the language model. See `RewardModel.load`."""
        encoder = cls._encoder(request)
        hashed = checkpoint_hash(request.folder)
        pair = [encoder.single_id(text) for text in request.card.pair or cls.default_pair]
        model = cls(HFEngine(load_causal_lm(request.folder, request.options), request.source), request.card)
        model.hashes, model.encoder, model.pair = {"model": hashed}, encoder, pair
        return model

    pair: list[int]

    def device_and_dtype(self) -> tuple[str, str]:
        """See `RewardModel.device_and_dtype`."""
        return self.model.device_and_dtype()

    def states(self, batch: Sequence[MarkedTrace]) -> torch.Tensor:
        """See `MarkedRewardModel.states`; in the model's own dtype, as its output layer takes them."""
        ids, marks = [trace.ids for trace in batch], [trace.marks for trace in batch]
        return states_at(self.model.trunk, self.model.device, ids, marks)

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """The difference of the two logits. See `MarkedRewardModel.read`."""
        logits = self.model.logits(states)
        return logits[:, self.pair[0]] - logits[:, self.pair[1]]

    def scoring(self) -> dict[str, Any]:
        """See `RewardModel.scoring`."""
        return {**super().scoring(), "pair": list(self.card.pair or self.default_pair)}
