"""A key-value cache with room to spare. A new token is written into it; transformers copies its whole cache for each token."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

_SPARE = 0.5  # share of its length by which a buffer is made longer than what must go in
_LEAST_SPARE = 64

CACHE_ARGUMENTS = ("cache_params", "cache", "past_key_values")
"""How models name the cache that their forward takes: with recurrent states, from transformers 5.24 on, and before that."""

State = tuple[torch.Tensor, torch.Tensor]
"""Keys and values. Shape of each [rows, heads, length, width]."""


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, as views of buffers that are longer.

    Whatever replaces the views (rows selected, the end cut off) works as on the layer of transformers. A view that is no longer the
    beginning of its buffer gets a new buffer with the next token.

    Attributes:
        prompt: Keys and values that come before those of every row, kept once; None: there are none. Only `shared_attention` reads
            them.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Start empty.

        Args:
            kwargs: Arguments of the layer of transformers.
        """
        super().__init__(**kwargs)
        self.prompt: State | None = None
        self._buffers: dict[str, torch.Tensor] = {}

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> State:
        """Append keys and values.

        Args:
            key_states: New keys. Shape [rows, heads, new, width].
            value_states: New values. Shape [rows, heads, new, width].
            args: Not used; transformers passes it.
            kwargs: Not used; transformers passes it.

        Returns:
            All keys and values so far, without the shared prompt.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
        else:
            self.keys = self._appended("keys", self.keys, key_states)
            self.values = self._appended("values", self.values, value_states)
        return self.keys, self.values

    def share(self, rows: int) -> None:
        """Make the one row there is the shared prompt of several rows, which have nothing else yet.

        Args:
            rows: Number of rows.
        """
        self.prompt = self.keys, self.values
        self.keys, self.values = (one[:, :, :0].expand(rows, -1, -1, -1) for one in self.prompt)

    def get_seq_length(self) -> int:
        """Count the tokens so far, those of a shared prompt included."""
        return super().get_seq_length() + (0 if self.prompt is None else self.prompt[0].shape[2])

    def _appended(self, name: str, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        rows, heads, length, width = held.shape
        end = length + new.shape[2]
        buffer = self._buffers.get(name)
        if buffer is None or buffer.data_ptr() != held.data_ptr() or len(buffer) != rows or buffer.shape[2] < end:
            buffer = held.new_empty(rows, heads, end + max(_LEAST_SPARE, int(_SPARE * end)), width)
            buffer[:, :, :length] = held
            self._buffers[name] = buffer
        buffer[:, :, length:end] = new
        return buffer[:, :, :end]


def cache_argument(trunk: torch.nn.Module | type[torch.nn.Module]) -> str | None:
    """Find the name under which a decoder takes its cache.

    Args:
        trunk: The decoder, or its class.

    Returns:
        The name; None where its forward has none that is known.
    """
    takes = inspect.signature(trunk.forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in takes), None)


def growing_cache(config: PretrainedConfig) -> DynamicCache:
    """Make an empty cache for a model. Layers of other kinds (sliding windows, recurrent states) stay those of transformers.

    Args:
        config: Config of the model.

    Returns:
        The cache.
    """
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
