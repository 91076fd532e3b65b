"""Growing paths with a policy: on the hf engine from what is kept of each prefix, on others from its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prmbench.engines.hf.engine import HFEngine
from prmbench.engines.hf.grow import Continuation, grow
from prmbench.engines.hf.prefix_store import PrefixStore
from prmbench.engines.sampling import Completion, Request, SamplingParams
from prmbench.policies.policy import Policy
from prmbench.search.compute import shape_of
from prmbench.search.paths import Cost, End, Growth, Path, Task
from prmbench.search.step_ends import StepEnds

OFFSET = 1 << 20
"""Streams of an engine with random numbers of its own are named by stream and position: stream times this, plus the position."""


class PolicySampler:
    """Grows paths with a policy. See `prmbench.search.paths.Sampler`.

    On the hf engine a token at position t of its response is chosen with number t of its stream, as in plain sampling. Keys and
    values of all prefixes are kept (`PrefixStore`). Other engines are asked for a part of a response at a time, each with random
    numbers of its own, and keep what they keep.

    Attributes:
        policy: The policy.
        ends: Where steps end.
        params: How tokens are chosen; its limit is of a whole response.
        seed: Seed of all random numbers.
        store: What the policy's decoder knows of prefixes; None: the engine keeps it by itself, or nothing is kept.
        shape: What a forward pass costs; None: it is not known.
    """

    def __init__(self, policy: Policy, ends: StepEnds, params: SamplingParams, seed: int) -> None:
        """Start with nothing sampled.

        Args:
            policy: The policy.
            ends: Where steps end.
            params: How tokens are chosen.
            seed: Seed of all random numbers.
        """
        self.policy, self.ends, self.params, self.seed = policy, ends, params, seed
        engine = policy.engine
        self.store = PrefixStore(engine.trunk, engine.device) if isinstance(engine, HFEngine) else None
        self.shape = shape_of(engine)

    def begin(self, task: Task) -> Cost:
        """Say what the prompt costs.

        Args:
            task: The search.
        """
        return Cost(policy_flops=self._flops(0, len(task.prompt), 1))

    def grow(self, wanted: Sequence[tuple[Task, Growth]]) -> list[tuple[Path, Cost]]:
        """Sample one more step of each path, or the rest of it.

        Args:
            wanted: The searches and what each wants.
        """
        if not wanted:
            return []
        asked = [self._continuation(task, growth) for task, growth in wanted]
        parts = self._grow_kept(asked) or self._grow_anew(asked)
        again = self.store is not None and not self.store.works  # each part ran with all that comes before it
        grown, parents = [], set[tuple[int, bytes]]()
        for (task, growth), part in zip(wanted, parts, strict=True):
            parent = growth.parent
            ids = np.concatenate([parent.ids, part.ids])
            end: End | None = "length" if len(ids) >= self._room(task) else None
            end = "stop" if part.finish_reason == "stop" else end
            path = Path(ids, (*parent.ends, len(ids)), growth.stream, end)
            # The last token of a parent runs once for all of its continuations, and the last one sampled does not run.
            at = len(task.prompt) + len(parent.ids)
            new = len(part.ids) - 1
            flops = self._flops(0 if again else at, at + new, new)
            if len(parent.ids) and not again and (id(task), parent.key) not in parents:
                parents.add((id(task), parent.key))
                flops += self._flops(at - 1, at, 1)
            grown.append((path, Cost(sampled=len(part.ids), policy_flops=flops)))
        return grown

    def keep(self, live: Sequence[tuple[Task, Path]]) -> None:
        """Forget the state of all paths but some.

        Args:
            live: The paths that may still grow.
        """
        if self.store is not None:
            self.store.keep([np.concatenate([task.prompt, path.ids]) for task, path in live])

    def _room(self, task: Task) -> int:
        """Most tokens of a response."""
        return Request(task.prompt, task.key, 0).limit(self.params.max_new_tokens, self.policy.engine.max_length)

    def _flops(self, start: int, end: int, logits: int) -> float:
        return math.nan if self.shape is None else self.shape.forward(start, end, logits)

    def _continuation(self, task: Task, growth: Growth) -> Continuation:
        parent = growth.parent
        return Continuation(
            np.concatenate([task.prompt, parent.ids]),
            task.key,
            growth.stream,
            len(parent.ids),
            self._room(task) - len(parent.ids),
            None if growth.whole else self.ends.ended,
        )

    def _grow_kept(self, asked: Sequence[Continuation]) -> list[Completion] | None:
        """Sample after what is kept of each prefix; None where nothing can be kept."""
        engine = self.policy.engine
        if self.store is None or not self.store.works or not isinstance(engine, HFEngine):
            return None
        return grow(engine, self.store, asked, self.policy.stop, self.params, self.seed)

    def _grow_anew(self, asked: Sequence[Continuation]) -> list[Completion]:
        """Ask for the tokens up to one that a marker may end in, and go on where it has not ended the step."""
        may_end = frozenset(self.ends.ending.tolist()) if any(one.ended for one in asked) else frozenset()
        written: list[list[int]] = [[] for _ in asked]
        stopped = [False] * len(asked)
        left = list(range(len(asked)))
        while left:
            for whole in (False, True):
                rows = [row for row in left if (asked[row].ended is None) == whole]
                if not rows:
                    continue
                requests = [self._request(asked[row], written[row]) for row in rows]
                stop = self.policy.stop if whole else self.policy.stop | may_end
                for row, part in zip(
                    rows, self.policy.engine.generate(requests, stop, self.params, self.seed), strict=True
                ):
                    written[row] += part.ids.tolist()
                    stopped[row] = written[row][-1] in self.policy.stop
            left = [row for row in left if not stopped[row] and not self._done(asked[row], written[row])]
        return [
            Completion(np.array(ids, dtype=np.int64), "stop" if done else "length")
            for ids, done in zip(written, stopped, strict=True)
        ]

    def _request(self, one: Continuation, written: Sequence[int]) -> Request:
        at = one.offset + len(written)
        room = one.room - len(written)
        if one.ended is not None and self.ends.longest:
            room = min(room, self.ends.longest - len(written))
        sample = one.sample if not at else one.sample * OFFSET + at
        return Request(np.concatenate([one.ids, np.array(written, dtype=np.int64)]), one.key, sample, room)

    def _done(self, one: Continuation, written: list[int]) -> bool:
        return len(written) >= one.room or (one.ended is not None and one.ended(written))
