"""True prefix values: the policy's own chance of a right answer from a prefix, by continuing it many times."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import Rollout
from prmbench.data.verdicts import Verdict
from prmbench.engines.batching import plan_batches
from prmbench.engines.hf.generate import generate
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.miniature.build import MAX_NEW_TOKENS, PROMPT, Build
from prmbench.policies.policy import load_policy
from prmbench.results.store import write_atomically
from prmbench.verify import Verifier

N_ROLLOUTS = 200
PER_ROLLOUT = 4
CONTINUATIONS = 32
BATCH_TOKENS = 32_768


@dataclass(frozen=True)
class PrefixTruth:
    """A prefix and its true value.

    Attributes:
        rollout: index among the rollouts. t: response tokens in the prefix, at least 1, the end of turn not among them.
        right, n: continuations that ended right, of how many.
    """

    rollout: int
    t: int
    right: int
    n: int

    @property
    def share(self) -> float:
        """The estimate of the value, unbiased."""
        return self.right / self.n


def prefix_truth(build: Build, policy: Path, rollouts: Sequence[Rollout], name: str) -> list[PrefixTruth]:
    """Draw prefixes of rollouts, one rollout a problem at most, and estimate the value of each; once, then they are read.

    The policy continues at temperature 1, as it sampled; the verifier judges the prefix and its continuation together.

    Args:
        name: of the set of rollouts, for the file.
    """
    place = build.folder() / f"prefixes-{name}-{N_ROLLOUTS}x{PER_ROLLOUT}x{CONTINUATIONS}.json"
    if place.exists():
        return [PrefixTruth(**fields) for fields in json.loads(place.read_text(encoding="utf-8"))]
    rng = random.Random(f"prefixes-{build.seed}-{name}")
    firsts = [i for i, r in enumerate(rollouts) if r.sample == 0 and len(r.ids) > PER_ROLLOUT]
    drawn = [
        (i, t)
        for i in rng.sample(firsts, min(N_ROLLOUTS, len(firsts)))
        for t in sorted(rng.sample(range(1, len(rollouts[i].ids)), PER_ROLLOUT))
    ]
    template = find_prompt(PROMPT)
    model = load_policy(str(policy), template)
    prompts = {i: model.encoder.prompt_ids(template.render(rollouts[i].problem)) for i, _ in drawn}
    requests = [
        Request(np.concatenate([prompts[i], rollouts[i].ids[:t]]), f"{rollouts[i].id}:{t}", k)
        for i, t in drawn
        for k in range(CONTINUATIONS)
    ]
    params = SamplingParams(max_new_tokens=MAX_NEW_TOKENS)
    right = np.zeros(len(drawn), dtype=np.int64)
    with Verifier() as verifier:
        for batch in plan_batches([len(r.prompt) + MAX_NEW_TOKENS for r in requests], BATCH_TOKENS):
            found = generate(model.engine, [requests[j] for j in batch], model.stop, params, build.seed)
            of = [drawn[j // CONTINUATIONS] for j in batch]
            texts = [
                model.encoder.tokenizer.decode(np.concatenate([rollouts[i].ids[:t], one.ids]), skip_special_tokens=True)
                for (i, t), one in zip(of, found, strict=True)
            ]
            verdicts = verifier.verify(texts, [rollouts[i].answer for i, _ in of], style=template.style)
            for j, verdict, one in zip(batch, verdicts, found, strict=True):
                right[j // CONTINUATIONS] += verdict == Verdict.CORRECT and one.finish_reason == "stop"
    truth = [PrefixTruth(i, t, int(n), CONTINUATIONS) for (i, t), n in zip(drawn, right, strict=True)]
    write_atomically(place, json.dumps([asdict(one) for one in truth]) + "\n")
    return truth
