"""True prefix values: how often the policy reaches the right answer from a prefix, by continuing it many times."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import Rollout
from prmbench.data.verdicts import Verdict
from prmbench.engines.batching import plan_batches
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.miniature.build import MAX_NEW_TOKENS, PROMPT
from prmbench.policies.policy import Policy
from prmbench.verify import Verifier

N_PREFIXED = 200
PREFIXES_EACH = 4
CONTINUATIONS = 32
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


def sample_prefix_values(policy: Policy, rollouts: Sequence[Rollout], *, seed: int, name: str) -> list[PrefixValue]:
    """Draw prefixes of rollouts and estimate the value of each.

    At most one rollout of a problem is taken. The policy continues at temperature 1, as it sampled, and the verifier judges the
    prefix and its continuation together.

    Args:
        policy: The policy that sampled the rollouts.
        rollouts: Rollouts to take prefixes of.
        seed: Seed of the draw and of the continuations.
        name: Name of the set of rollouts; another name draws other prefixes.

    Returns:
        `N_PREFIXED` times `PREFIXES_EACH` prefixes; fewer where the rollouts run out.
    """
    # Draw the prefixes.
    rng = random.Random(f"prefixes-{seed}-{name}")
    firsts = [i for i, r in enumerate(rollouts) if r.sample == 0 and len(r.ids) > PREFIXES_EACH]
    drawn = [
        (i, t)
        for i in rng.sample(firsts, min(N_PREFIXED, len(firsts)))
        for t in sorted(rng.sample(range(1, len(rollouts[i].ids)), PREFIXES_EACH))
    ]
    # Continue each of them.
    template = find_prompt(PROMPT)
    prompts = {i: policy.encoder.prompt_ids(template.render(rollouts[i].problem)) for i, _ in drawn}
    requests = [
        Request(np.concatenate([prompts[i], rollouts[i].ids[:t]]), f"{rollouts[i].id}:{t}", k)
        for i, t in drawn
        for k in range(CONTINUATIONS)
    ]
    params = SamplingParams(max_new_tokens=MAX_NEW_TOKENS)
    right = np.zeros(len(drawn), dtype=np.int64)
    with Verifier() as verifier:
        for batch in plan_batches([len(r.prompt) + MAX_NEW_TOKENS for r in requests], BATCH_TOKENS):
            found = policy.engine.generate([requests[j] for j in batch], policy.stop, params, seed)
            # Judge each with its prefix before it.
            of = [drawn[j // CONTINUATIONS] for j in batch]
            texts = [
                policy.encoder.tokenizer.decode(
                    np.concatenate([rollouts[i].ids[:t], one.ids]), skip_special_tokens=True
                )
                for (i, t), one in zip(of, found, strict=True)
            ]
            verdicts = verifier.verify(texts, [rollouts[i].answer for i, _ in of], style=template.style)
            for j, verdict, one in zip(batch, verdicts, found, strict=True):
                right[j // CONTINUATIONS] += verdict == Verdict.CORRECT and one.finish_reason == "stop"
    return [PrefixValue(i, t, int(n), CONTINUATIONS) for (i, t), n in zip(drawn, right, strict=True)]
