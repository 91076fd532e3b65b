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
    """Say how many tokens a text may have: as many as asked for, but none past the positions of the model.

    Args:
        prompt: Number of tokens of the prompt.
        limit: Number of positions of the model; None where it is not known.
        generation: How texts are sampled.
        after: Number of tokens that follow the text.

    Returns:
        The number of tokens, at least 1. A prompt that leaves no room is thereby longer than the model allows.
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
    """Write one text after each prompt. Random numbers depend on the prompt, the seed and the sample, and on nothing else.

    Args:
        engine: The engine that writes.
        prompts: Token ids of the prompts, each int64, shape [length].
        rooms: Number of tokens that each text may have, from `room_for`.
        stop: Token ids that end a text.
        generation: How texts are sampled.
        sample: Number of this sample among those of one prompt, from 0.

    Returns:
        Token ids of each text, without the token that ended it.
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
