"""True prefix values: how often the policy reaches the right answer from a prefix, by continuing it many times."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import Rollout
from prmbench.engines.batching import plan_batches
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.miniature.build import MAX_NEW_TOKENS, PROMPT
from prmbench.policies.continuations import continue_and_judge
from prmbench.policies.policy import Policy
from prmbench.verify import Verifier

N_PREFIXED = 200
PREFIXES_EACH = 4
CONTINUATIONS = 32
PREFIX_SIZES = [N_PREFIXED, PREFIXES_EACH, CONTINUATIONS]
BATCH_TOKENS = 32_768


@dataclass(frozen=True)
class PrefixValue:
    """A prefix of a rollout and its true value.

    Attributes:
        rollout: Index of the rollout.
        t: Number of response tokens in the prefix, at least 1. The end of turn is never among them.
        right: Number of continuations that ended right.
        n: Number of continuations.
    """

    rollout: int
    t: int
    right: int
    n: int

    @property
    def share(self) -> float:
        """The estimate of the value, unbiased."""
        return self.right / self.n


@dataclass(frozen=True)
class Beginning:
    """The start of a solution, to be continued.

    Attributes:
        prompt: Token ids of the prompt. int64, shape [prompt].
        start: Token ids of the solution so far, at least one. int64, shape [start].
        answer: The right answer.
        key: What it is called; its continuations are drawn by this name.
    """

    prompt: NDArray[np.int64]
    start: NDArray[np.int64]
    answer: str
    key: str


def count_right(policy: Policy, prefixes: Sequence[Beginning], seed: int) -> NDArray[np.int64]:
    """Continue prefixes and count the continuations that end right.

    The policy continues at temperature 1, as it sampled, and the verifier judges a prefix and its continuation together. A
    continuation that is cut off is wrong.

    Args:
        policy: Who goes on.
        prefixes: Prefixes of solutions.
        seed: Seed of the continuations.

    Returns:
        Right ones of `CONTINUATIONS` continuations each. Shape [prefixes].
    """
    requests = [
        Request(np.concatenate([one.prompt, one.start]), one.key, k) for one in prefixes for k in range(CONTINUATIONS)
    ]
    params, style = SamplingParams(max_new_tokens=MAX_NEW_TOKENS), find_prompt(PROMPT).style
    right = np.zeros(len(requests), dtype=np.int64)
    with Verifier() as verifier:
        for batch in plan_batches([len(r.prompt) + MAX_NEW_TOKENS for r in requests], BATCH_TOKENS):
            of = [prefixes[j // CONTINUATIONS] for j in batch]
            starts, answers = [one.start for one in of], [one.answer for one in of]
            _, right[batch] = continue_and_judge(
                policy,
                [requests[j] for j in batch],
                starts,
                answers,
                params=params,
                seed=seed,
                verifier=verifier,
                style=style,
            )
    return right.reshape(-1, CONTINUATIONS).sum(axis=1)


def sample_prefix_values(policy: Policy, rollouts: Sequence[Rollout], *, seed: int, name: str) -> list[PrefixValue]:
    """Draw prefixes of rollouts and estimate the value of each.

    At most one rollout of a problem is taken.

    Args:
        policy: The policy that sampled the rollouts.
        rollouts: Rollouts to take prefixes of.
        seed: Seed of the draw and of the continuations.
        name: Name of the set of rollouts; another name draws other prefixes.

    Returns:
        `N_PREFIXED` times `PREFIXES_EACH` prefixes; fewer where the rollouts run out.
    """
    rng = random.Random(f"prefixes-{seed}-{name}")
    firsts = [i for i, r in enumerate(rollouts) if r.sample == 0 and len(r.ids) > PREFIXES_EACH]
    drawn = [
        (i, t)
        for i in rng.sample(firsts, min(N_PREFIXED, len(firsts)))
        for t in sorted(rng.sample(range(1, len(rollouts[i].ids)), PREFIXES_EACH))
    ]
    template = find_prompt(PROMPT)
    prompts = {i: policy.encoder.prompt_ids(template.render(rollouts[i].problem)) for i, _ in drawn}
    prefixes = [
        Beginning(prompts[i], rollouts[i].ids[:t], rollouts[i].answer, f"{rollouts[i].id}:{t}") for i, t in drawn
    ]
    right = count_right(policy, prefixes, seed)
    return [PrefixValue(i, t, int(n), CONTINUATIONS) for (i, t), n in zip(drawn, right, strict=True)]
