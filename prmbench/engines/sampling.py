"""Sampling parameters, and choosing a token from logits with a given uniform number."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class SamplingParams(BaseModel):
    """How completions are sampled; part of what makes two policy entries comparable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(1.0, ge=0, description="0: greedy")
    top_p: float = Field(
        1.0, gt=0, le=1, description="keep the smallest set of likeliest tokens with at least this mass"
    )
    top_k: int = Field(0, ge=0, description="keep this many likeliest tokens; 0: all")
    max_new_tokens: int = Field(2048, ge=1, description="a completion cut here is truncated, which counts as wrong")


def uniforms(seed: int, key: str, sample: int, size: int) -> NDArray[np.float64]:
    """The random numbers of one completion: of the seed, the problem's id and the sample's number, nothing else.

    So a completion does not depend on what else is in its batch, on the batch size or on an interruption.

    Returns:
        float64, shape [size], in [0, 1).
    """
    return np.random.default_rng([seed, zlib.crc32(key.encode()), sample]).random(size)


def choose(logits: torch.Tensor, uniform: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Pick one token a row by inverting the cumulative distribution at the row's uniform number.

    Args:
        logits: float32, shape [rows, vocabulary].
        uniform: float64, shape [rows], in [0, 1).

    Returns:
        int64, shape [rows].
    """
    if params.temperature == 0:
        return logits.argmax(dim=-1)
    probs = torch.softmax(logits.double() / params.temperature, dim=-1)
    if params.top_k or params.top_p < 1:
        ranked, order = probs.sort(dim=-1, descending=True, stable=True)
        keep = torch.ones_like(ranked, dtype=torch.bool)
        if params.top_k:
            keep[:, params.top_k :] = False
        if params.top_p < 1:
            keep &= ranked.cumsum(dim=-1) - ranked < params.top_p
        probs = torch.zeros_like(probs).scatter(-1, order, ranked * keep)
    cumulative = probs.cumsum(dim=-1)
    target = uniform[:, None].to(cumulative) * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Rounding may put the target at the very end: the last token with any probability.
    last = probs.shape[-1] - 1 - (probs.flip(-1) > 0).to(torch.uint8).argmax(dim=-1)
    return torch.minimum(chosen, last)
