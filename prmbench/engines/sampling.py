"""What is asked of sampling, and what comes back: parameters, requests, random numbers, completions. Needs no torch."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]


class SamplingParams(BaseModel):
    """How completions are sampled; part of what makes two policy entries comparable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(1.0, ge=0, allow_inf_nan=False, description="0: greedy")
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


@dataclass(frozen=True)
class Request:
    """One completion to sample.

    Attributes:
        prompt: int64 token ids. key, sample: with the seed, what its random numbers depend on.
        room: tokens it may have at most, where that is less than the parameters say.
        forced: the completion's first token, where it is given; only the rest is sampled. Requests that differ in it alone share
            their prompt's computation.
    """

    prompt: NDArray[np.int64]
    key: str
    sample: int
    room: int | None = None
    forced: int | None = None

    def limit(self, max_new_tokens: int, max_length: int | None) -> int:
        """Tokens it may have: as the parameters say, its own room, and the model's positions after the prompt."""
        limits = [max_new_tokens, self.room, max_length and max_length - len(self.prompt)]
        return min(limit for limit in limits if limit is not None)


@dataclass(frozen=True)
class Completion:
    """Sampled token ids, the end-of-turn token included (int64), and why sampling stopped."""

    ids: NDArray[np.int64]
    finish_reason: FinishReason
