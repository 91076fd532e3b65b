"""Samples continuations of states and judges them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prmbench.data.prompts import PromptTemplate
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.policies.continuations import continue_and_judge
from prmbench.policies.policy import Policy
from prmbench.policies.state_counts import LabelOptions, StateCount
from prmbench.policies.states import State
from prmbench.stats.rollout_labels import decided
from prmbench.verify import Verdict, Verifier


@dataclass
class StateSampler:
    """Samples and judges continuations.

    Attributes:
        policy: What samples.
        template: How problems are put to it; also where answers are.
        options: How many continuations each state has, and when it is left.
        params: How tokens are chosen; ``max_new_tokens`` counts the state's own tokens too.
        seed: Seed of all random numbers.
        verifier: Judges answers.
    """

    policy: Policy
    template: PromptTemplate
    options: LabelOptions
    params: SamplingParams
    seed: int
    verifier: Verifier

    def count(self, states: Sequence[State]) -> list[StateCount]:
        """Count the right continuations of some states.

        Args:
            states: The states, each once.

        Returns:
            The counts, in their order.
        """
        # What is finished has a verdict; the others begin with nothing.
        k, options = self.options.k, self.options
        limit = self.policy.engine.max_length
        done = {s.key: self._finished(s) for s in states if s.whole is not None}
        open_ones = [s for s in states if s.whole is None]
        for state in open_ones:
            done[state.key] = StateCount(*state.key, 0, 0)

        # A state without room has no continuation; its continuations count as wrong.
        def room(state: State) -> int:
            left = self.params.max_new_tokens - len(state.ids)
            return left if limit is None else min(left, limit - len(state.prompt) - len(state.ids))

        for state in open_ones:
            if room(state) < 1:
                done[state.key] = StateCount(*state.key, 0, k, cut=k)
        # The others are sampled, in one round or in several after each of which some are decided.
        going = [s for s in open_ones if room(s) >= 1]
        edges = np.linspace(0, k, options.looks + 1).round().astype(int)
        for first, last in itertools.pairwise(edges.tolist()):
            if not going:
                break
            for state, more in zip(going, self._sample(going, range(first, last), room), strict=True):
                before = done[state.key]
                names = ("successes", "trials", "cut", "tokens")
                sums = {name: getattr(before, name) + getattr(more, name) for name in names}
                done[state.key] = StateCount(*state.key, **sums)
            if options.adaptive:
                counts = [done[s.key] for s in going]
                s, n = np.array([c.successes for c in counts]), np.array([c.trials for c in counts])
                over = decided(s, n, options.rule, options.limit, options.looks)
                going = [state for state, stop in zip(going, over, strict=True) if not stop]
        return [done[state.key] for state in states]

    def _finished(self, state: State) -> StateCount:
        assert state.whole is not None
        (verdict,) = self.verifier.verify([state.whole], [state.problem.answer], style=self.template.style)
        return StateCount(*state.key, self.options.k * (verdict == Verdict.CORRECT), self.options.k)

    def _sample(self, states: Sequence[State], samples: range, room: Callable[[State], int]) -> list[StateCount]:
        """Sample continuations of some states; those of one state share its prefix."""
        requests = [
            Request(np.concatenate([s.prompt, s.ids]), ":".join(s.key), k, room(s)) for s in states for k in samples
        ]
        of = [s for s in states for _ in samples]
        completions, right = continue_and_judge(
            self.policy,
            requests,
            [s.ids for s in of],
            [s.problem.answer for s in of],
            params=self.params,
            seed=self.seed,
            verifier=self.verifier,
            style=self.template.style,
        )
        n, found = len(samples), []
        for i, state in enumerate(states):
            mine = slice(i * n, (i + 1) * n)
            cut = sum(one.finish_reason != "stop" for one in completions[mine])
            tokens = sum(len(one.ids) for one in completions[mine])
            found.append(StateCount(*state.key, int(right[mine].sum()), n, cut, tokens))
        return found
