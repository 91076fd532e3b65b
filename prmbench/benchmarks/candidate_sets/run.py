"""Sample rollouts, and look at the policy's distribution at each of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from prmbench.benchmarks.base import Job, Plan, RunKeywords, Units
from prmbench.benchmarks.candidate_sets.benchmark import CANDIDATE_SETS, P_MINS, CandidateSetsOptions
from prmbench.benchmarks.candidate_sets.metrics import candidate_sums
from prmbench.benchmarks.candidate_sets.schema import RolloutCandidates
from prmbench.benchmarks.policy.run import subject_of
from prmbench.benchmarks.problem_data import Problems, sampling_rules
from prmbench.benchmarks.runner import Finished, evaluate_alone
from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import ids_hash
from prmbench.data.traces import data_hash
from prmbench.engines.batching import default_batch_tokens
from prmbench.engines.processes import Share
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import ArgumentError, UserError
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import rollout


def evaluate_candidate_sets(
    policy: Policy,
    sets: dict[str, list[Problem]],
    *,
    name: str,
    source: str,
    options: CandidateSetsOptions | None = None,
    params: SamplingParams | None = None,
    prompt: str = "boxed",
    **run: Unpack[RunKeywords],
) -> Finished:
    """Sample rollouts, measure their candidate sets, and leave the probe's entry; see `evaluate_alone`.

    Args:
        policy: The policy.
        sets: Problems by the set's name.
        name: The subject's name on tables.
        source: The checkpoint as the user named it.
        options: What is measured; None: the defaults.
        params: How to sample; None: at temperature 1, as in training.
        prompt: The name of the prompt template.
        **run: How it is run; see `RunKeywords`.
    """
    data = Problems(sets, prompt)
    job = Job(data=data, policy=policy, name=name, source=source, options=options, params=params, **run)
    return evaluate_alone(CANDIDATE_SETS, job)


def plan_candidate_sets(job: Job) -> Plan:
    """Plan the probe.

    Args:
        job: The evaluation; ``data`` are `Problems`.

    Raises:
        UserError: A P_min that is not between 0 and 1, or (once the rollouts are sampled) no rollout with a token.
    """
    policy, data = job.policy, job.data
    assert policy is not None
    # What is asked, and the prompts that it is asked of.
    options: CandidateSetsOptions = job.options
    p_mins = sorted(options.p_mins or P_MINS)
    if not all(0 < p < 1 for p in p_mins):
        raise ArgumentError("p_mins", " ".join(map(str, p_mins)), "expected probabilities between 0 and 1")
    params = job.params or SamplingParams()
    device, dtype = policy.engine.device_and_dtype()
    template = find_prompt(data.prompt)
    problems = {(subset, p.id): p for subset, ps in data.sets.items() for p in ps}
    prompts = {key: policy.encoder.prompt_ids(template.render(p.problem)) for key, p in problems.items()}

    # The units of work: the policy samples first, then each rollout is run through it once more.
    def units(folder: Path, share: Share) -> Units:
        # The completions, of all processes that share.
        rollouts = [
            (subset, one)
            for subset, mine in data.sets.items()
            for one in rollout(
                policy,
                mine,
                folder / "rollouts" / subset,
                prompt=data.prompt,
                n=options.n,
                params=params,
                seed=job.seed,
                batch_tokens=options.sampling_tokens,
                share=share,
            )
            if len(one.ids)
        ]
        if not rollouts:
            raise UserError(
                f"{policy.source}: no prompt leaves room for a completion; use a policy with more positions"
            )
        own = [prompts[subset, one.id] for subset, one in rollouts]
        ids = [np.concatenate([prompt, one.ids]) for prompt, (_, one) in zip(own, rollouts, strict=True)]
        keys = [(subset, f"{one.id}/{one.sample}") for subset, one in rollouts]

        # A unit: the distribution at every position of one completion, cut at each threshold.
        def work(indices: Sequence[int]) -> list[RolloutCandidates]:
            first = [len(own[i]) for i in indices]
            top = int(1 / p_mins[0])  # no more tokens can have so much each
            found = policy.engine.score([ids[i] for i in indices], first, frozenset({"topk"}), top=top)
            items = []
            for i, one in zip(indices, found, strict=True):
                subset, of = rollouts[i]
                assert one.topk_logprobs is not None
                sets = {str(p): candidate_sums(one.topk_logprobs, p) for p in p_mins}
                digest = problems[subset, of.id].digest()
                items.append(RolloutCandidates(subset, of.id, of.sample, digest, len(of.ids), sets))
            return items

        return Units(
            wanted={key: problems[subset, one.id].digest() for key, (subset, one) in zip(keys, rollouts, strict=True)},
            keys=[[key] for key in keys],
            lengths=[len(one) for one in ids],
            work=work,
            title="measuring",
        )

    return Plan(
        subject=subject_of(job, policy.hashed, policy.engine.facts()),
        encoder=policy.encoder,
        settings={
            "sampling_tokens": options.sampling_tokens,
            "data": data_hash(p.digest() for p in problems.values()),
            "tokens": ids_hash(prompts.values()),
        },
        rules={
            **sampling_rules(policy, params, data, job.seed),
            "n": options.n,
            "p_min": list(map(str, p_mins)),
        },
        engine=policy.engine.name,
        numerics=(device, dtype),
        batch_tokens=job.batch_tokens or default_batch_tokens(device),
        units=units,
        told=policy.warnings,
    )
