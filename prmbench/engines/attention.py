"""Attention of one new token, for sampling: what several queries share is read once.

- Query heads that share keys and values read them together. transformers' SDPA copies both for each query head wherever there is
  a mask, as there is beside prompts of different lengths, and does so for every token: most of the time of sampling.
- Completions of one prompt read its keys and values together: they stand in the cache once (`GrowingLayer.prompt`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from prmbench.engines.kv_cache import GrowingLayer, State

_NAME = "prmbench_shared"
_CACHE: ContextVar[DynamicCache | None] = ContextVar("cache", default=None)


def shared_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers' SDPA gives, to rounding.

    Args:
        query: shape [rows, heads, queries, width]. key, value: shape [rows, key heads, length, width].
        attention_mask: bool, shape [rows or 1, 1 or heads, queries, length] or None.

    Returns:
        shape [rows, queries, heads, width], and None.
    """
    rows, heads, queries, width = query.shape
    cache = _CACHE.get()
    prompt = getattr(cache.layers[module.layer_idx], "prompt", None) if cache is not None else None
    per_head = attention_mask is not None and attention_mask.shape[1] != 1
    together = queries == 1 and not per_head and kwargs.get("position_bias") is None
    if prompt is None and (not together or heads == key.shape[1]):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if not together:
        raise RuntimeError(f"{type(module).__name__}: attends in a way that a shared prompt was not made for")
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
    """Attention to one prompt that all rows have, then to each row's own tokens.

    Args:
        query: shape [rows, key heads, group, width]. prompt: keys and values of one row. own: of all rows.

    Returns:
        shape [rows, key heads, group, width of a value].
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
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    split = to_prompt.shape[-1]
    return by_row(by_head(weights[..., :split]) @ prompt[1][0]) + weights[..., split:] @ own[1]


AttentionInterface.register(_NAME, shared_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@contextlib.contextmanager
def attend_together(trunk: PreTrainedModel, cache: DynamicCache) -> Iterator[bool]:
    """Within this context a decoder uses `shared_attention`, where it uses transformers' SDPA otherwise.

    Yields:
        whether a prompt may be shared: if so, and if each layer of the cache belongs to the attention of one of the decoder's.
    """
    if trunk.config._attn_implementation != "sdpa" or not trunk._supports_attention_backend:
        yield False
        return
    indices = [module.layer_idx for module in trunk.modules() if hasattr(module, "num_key_value_groups")]
    plain = all(type(layer) is GrowingLayer for layer in cache.layers)
    trunk.set_attn_implementation(_NAME)
    token = _CACHE.set(cache)
    try:
        yield plain and indices == list(range(len(cache.layers)))
    finally:
        _CACHE.reset(token)
        trunk.set_attn_implementation("sdpa")
