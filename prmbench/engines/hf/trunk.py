"""A decoder without a head: hidden states at marked positions, for reward models with heads of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.engines.hf.engine import states_at
from prmbench.engines.loading import LoadOptions, load_trunk, trained_length


class Trunk:
    """A transformers decoder in eval mode.

    Args:
        folder: the checkpoint. source: what to call it in errors.

    Raises (on construction):
        UserError: as `prmbench.engines.loading.load_trunk`.
    """

    def __init__(self, folder: Path, options: LoadOptions, source: str) -> None:
        self.model = load_trunk(folder, options)
        self.source = source
        self.device = next(self.model.parameters()).device

    @property
    def width(self) -> int:
        """Numbers of one hidden state."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def vocabulary(self) -> int:
        """Number of token embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def max_length(self) -> int | None:
        """Longest sequence the model was built for, where its config says. See `prmbench.engines.loading.trained_length`."""
        return trained_length(self.model)

    def device_and_dtype(self) -> tuple[str, str]:
        """Where the model computes and in what type."""
        return str(self.device), str(self.model.dtype).removeprefix("torch.")

    def facts(self) -> dict[str, Any]:
        """Architecture and size, for provenance."""
        return {
            "architecture": self.model.config.model_type,
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    @torch.inference_mode()
    def states(self, sequences: Sequence[NDArray[np.int64]], positions: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        """The last hidden states at some positions of one batch. See `prmbench.engines.hf.engine.states_at`.

        Raises:
            torch.OutOfMemoryError: the batch does not fit; see `prmbench.engines.hf.engine.BatchRunner`.
        """
        return states_at(self.model, self.device, sequences, positions)
