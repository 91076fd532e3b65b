"""Classifiers: a two-class head on the state at the mark of every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prmbench.engines.checkpoint import read_weights
from prmbench.engines.hf.trunk import Trunk
from prmbench.engines.vllm.layout import Layer, apply_layers
from prmbench.engines.vllm.trunk import VLLMTrunk
from prmbench.errors import UserError
from prmbench.reward_models.base import LoadRequest
from prmbench.reward_models.marked import MarkedRewardModel


class ClassifierRewardModel(MarkedRewardModel):
    """log p(right) - log p(wrong) of a two-class head, class 1 for right.

    The head is a linear layer ``score``, as transformers' token classification and TRL's PRM trainer have it; or two with a ReLU
    between them, ``score.0`` and ``score.2``, as Qwen2.5-Math-PRM has it.

    Attributes:
        trunk: The decoder.
        head: Weight and bias of each layer of the head.
    """

    trunk: Trunk | VLLMTrunk

    def load_head(self, request: LoadRequest) -> None:
        """Read the head from the files of the checkpoint by name. See `MarkedRewardModel.load_head`.

        Args:
            request: The checkpoint and how to load it.
        """
        names = [f"score.{part}{kind}" for part in ("", "0.", "2.") for kind in ("weight", "bias")]
        found = {name: tensor.to(self.trunk.device) for name, tensor in read_weights(request.folder, names).items()}
        parts = ["score"] if "score.weight" in found else ["score.0", "score.2"]
        if not all(f"{part}.weight" in found for part in parts):
            raise UserError(
                f"{request.folder}: holds no 'score.weight', nor 'score.0.weight' and 'score.2.weight'; expected a two-class head "
                "on a decoder (Qwen2.5-Math-PRM, transformers' token classification)"
            )
        self.head: list[Layer] = [(found[f"{part}.weight"], found.get(f"{part}.bias")) for part in parts]
        shapes = [tuple(weight.shape) for weight, _ in self.head]
        width = self.trunk.width
        inner = shapes[0][0] if len(shapes) == 2 else width
        expected = [(inner, width), (2, inner)][-len(shapes) :]
        if shapes != expected:
            raise UserError(
                f"{request.folder}: the head's weights have shapes {shapes}, expected {expected}: two classes, wrong and "
                f"right, for states of width {width}"
            )
        for weight, bias in self.head:
            if bias is not None and tuple(bias.shape) != weight.shape[:1]:
                raise UserError(
                    f"{request.folder}: a bias of the head has shape {list(bias.shape)}, expected [{len(weight)}]"
                )
        biases = [bias for _, bias in self.head if bias is not None]
        if biases and not any(bias.any() for bias in biases):
            self.warnings = [
                f"{request.source}: the biases of the head are exactly 0, as those of a head that is not trained"
            ]

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """Give the difference of the two logits. See `MarkedRewardModel.read`.

        Args:
            states: The states at the marks. float32, shape [rows, width].
        """
        return self.from_outputs(apply_layers(self.head, states))

    def layers(self) -> Sequence[Layer]:
        """Name the layers of the head. See `MarkedRewardModel.layers`."""
        return self.head

    def from_outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        """Give the difference of the two logits. See `MarkedRewardModel.from_outputs`.

        Args:
            outputs: The two logits. float32, shape [rows, 2].
        """
        return outputs[:, 1] - outputs[:, 0]
