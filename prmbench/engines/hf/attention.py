"""Attention of one new token, for sampling: keys and values that several queries share are read once.

- Query heads that share keys and values read them together. The SDPA of transformers copies both for each query head wherever there
  is a mask, as there is beside prompts of different lengths. It does so for every token, which is most of the time of sampling.
- Completions of one prompt read its keys and values together. These are in the cache once (`GrowingLayer.prompt`).

Both replace the SDPA of transformers while a batch is sampled. An architecture that does anything else with its keys and
values between cache and attention (latents, sparse or differential attention, layers that share a cache) is left as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from transformers import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prmbench.engines.hf.kv_cache import GrowingLayer, State


class Together:
    """What is known of the attention of the batch that is being sampled.

    Attributes:
        cache: The cache of the batch.
        reached: For each call, the number of the layer whose keys and values were attended to just as the cache gave them, by plain
            causal attention; None where it was something else.
    """

    def __init__(self, cache: DynamicCache) -> None:
        """Start with a cache that nothing has been attended to yet.

        Args:
            cache: The cache of the batch.
        """
        self.cache = cache
        self.reached: list[int | None] = []

    def layer(self, module: torch.nn.Module, key: torch.Tensor, value: torch.Tensor) -> GrowingLayer | None:
        """Find the layer of the cache that gave these very keys and values.

        Args:
            module: The attention module that was called.
            key: Keys that it attends to.
            value: Values that it attends to.

        Returns:
            The layer; None where there is no such layer, or it is of another kind.
        """
        index = getattr(module, "layer_idx", None)
        found = self.cache.layers[index] if index is not None and index < len(self.cache.layers) else None
        return found if type(found) is GrowingLayer and key is found.keys and value is found.values else None

    def may_share(self) -> bool:
        """Say whether the prompt that has run may be kept once for all rows.

        It may where the attention of each layer read just that layer of the cache, and in float32: scores of half precision
        would be rounded, where SDPA keeps them.
        """
        layers = self.cache.layers
        return self.reached == list(range(len(layers))) and all(layer.keys.dtype == torch.float32 for layer in layers)


_TOGETHER: ContextVar[Together | None] = ContextVar("together", default=None)


def shared_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute what the SDPA of transformers computes, up to rounding.

    Args:
        module: The attention module that calls.
        query: Queries. Shape [rows, heads, queries, width].
        key: Keys. Shape [rows, key heads, length, width].
        value: Values. Shape [rows, key heads, length, width].
        attention_mask: Where a query may look. bool, shape [rows or 1, 1 or heads, queries, length]; None: at all before it.
        scaling: Factor of the scores; None: one over the root of the width.
        kwargs: Further arguments of the SDPA of transformers.

    Returns:
        The attended values, shape [rows, queries, heads, width]; and None in place of the weights.
    """
    # What is known of these keys and values.
    together = _TOGETHER.get()
    layer = together.layer(module, key, value) if together is not None else None
    plain = kwargs.get("position_bias") is None and not kwargs.get("dropout")
    if together is not None:
        causal = plain and attention_mask is None and kwargs.get("is_causal") is not False
        together.reached.append(module.layer_idx if layer is not None and causal else None)
    # Left to transformers: whatever is not one new token, or has nothing that could be read together.
    rows, heads, queries, width = query.shape
    prompt = None if layer is None else layer.prompt
    plain = plain and queries == 1 and (attention_mask is None or attention_mask.shape[1] == 1)
    if prompt is None and (together is None or not plain or heads == key.shape[1]):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if not plain:
        raise RuntimeError(f"{type(module).__name__}: attends in a way that it did not attend to the prompt")
    # Query heads that share keys and values, and rows that share a prompt, read them together.
    grouped = query.reshape(rows, key.shape[1], -1, width)
    if prompt is None:
        out = torch.nn.functional.scaled_dot_product_attention(
            grouped, key, value, attn_mask=attention_mask, scale=scaling
        )
    else:
        out = _beside_prompt(grouped, prompt, (key, value), attention_mask, scaling)
    return out.reshape(rows, 1, heads, -1), None


def _beside_prompt(
    query: torch.Tensor, prompt: State, own: State, attention_mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """Attend to one prompt that all rows have and to the own tokens of each row.

    Args:
        query: Shape [rows, key heads, group, width].
        prompt: Keys and values of one row.
        own: Keys and values of all rows.
        attention_mask: As in `shared_attention`.
        scaling: As in `shared_attention`.

    Returns:
        Shape [rows, key heads, group, width of a value].
    """
    rows, heads, group, width = query.shape

    def by_head(one: torch.Tensor) -> torch.Tensor:  # all rows' queries of a head beside each other: one product
        return one.transpose(0, 1).reshape(heads, rows * group, -1)

    def by_row(one: torch.Tensor) -> torch.Tensor:
        return one.view(heads, rows, group, -1).transpose(0, 1)

    query = query * (width**-0.5 if scaling is None else scaling)
    to_prompt = by_row(by_head(query) @ prompt[0][0].transpose(1, 2))
    scores = torch.cat([to_prompt, query @ own[0].transpose(2, 3)], dim=-1)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    weights = scores.softmax(dim=-1)
    split = to_prompt.shape[-1]
    return by_row(by_head(weights[..., :split]) @ prompt[1][0]) + weights[..., split:] @ own[1]


@contextlib.contextmanager
def attend_together(cache: DynamicCache) -> Iterator[Together]:
    """Have models that use the SDPA of transformers use `shared_attention` within a context.

    Args:
        cache: The cache of the batch that is sampled in this context.

    Yields:
        What becomes known of its attention.
    """
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    together = Together(cache)
    token = _TOGETHER.set(together)
    ALL_ATTENTION_FUNCTIONS["sdpa"] = shared_attention
    try:
        yield together
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = before
        _TOGETHER.reset(token)
