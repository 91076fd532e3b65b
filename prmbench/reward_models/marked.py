"""What reward models share that read one score a step from the state at its mark."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from prmbench.data.tokens import EncodedTrace
from prmbench.engines.batching import vllm_batch_tokens
from prmbench.engines.checkpoint import checkpoint_hash
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.hf.trunk import Trunk
from prmbench.engines.tokenizer import load_tokenizer
from prmbench.engines.vllm.layout import Layer
from prmbench.engines.vllm.trunk import VLLMTrunk
from prmbench.reward_models.base import LoadRequest, RewardModel, StepScores
from prmbench.reward_models.card import Card
from prmbench.reward_models.marks import MarkedTrace, MarkEncoder, MarkLayout
from prmbench.reward_models.objectives import meaning_of
from prmbench.stats.protocols import STEP_PROTOCOL


class MarkedRewardModel(RewardModel):
    """A decoder, and `read`: from the last hidden states at the marks to scores in logit space.

    A kind of your own implements `load_head` and `read`. The weights of the decoder are loaded with the class that transformers
    has for the ``model_type`` of the config, so that no code from the checkpoint runs.

    With the engine vllm, `read` is given hidden states from there. A kind that says in `layers` which linear layers its head is,
    and in `from_outputs` what their outputs mean, has vLLM compute them.

    Attributes:
        default_layout: Where the marks are when the card does not say.
        encoder: What turns a trace into token ids.
        trunk: The decoder; an engine where the output layer of a language model is the head; a decoder in vLLM.
    """

    step_valued = True
    reads = frozenset({"marks"})
    own_layout = True
    default_layout: ClassVar[MarkLayout] = MarkLayout()
    encoder: MarkEncoder
    trunk: Trunk | HFEngine | VLLMTrunk

    def __init__(self, trunk: Trunk | HFEngine | VLLMTrunk, card: Card) -> None:
        """Take what was loaded.

        Args:
            trunk: The decoder.
            card: The card, with the user's settings over it.
        """
        self.trunk, self.card = trunk, card
        self.vocabulary, self.max_length = trunk.vocabulary, trunk.max_length
        self.facts = trunk.facts()

    @classmethod
    def load(cls, request: LoadRequest) -> MarkedRewardModel:
        """Load decoder and head. See `RewardModel.load`.

        Args:
            request: The checkpoint and how to load it.
        """
        encoder = cls.make_encoder(request)
        digest = checkpoint_hash(request.folder)
        in_vllm = VLLMTrunk(request.folder, request.options, request.source) if request.engine == "vllm" else None
        model = cls(in_vllm or cls.load_trunk(request), request.card)
        model.hashes, model.encoder, model.engine = {"model": digest}, encoder, request.engine
        model.load_head(request)
        if in_vllm is not None:
            in_vllm.open(model.layers())
            model.max_length = in_vllm.max_length
            model.batch_tokens = vllm_batch_tokens(in_vllm.device_and_dtype()[0])
        model.warnings = [*model.warnings, *_says_nothing(model)]
        return model

    @classmethod
    def make_encoder(cls, request: LoadRequest) -> MarkEncoder:
        """Make the encoder, before the weights are loaded.

        Args:
            request: The checkpoint and how to load it.
        """
        request.refuse_reference()
        tokenizer = load_tokenizer(request.folder, request.options)
        layout = request.card.marks or cls.default_layout
        return MarkEncoder(tokenizer, request.card.tokens, layout, request.chat_template)

    @classmethod
    def load_trunk(cls, request: LoadRequest) -> Trunk | HFEngine:
        """Load the decoder.

        Args:
            request: The checkpoint and how to load it.
        """
        return Trunk(request.folder, request.options, request.source)

    def load_head(self, request: LoadRequest) -> None:
        """Load what `read` needs.

        Args:
            request: The checkpoint and how to load it.

        Raises:
            UserError: The checkpoint has no such head.
        """

    @abstractmethod
    def read(self, states: torch.Tensor) -> torch.Tensor:
        """Turn last hidden states into scores in logit space.

        Args:
            states: The states at the marks. float32, shape [rows, width].

        Returns:
            The scores. Shape [rows].
        """

    def layers(self) -> Sequence[Layer] | None:
        """Say which linear layers the head is, with a ReLU between them, so that another engine can compute them.

        Returns:
            The layers, the first one first; None where `read` is to be given hidden states.
        """
        return None

    def from_outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        """Turn what the last of `layers` gives into scores in logit space.

        Args:
            outputs: Outputs of the layer. float32, shape [rows, outputs].

        Returns:
            The scores. Shape [rows].
        """
        raise NotImplementedError(f"{type(self).__name__} names no layers")

    def device_and_dtype(self) -> tuple[str, str]:
        """Return where the model computes and in what type."""
        return self.trunk.device_and_dtype()

    def decoders(self) -> list[Trunk | HFEngine | VLLMTrunk]:
        """The decoder. See `RewardModel.decoders`."""
        return [self.trunk]

    def states(self, batch: Sequence[MarkedTrace]) -> torch.Tensor:
        """Compute the last hidden states at the marks of a batch.

        Args:
            batch: The traces, from `encode`.

        Returns:
            The states, in order. float32, shape [marks, width].
        """
        assert isinstance(self.trunk, Trunk | VLLMTrunk)
        return self.trunk.states([trace.ids for trace in batch], [trace.marks for trace in batch]).float()

    @torch.inference_mode()
    def score(self, batch: Sequence[EncodedTrace]) -> list[StepScores]:
        """Give one score a step. See `RewardModel.score`.

        Args:
            batch: The traces, from `encode`.
        """
        marked = [trace for trace in batch if isinstance(trace, MarkedTrace)]
        scores = self._scores(marked).double().cpu().numpy()
        edges = np.cumsum([len(trace.marks) for trace in marked])[:-1]
        return [
            StepScores(trace.step_counts(), scores=one)
            for trace, one in zip(marked, np.split(scores, edges), strict=True)
        ]

    def _scores(self, batch: Sequence[MarkedTrace]) -> torch.Tensor:
        if isinstance(self.trunk, VLLMTrunk) and self.layers() is not None:
            ids, marks = [trace.ids for trace in batch], [trace.marks for trace in batch]
            return self.from_outputs(self.trunk.outputs(ids, marks))
        return self.read(self.states(batch))

    def fixed_thresholds(self) -> dict[str, float]:
        """Return probability 0.5 where scores are logits of probabilities; none where they were trained by differences alone."""
        named = self.card.objective
        return {STEP_PROTOCOL: 0.0} if named is None or meaning_of(named).is_logit else {}

    def scoring(self) -> dict[str, Any]:
        """Return the layout of the marks."""
        return {"marks": self.encoder.layout.model_dump()}


@torch.inference_mode()
def _says_nothing(model: MarkedRewardModel) -> list[str]:
    """Warn where the head gives all states one score, as one of zeros does."""
    if not isinstance(model.trunk, Trunk | VLLMTrunk):
        return []
    states = torch.randn(8, model.trunk.width, generator=torch.Generator().manual_seed(0)).to(model.trunk.device)
    scores = model.read(states)
    if (scores != scores[0]).any():
        return []
    return [f"{model.trunk.source}: the head gives every step the same score: it is not trained"]
