"""Value heads: a scalar on the state at the mark of every step, as Skywork-o1-Open-PRM has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prmbench.engines.checkpoint import read_weights
from prmbench.engines.hf.trunk import Trunk
from prmbench.engines.vllm.layout import Layer
from prmbench.engines.vllm.trunk import VLLMTrunk
from prmbench.errors import UserError
from prmbench.reward_models.base import LoadRequest
from prmbench.reward_models.marked import MarkedRewardModel
from prmbench.reward_models.marks import MarkLayout


class ValueHeadRewardModel(MarkedRewardModel):
    """The scalar of the layer ``v_head.summary``, a logit: its sigmoid is the step reward that the authors report.

    Attributes:
        trunk: The decoder.
    """

    default_layout = MarkLayout(prompt="text", bos=True, before_steps="\n", mark="\n")
    trunk: Trunk | VLLMTrunk

    def load_head(self, request: LoadRequest) -> None:
        """Read the head from the files of the checkpoint by name. See `MarkedRewardModel.load_head`.

        Args:
            request: The checkpoint and how to load it.
        """
        found = read_weights(request.folder, ["v_head.summary.weight", "v_head.summary.bias"])
        if "v_head.summary.weight" not in found:
            raise UserError(
                f"{request.folder}: holds no 'v_head.summary.weight'; expected a value head as Skywork-o1-Open-PRM has it"
            )
        parts = []
        for name, expected in (("weight", [1, self.trunk.width]), ("bias", [1])):
            tensor = found.get(f"v_head.summary.{name}", torch.zeros(1))
            if list(tensor.shape) != expected:
                raise UserError(
                    f"{request.folder}: v_head.summary.{name} has shape {list(tensor.shape)}; expected {expected}"
                )
            parts.append(tensor[0].to(self.trunk.device))
        self.weight, self.bias = parts

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """Give the scalar. See `MarkedRewardModel.read`.

        Args:
            states: The states at the marks. float32, shape [rows, width].
        """
        return states @ self.weight + self.bias

    def layers(self) -> Sequence[Layer]:
        """Name the one layer of the head. See `MarkedRewardModel.layers`."""
        return [(self.weight[None], self.bias[None])]

    def from_outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        """Give the scalar. See `MarkedRewardModel.from_outputs`.

        Args:
            outputs: The scalar. float32, shape [rows, 1].
        """
        return outputs[:, 0]
