"""A logits processor of vLLM: some token ids are never sampled."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

KEY = "prmbench_never_sampled"
"""Where in the additional config of vLLM the token ids are."""


class NeverSampled(LogitsProcessor):
    """Takes the probability of the token ids that the config names, for all requests."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Read the token ids.

        Args:
            vllm_config: Config of vLLM.
            device: Where the logits are.
            is_pin_memory: Not used; vLLM passes it.
        """
        self.ids = torch.tensor(vllm_config.additional_config[KEY], device=device)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Take the probability of the token ids.

        Args:
            logits: Logits of a batch. Shape [rows, vocabulary].

        Returns:
            The same logits.
        """
        return logits.index_fill_(1, self.ids, -torch.inf)

    def is_argmax_invariant(self) -> bool:
        """Say that the likeliest token may be another one."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Do nothing: the token ids are those of all requests.

        Args:
            batch_update: What changes in the batch.
        """
