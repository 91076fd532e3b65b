"""Texts that a critic or a judge writes about a trace."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.engines.sampling import Request, SamplingParams
from prmbench.engines.types import Engine
from prmbench.reward_models.card import Generation

Ids = NDArray[np.int64]


def room_for(prompt: int, limit: int | None, generation: Generation, *, after: int = 0) -> int:
    """Tokens that a text may have: as asked, or up to the model's positions; at least 1 (a prompt that leaves none is too long).

    Args:
        prompt: its tokens. limit: the model's positions. after: tokens that follow the text.
    """
    if limit is None:
        return generation.max_new_tokens
    return max(1, min(generation.max_new_tokens, limit - prompt - after))


def write(
    engine: Engine,
    prompts: Sequence[Ids],
    rooms: Sequence[int],
    stop: frozenset[int],
    generation: Generation,
    sample: int,
) -> list[Ids]:
    """One text for each prompt; random numbers depend on the prompt, the seed and the sample's number, nothing else.

    Args:
        rooms: tokens each may have (`room_for`). stop: token ids that end one.

    Returns:
        Token ids of each, without the token that ended it.
    """
    params = SamplingParams(
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
        max_new_tokens=generation.max_new_tokens,
    )
    requests = [
        Request(ids, hashlib.sha256(ids.tobytes()).hexdigest(), sample, room)
        for ids, room in zip(prompts, rooms, strict=True)
    ]
    found = engine.generate(requests, stop, params, generation.seed)
    return [one.ids[:-1] if one.finish_reason == "stop" else one.ids for one in found]
