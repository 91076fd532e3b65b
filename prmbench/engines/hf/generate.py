"""Sampling completions with the Hugging Face engine: in batches, with a key-value cache, and a seed for each completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.engines.hf.attention import attend_together
from prmbench.engines.hf.kv_cache import cache_argument, growing_cache
from prmbench.engines.hf.token_choice import choose
from prmbench.engines.sampling import Completion, Request, SamplingParams, uniforms
from prmbench.errors import UserError, argument

if TYPE_CHECKING:
    from prmbench.engines.hf.engine import HFEngine

_LEAST_SPREAD = 0.1  # of logits; nearly all tokens are as likely as each other, whatever the rounding does
_OFF, _OFF_IN_HALF = 0.01, 0.3
"""Share of the spread of the logits that a cache may change. It is far above rounding (of half precision, where a router may choose
another expert), and far below what a state that is lost or of another row does."""

COMPACT = 0.75
"""Rows are dropped from the cache when fewer than this share of them go on: each drop copies the cache."""


def _distinct(prompts: Sequence[NDArray[np.int64]]) -> tuple[list[NDArray[np.int64]], list[int]]:
    """The different prompts in order of first appearance, and which of them each is."""
    found: dict[bytes, int] = {}
    which = [found.setdefault(prompt.tobytes(), len(found)) for prompt in prompts]
    return [prompts[which.index(k)] for k in range(len(found))], which


def check_cached(engine: HFEngine, ids: list[int], logits: torch.Tensor, rows: int) -> None:
    """Check that logits that come from the cache are those of the whole sequence run again, up to rounding.

    An architecture may ignore the cache that it is given, or what is padding in it, without a word.

    Args:
        engine: The engine.
        ids: Token ids of the sequence.
        logits: Logits after its last token. float32, shape [vocabulary].
        rows: Number of rows of its batch.
    """
    states = engine.trunk(input_ids=torch.tensor([ids], device=engine.device), use_cache=False).last_hidden_state
    whole = engine.logits(states[:, -1])[0]
    finite = whole.isfinite() & logits.isfinite()
    spread = whole[finite].std(unbiased=False).clamp(min=_LEAST_SPREAD)
    off = (logits[finite] - whole[finite]).std(unbiased=False) / spread
    types = {parameter.dtype for parameter in engine.trunk.parameters() if parameter.is_floating_point()}
    exact = types == {torch.float32} and not torch.is_autocast_enabled(engine.device.type)
    if off > (_OFF if exact else _OFF_IN_HALF):
        alone = f", or one sequence at a time ({argument('batch_tokens', 1)})" if rows > 1 else ""
        raise UserError(
            f"{engine.source}: a {engine.model.config.model_type} model; its logits come out {100 * float(off):.0f}% off when "
            f"earlier tokens are read from its cache, so its completions would be wrong; try {argument('engine', 'vllm')}{alone}"
        )


@torch.inference_mode()
def generate(
    engine: HFEngine, requests: Sequence[Request], stop: frozenset[int], params: SamplingParams, seed: int
) -> list[Completion]:
    """Sample one completion for each request, as one batch.

    A prompt that several requests share is run through the model once.

    Args:
        engine: The engine.
        requests: What is to be sampled. Prompts of similar length batch best.
        stop: Token ids that end a completion.
        params: How tokens are chosen.
        seed: Seed of all random numbers. See `prmbench.engines.sampling.uniforms`.

    Returns:
        Completions in the order of the requests. In float32 a completion depends on its batch only where the cumulative
        probabilities of two tokens are closer than rounding.

    Raises:
        UserError: The logits are not finite, or with the cache they are not those of the whole sequence. The second is looked at
            once for each way of batching.
        ValueError: A prompt leaves no room for a completion.
    """
    # How long each completion may be, its random numbers, and its first token where that is given.
    device = engine.device
    limits = [request.limit(params.max_new_tokens, engine.max_length) for request in requests]
    if min(limits) < 1:
        raise ValueError("a prompt leaves no room for a completion")
    room = max(limits)
    noise = torch.from_numpy(np.stack([uniforms(seed, r.key, r.sample, room) for r in requests])).to(device)
    forced = torch.tensor([-1 if r.forced is None else r.forced for r in requests], device=device)

    # The prompts, padded on the left; each once where the cache can be spread over several completions.
    argument_name = cache_argument(engine.trunk) or "past_key_values"
    cache = growing_cache(engine.model.config)
    selectable = all(hasattr(layer, "batch_select_indices") for layer in cache.layers)  # recurrent states are not
    prompts, which = _distinct([r.prompt for r in requests]) if selectable else ([r.prompt for r in requests], [])
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    expand = torch.tensor(which, device=device)
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    padded = bool((mask == 0).any())

    # The rows: which completion each is, and whether it goes on.
    alive = torch.arange(len(requests), device=device)
    going = torch.ones(len(requests), dtype=torch.bool, device=device)
    stops = torch.tensor(sorted(stop), device=device)
    last = torch.tensor(limits, device=device) - 1
    shared = False
    written: list[list[int]] = [[] for _ in requests]
    finished = [False] * len(requests)

    with attend_together(cache) as together:
        for t in range(room):
            states = engine.trunk(
                input_ids=ids,
                attention_mask=mask if padded else None,
                position_ids=positions,
                use_cache=True,
                **{argument_name: cache},
            ).last_hidden_state[:, -1]
            # A prompt has run once for all of its completions: from now on each has a row.
            if t == 0 and len(prompts) < len(requests):
                shared = len(prompts) == 1 and together.may_share()
                if shared:
                    for layer in cache.layers:
                        layer.share(len(requests))
                else:
                    cache.batch_select_indices(expand)
                states, positions, mask = states[expand], positions[expand], mask[expand]
            logits = engine.logits(states)
            # The first logits that come from the cache are checked on the row that is shortest.
            if t == 1 and (way := (len(requests) > 1, padded, shared)) not in engine.cached_ways:
                row = min(going.nonzero()[:, 0].tolist(), key=lambda i: len(requests[alive[i]].prompt))
                check_cached(engine, [*requests[alive[row]].prompt, *written[alive[row]]], logits[row], len(requests))
                engine.cached_ways.add(way)
            # A token for each row.
            try:
                token = choose(logits, noise[alive, t], params)
            except FloatingPointError as error:
                raise UserError(f"{engine.source}: {error}; its weights or its number type do not hold") from None
            if t == 0:
                token = torch.where(forced >= 0, forced, token)
            ends = torch.isin(token, stops)
            for row, value, end, live in zip(
                alive.tolist(), token.tolist(), ends.tolist(), going.tolist(), strict=True
            ):
                if live:
                    written[row].append(value)
                    finished[row] = end
            going &= ~ends & (last[alive] > t)
            n_going = int(going.sum())
            if n_going == 0:
                break
            # The next position; rows that have ended are dropped from the cache now and then.
            ids, positions = token[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=1)
            if selectable and n_going < COMPACT * len(going):
                kept = going.nonzero()[:, 0]
                cache.batch_select_indices(kept)
                ids, positions, mask, alive, going = ids[kept], positions[kept], mask[kept], alive[kept], going[kept]
    return [
        Completion(np.array(tokens, dtype=np.int64), "stop" if done else "length")
        for tokens, done in zip(written, finished, strict=True)
    ]
