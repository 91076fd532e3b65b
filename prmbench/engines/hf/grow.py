"""Sampling a part of a response after a prefix whose state is kept: a step, or all that is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.engines.hf.attention import attend_together
from prmbench.engines.hf.generate import COMPACT, check_cached
from prmbench.engines.hf.prefix_store import PrefixStore, stacked
from prmbench.engines.hf.token_choice import choose
from prmbench.engines.sampling import Completion, SamplingParams, uniforms
from prmbench.errors import UserError

if TYPE_CHECKING:
    from prmbench.engines.hf.engine import HFEngine

Ended = Callable[[list[int]], bool]
"""Whether the tokens that were sampled end a step."""


@dataclass(frozen=True, eq=False)
class Continuation:
    """A part of a response that is to be sampled.

    Attributes:
        ids: Token ids so far, prompt and response. int64, shape [p + t].
        key: Id that its random numbers depend on.
        sample: Number of the stream that they depend on too.
        offset: How many numbers of the stream are passed over: tokens of the response so far.
        room: Most tokens of this part.
        ended: Whether what was sampled ends a step; None: it goes on to the end of the response.
    """

    ids: NDArray[np.int64]
    key: str
    sample: int
    offset: int
    room: int
    ended: Ended | None = None


@torch.inference_mode()
def grow(
    engine: HFEngine,
    store: PrefixStore,
    wanted: Sequence[Continuation],
    stop: frozenset[int],
    params: SamplingParams,
    seed: int,
) -> list[Completion] | None:
    """Sample parts of responses, as one batch. Prefixes that several share are run once, and no prefix is run twice.

    Args:
        engine: The engine.
        store: What its decoder knows of prefixes; it must work.
        wanted: The parts.
        stop: Token ids that end a response.
        params: How tokens are chosen.
        seed: Seed of all random numbers. A token at position t of its response is chosen with number t of its stream, as
            `prmbench.engines.hf.generate.generate` does.

    Returns:
        The parts, each with how it ended: ``stop`` where a token of `stop` ended the response, else ``length``. None where the
        state of prefixes turns out not to be kept.

    Raises:
        UserError: The logits are not finite, or with the cache they are not those of the whole sequence.
    """
    device = engine.device
    room = max(one.room for one in wanted)
    noise = np.zeros((len(wanted), room))
    for row, one in enumerate(wanted):
        noise[row, : one.room] = uniforms(seed, one.key, one.sample, one.offset + one.room)[one.offset :]
    numbers = torch.from_numpy(noise).to(device)
    stops = torch.tensor(sorted(stop), device=device)

    # The last state of every different prefix; what has not run of it runs now.
    prefixes = {one.ids.tobytes(): one.ids for one in wanted}
    places = {key: place for place, key in enumerate(prefixes)}
    distinct = list(prefixes.values())
    which = [places[one.ids.tobytes()] for one in wanted]
    last = store.states(distinct, [np.array([len(ids) - 1]) for ids in distinct])
    if not store.works:
        return None
    states = last[torch.tensor(which, device=device)]

    written: list[list[int]] = [[] for _ in wanted]
    stopped = [False] * len(wanted)
    hidden: list[list[torch.Tensor]] = [[] for _ in wanted]
    alive = list(range(len(wanted)))
    going = [True] * len(wanted)

    def token(t: int) -> list[int]:
        """Choose the next token of every row, and see which rows are done."""
        try:
            chosen = choose(engine.logits(states), numbers[torch.tensor(alive, device=device), t], params)
        except FloatingPointError as error:
            raise UserError(f"{engine.source}: {error}; its weights or its number type do not hold") from None
        found: list[int] = chosen.tolist()
        ends = torch.isin(chosen, stops).tolist()
        for place, row in enumerate(alive):
            if going[place]:
                one, mine = wanted[row], written[row]
                mine.append(found[place])
                stopped[row] = ends[place]
                done = ends[place] or len(mine) >= one.room or (one.ended is not None and one.ended(mine))
                going[place] = not done
        return found

    def put_away(ended: Sequence[int], longest: int) -> None:
        """Keep the state of rows whose step is sampled: of all its tokens but the last, which has not run."""
        places = [place for place in ended if wanted[alive[place]].ended is not None and not stopped[alive[place]]]
        pairs = stacked(cache, longest, places) if places else None
        for i, place in enumerate(places):
            row = alive[place]
            mine, one = written[row][:-1], wanted[row]
            ids = np.concatenate([one.ids, np.array(mine, dtype=np.int64)])
            assert pairs is not None
            store.add(ids, len(one.ids), pairs[:, :, i, :, : len(mine)], torch.stack(hidden[row][: len(mine)]))

    chosen = token(0)
    rest = [place for place, goes in enumerate(going) if goes]
    if rest:
        # Rows that go on: their prefixes side by side, then one token after the other.
        alive, chosen, going = [alive[i] for i in rest], [chosen[i] for i in rest], [True] * len(rest)
        cache, mask = store.cache_of([store.find(wanted[row].ids) for row in alive])
        longest = mask.shape[1]
        padded = bool((mask == 0).any())
        with attend_together(cache):
            for t in range(1, room):
                positions = torch.tensor([[len(wanted[row].ids) + t - 1] for row in alive], device=device)
                mask = torch.cat([mask, mask.new_ones((len(alive), 1))], dim=1)
                states = engine.trunk(
                    input_ids=torch.tensor(chosen, device=device)[:, None],
                    attention_mask=mask if padded else None,
                    position_ids=positions,
                    use_cache=True,
                    **{store.argument: cache},
                ).last_hidden_state[:, -1]
                # The first states that come from the cache are checked on the row that is shortest.
                if t == 1 and (way := (len(alive) > 1, padded, True, True)) not in engine.cached_ways:
                    place = min(range(len(alive)), key=lambda i: len(wanted[alive[i]].ids))
                    whole = [*wanted[alive[place]].ids.tolist(), *written[alive[place]]]
                    check_cached(engine, whole, engine.logits(states[place : place + 1])[0], len(alive))
                    store.checked_tokens += len(whole)
                    engine.cached_ways.add(way)
                store.tokens += sum(going)
                for place, row in enumerate(alive):
                    if going[place]:
                        hidden[row].append(states[place])
                was = list(going)
                chosen = token(t)
                ended = [place for place, goes in enumerate(going) if was[place] and not goes]
                put_away(ended, longest)
                rest = [place for place, goes in enumerate(going) if goes]
                if not rest:
                    break
                if len(rest) < COMPACT * len(alive):
                    cache.batch_select_indices(torch.tensor(rest, device=device))
                    alive, chosen, mask = [alive[i] for i in rest], [chosen[i] for i in rest], mask[rest]
                    going = [True] * len(rest)
    return [
        Completion(np.array(ids, dtype=np.int64), "stop" if done else "length")
        for ids, done in zip(written, stopped, strict=True)
    ]
