"""vLLM as the sampler of rollouts: its options by TRL's names, and the correction of what it samples by.

vLLM's log-probs differ from the trainer's: other kernels, another precision, another order of sums. So rollouts are drawn from
another distribution than pi_old. Importance sampling corrects for it: the loss is multiplied by the ratio of pi_old to vLLM's
distribution, of each token or of each whole rollout, cut or set to 0 where it is out of bounds. It is what TRL's GRPOTrainer does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

LARGE_RATIO = 1.05
"""Ratio, or its inverse, past which a token counts as sampled by another policy."""


class VLLMOptions(BaseModel):
    """How vLLM samples. The keys are those of TRL's GRPOConfig without their ``vllm_``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["colocate", "server"] = Field(
        "colocate", description="colocate: vLLM runs on the training devices; server: on others, behind server_base_url"
    )
    server_base_url: str | None = Field(None, description="server: its address, such as http://node2:8000")
    server_timeout: float = Field(240.0, gt=0, description="server: seconds to wait until it answers")
    group_port: int = Field(
        51216, ge=1, lt=1 << 16, description="server: port of the trainer's node for sending weights"
    )
    tensor_parallel_size: int = Field(1, ge=1, description="colocate: devices that share one copy of the weights")
    gpu_memory_utilization: float = Field(
        0.3, gt=0, le=1, description="colocate: share of a device's memory that vLLM takes, its weights included"
    )
    enable_sleep_mode: bool = Field(
        False, description="colocate: vLLM gives its memory back between samplings (sleep level 2, weights sent anew)"
    )
    max_model_length: int | None = Field(
        None, ge=1, description="colocate: longest prompt with its rollout, in tokens; null: the recipe's max_length"
    )
    importance_sampling_correction: bool = Field(
        True, description="whether the loss is corrected for the difference between vLLM's log-probs and the trainer's"
    )
    importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = Field(
        "sequence_mask", description="ratio of a token or of a whole rollout; out of bounds it is cut, or becomes 0"
    )
    importance_sampling_clip_max: float | None = Field(3.0, gt=0, description="upper bound of the ratio; null: none")
    importance_sampling_clip_min: float | None = Field(None, ge=0, description="lower bound of the ratio; null: none")

    @model_validator(mode="after")
    def _fit_together(self) -> VLLMOptions:
        low, high = self.importance_sampling_clip_min, self.importance_sampling_clip_max
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"vllm.importance_sampling_clip_min {low:g} is not below importance_sampling_clip_max {high:g}"
            )
        if self.importance_sampling_correction and self.truncates and low is None and high is None:
            raise ValueError(
                f"vllm.importance_sampling_mode {self.importance_sampling_mode} cuts nothing without a bound: set "
                "importance_sampling_clip_max or importance_sampling_clip_min"
            )
        if (self.mode == "server") != (self.server_base_url is not None):
            raise ValueError(
                f"vllm.mode {self.mode}: "
                + ("set vllm.server_base_url" if self.mode == "server" else "vllm.server_base_url is for mode server")
            )
        if self.server_base_url is not None and not self.server_base_url.startswith(("http://", "https://")):
            raise ValueError(f"vllm.server_base_url '{self.server_base_url}': expected http://HOST:PORT")
        own = self.model_fields_set & {"tensor_parallel_size", "gpu_memory_utilization", "enable_sleep_mode"}
        if self.mode == "server" and (own := own | (self.model_fields_set & {"max_model_length"})):
            raise ValueError(
                f"vllm.{min(own)} is for mode colocate; a server has its own, which `vllm serve` is started with"
            )
        return self

    @property
    def truncates(self) -> bool:
        """Whether a ratio out of bounds is cut to the bound."""
        return self.importance_sampling_mode.endswith("truncate")

    @property
    def of_sequence(self) -> bool:
        """Whether the ratio is that of a whole rollout."""
        return self.importance_sampling_mode.startswith("sequence")

    def arguments(self, max_length: int) -> dict[str, Any]:
        """Return the arguments of TRL's GRPOConfig.

        Args:
            max_length: Longest prompt with its rollout, in tokens, where the options give none.
        """
        fields = self.model_dump()
        if self.mode == "colocate" and self.max_model_length is None:
            fields["max_model_length"] = max_length
        return {f"vllm_{name}": value for name, value in fields.items()}


@dataclass(frozen=True)
class Mismatch:
    """How far the sampler's log-probs are from the trainer's.

    Attributes:
        mean: Mean absolute difference of the log-probs of tokens.
        p99: Its 99th percentile, linearly interpolated.
        beyond: Share of tokens whose ratio of probabilities, or its inverse, is above 1.05.
    """

    mean: float
    p99: float
    beyond: float


def mismatch(old: Tensor, sampled: Tensor, mask: Tensor) -> Mismatch:
    """Compare log-probs of sampled tokens.

    Args:
        old: Those under pi_old by the trainer. Float, shape [b, t].
        sampled: Those that the sampler returned; NaN where it returned none. Float, shape [b, t].
        mask: Response tokens. Bool, shape [b, t].

    Returns:
        The figures; NaN where the sampler returned no log-prob at all.
    """
    difference = (old.double() - sampled.double())[mask].abs()
    difference = difference[~difference.isnan()]
    if not len(difference):
        return Mismatch(math.nan, math.nan, math.nan)
    p99 = np.quantile(difference.cpu().numpy(), 0.99)  # torch.quantile refuses more than 16 million numbers
    beyond = (difference > math.log(LARGE_RATIO)).double().mean()
    return Mismatch(float(difference.mean()), float(p99), float(beyond))


def importance_weights(old: Tensor, sampled: Tensor, mask: Tensor, options: VLLMOptions) -> Tensor:
    """Give the factors that correct the loss of tokens for who sampled them.

    A token without a log-prob of the sampler has the ratio 1.

    Args:
        old: Log-probs under pi_old by the trainer. Float, shape [b, t].
        sampled: Log-probs that the sampler returned; NaN where it returned none. Float, shape [b, t].
        mask: Response tokens. Bool, shape [b, t].
        options: The mode and its bounds.

    Returns:
        Factors, shape [b, t], those of a row all the same in the modes of sequences.
    """
    difference = torch.where(mask, old - sampled, 0.0).nan_to_num(nan=0.0)
    if options.of_sequence:
        difference = difference.sum(dim=1, keepdim=True).expand(mask.shape)
    ratio = difference.exp()
    low = -math.inf if options.importance_sampling_clip_min is None else options.importance_sampling_clip_min
    high = math.inf if options.importance_sampling_clip_max is None else options.importance_sampling_clip_max
    if options.truncates:
        return ratio.clamp(low, high)
    return ratio.masked_fill((ratio < low) | (ratio > high), 0.0)
