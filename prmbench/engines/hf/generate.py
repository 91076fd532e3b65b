"""Sampling completions with the Hugging Face engine: batched, KV cache, finished rows dropped, a seed per completion."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.engines.hf.attention import attend_together
from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.hf.kv_cache import growing_cache
from prmbench.engines.hf.token_choice import choose
from prmbench.engines.sampling import Completion, Request, SamplingParams, uniforms
from prmbench.errors import UserError

_LEAST_SPREAD = 0.1  # of logits; nearly all tokens are as likely as each other, whatever the rounding does
_OFF, _OFF_IN_HALF = 0.01, 0.3
"""Of the logits' spread, that a cache may change: far above rounding (of half precision, where a router may choose another expert),
far below what a state that is lost or of another row does."""

_COMPACT = 0.75  # rows are dropped from the cache when fewer than this share are alive: each drop copies the cache


def _distinct(prompts: Sequence[NDArray[np.int64]]) -> tuple[list[NDArray[np.int64]], list[int]]:
    """The different prompts in order of first appearance, and which of them each is."""
    found: dict[bytes, int] = {}
    distinct: list[NDArray[np.int64]] = []
    which = []
    for prompt in prompts:
        key = prompt.tobytes()
        if key not in found:
            found[key] = len(distinct)
            distinct.append(prompt)
        which.append(found[key])
    return distinct, which


def _check_cached(engine: HFEngine, ids: list[int], logits: torch.Tensor, rows: int) -> None:
    """Whether logits that come from the cache are those of the whole sequence run again, but for rounding.

    An architecture may pass over the cache it is given, or over what is padding in it, without a word.

    Args:
        ids: the sequence. logits: float32, shape [vocabulary], after its last token. rows: of its batch.
    """
    states = engine.trunk(input_ids=torch.tensor([ids], device=engine.device), use_cache=False).last_hidden_state
    whole = engine.logits(states[:, -1])[0]
    finite = whole.isfinite() & logits.isfinite()
    spread = whole[finite].std(unbiased=False).clamp(min=_LEAST_SPREAD)
    off = (logits[finite] - whole[finite]).std(unbiased=False) / spread
    types = {parameter.dtype for parameter in engine.trunk.parameters() if parameter.is_floating_point()}
    exact = types == {torch.float32} and not torch.is_autocast_enabled(engine.device.type)
    if off > (_OFF if exact else _OFF_IN_HALF):
        alone = ", or one sequence at a time (--batch-tokens 1)" if rows > 1 else ""
        raise UserError(
            f"{engine.source}: a {engine.model.config.model_type} model; its logits come out {100 * float(off):.0f}% off when "
            f"earlier tokens are read from its cache, so its completions would be wrong; try --engine vllm{alone}"
        )


@torch.inference_mode()
def generate(
    engine: HFEngine, requests: Sequence[Request], stop: frozenset[int], params: SamplingParams, seed: int
) -> list[Completion]:
    """Sample one completion for each request, as one batch; a prompt that several requests share is run through the model once.

    Args:
        requests: prompts of similar length batch best.
        stop: token ids that end a completion.
        seed: of all random numbers; see `prmbench.engines.sampling.uniforms`.

    Raises:
        UserError: the model's logits are not finite, or with its cache are not those of the whole sequence (looked at once for
            each way of batching). ValueError: a prompt leaves no room.

    Returns:
        Completions in the order of the requests. In float32 a completion depends on its batch only where two tokens'
        cumulative probabilities are closer than rounding.
    """
    device = engine.device
    limits = [request.limit(params.max_new_tokens, engine.max_length) for request in requests]
    if min(limits) < 1:
        raise ValueError("a prompt leaves no room for a completion")
    room = max(limits)
    noise = torch.from_numpy(np.stack([uniforms(seed, r.key, r.sample, room) for r in requests])).to(device)
    forced = torch.tensor([-1 if r.forced is None else r.forced for r in requests], device=device)
    takes = inspect.signature(engine.trunk.forward).parameters
    argument = "cache_params" if "cache_params" in takes else "past_key_values"
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
                **{argument: cache},
            ).last_hidden_state[:, -1]
            if t == 0 and len(prompts) < len(requests):  # a prompt was run once for all of its completions
                shared = len(prompts) == 1 and together.may_share()
                if shared:
                    for layer in cache.layers:
                        layer.share(len(requests))
                else:
                    cache.batch_select_indices(expand)
                states, positions, mask = states[expand], positions[expand], mask[expand]
            logits = engine.logits(states)
            if t == 1 and (way := (len(requests) > 1, padded, shared)) not in engine.cached_ways:
                row = min(going.nonzero()[:, 0].tolist(), key=lambda i: len(requests[alive[i]].prompt))
                _check_cached(engine, [*requests[alive[row]].prompt, *written[alive[row]]], logits[row], len(requests))
                engine.cached_ways.add(way)
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
            ids, positions = token[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=1)
            if selectable and n_going < _COMPACT * len(going):
                kept = going.nonzero()[:, 0]
                cache.batch_select_indices(kept)
                ids, positions, mask, alive, going = ids[kept], positions[kept], mask[kept], alive[kept], going[kept]
    return [
        Completion(np.array(tokens, dtype=np.int64), "stop" if done else "length")
        for tokens, done in zip(written, finished, strict=True)
    ]
