"""A decoder without a head: hidden states at marked positions, for reward models with heads of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.engines.hf.engine import states_at
from prmbench.engines.hf.prefix_store import PrefixStore
from prmbench.engines.hf.states import attention_facts
from prmbench.engines.load import LoadOptions, load_trunk, trained_length


class Trunk:
    """A decoder of transformers in eval mode.

    Attributes:
        model: The decoder.
        source: What errors call the checkpoint.
        device: Where it computes.
        prefixes: What it knows of prefixes, which are then not run again; None: every sequence is run whole.
    """

    def __init__(self, folder: Path, options: LoadOptions, source: str) -> None:
        """Load a decoder.

        Args:
            folder: The checkpoint folder.
            options: Where and how its weights are loaded.
            source: What errors call the checkpoint.

        Raises:
            UserError: As `prmbench.engines.load.load_trunk`.
        """
        self.model = load_trunk(folder, options)
        self.source = source
        self.device = next(self.model.parameters()).device
        self.prefixes: PrefixStore | None = None

    @property
    def width(self) -> int:
        """How many numbers a hidden state has."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def vocabulary(self) -> int:
        """Number of token embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def max_length(self) -> int | None:
        """Longest sequence. See `prmbench.engines.load.trained_length`."""
        return trained_length(self.model)

    def device_and_dtype(self) -> tuple[str, str]:
        """Say where the model computes and in what type."""
        return str(self.device), str(self.model.dtype).removeprefix("torch.")

    def facts(self) -> dict[str, Any]:
        """Say architecture, size and attention, for provenance."""
        return {
            "architecture": self.model.config.model_type,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            **attention_facts(self.model),
        }

    @torch.inference_mode()
    def states(self, sequences: Sequence[NDArray[np.int64]], positions: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        """Run one batch and keep its last hidden states at some positions. See `prmbench.engines.hf.engine.states_at`.

        Args:
            sequences: Token ids of each sequence. int64, shape [length].
            positions: Positions in each sequence. int64, shape [n].

        Returns:
            Shape [sum of n, width], in the order given. The dtype is that of the model.

        Raises:
            torch.OutOfMemoryError: The batch does not fit. See `prmbench.engines.batching.BatchRunner`.
        """
        if self.prefixes is not None:
            return self.prefixes.states(sequences, positions)
        return states_at(self.model, self.device, sequences, positions)
