"""Attention of one new token, for sampling: query heads that share keys and values read them together.

transformers' SDPA copies keys and values once for each query head that shares them wherever there is a mask, as there is beside
prompts of different lengths, and does so for every token: most of the time of sampling. As more queries of the head that they
share, the same numbers need no copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "prmbench_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' SDPA, to rounding.

    Args:
        query: shape [rows, heads, queries, width]. key, value: shape [rows, key heads, length, width].
        attention_mask: shape [rows or 1, 1 or heads, queries, length] or None.

    Returns:
        shape [rows, queries, heads, width], and None.
    """
    rows, heads, queries, width = query.shape
    shared = key.shape[1]
    per_head = attention_mask is not None and attention_mask.shape[1] != 1
    if queries != 1 or heads == shared or per_head or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    together = query.reshape(rows, shared, heads // shared, width)
    out = torch.nn.functional.scaled_dot_product_attention(
        together, key, value, attn_mask=attention_mask, scale=scaling
    )
    return out.reshape(rows, 1, heads, -1), None


AttentionInterface.register(_NAME, grouped_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@contextlib.contextmanager
def attend_in_groups(trunk: PreTrainedModel) -> Iterator[None]:
    """Within this context a decoder uses `grouped_attention`, where it uses transformers' SDPA otherwise."""
    if trunk.config._attn_implementation != "sdpa" or not trunk._supports_attention_backend:
        yield
        return
    trunk.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        trunk.set_attn_implementation("sdpa")
