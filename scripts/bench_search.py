"""Tokens a second of guided search beside sampling without a reward model, in one run.

    python scripts/bench_search.py --policy SFT --rm CKPT [--kind endo] [--subset gsm8k] [--problems 4] [--budget 4] [--tokens 48]

Plain sampling is the peer: the same problems, the same number of paths and tokens, in one batch, its prompt shared.
"""

from __future__ import annotations

import argparse
import time

from prmbench.data.problem_sets import find_problems
from prmbench.data.prompts import find_prompt
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.policies.policy import load_policy
from prmbench.quiet import quiet_libraries
from prmbench.reward_models.loading import load_reward_model
from prmbench.reward_models.objectives import Convention
from prmbench.reward_models.subject import describe
from prmbench.search.drive import run_searches
from prmbench.search.methods import METHODS, Setting
from prmbench.search.paths import Task
from prmbench.search.sampler import PolicySampler
from prmbench.search.scorer import ModelScorer
from prmbench.search.step_ends import StepEnds

SEARCHES = ("best-of-n", "beam", "dvts", "particles")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--rm", required=True)
    parser.add_argument("--kind")
    parser.add_argument("--subset", default="gsm8k")
    parser.add_argument("--problems", type=int, default=4)
    parser.add_argument("--budget", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--step-end", default="\n")
    options = parser.parse_args()
    quiet_libraries()
    template = find_prompt("boxed")
    policy = load_policy(options.policy, template)
    model = load_reward_model(options.rm, kind=options.kind)
    (problems,) = find_problems([options.subset], options.problems).values()
    prompts = [policy.encoder.prompt_ids(template.render(one.problem)) for one in problems]
    params = SamplingParams(max_new_tokens=options.tokens, temperature=0.7)
    # The peer: sampling alone.
    requests = [
        Request(ids, one.id, k) for one, ids in zip(problems, prompts, strict=True) for k in range(options.budget)
    ]
    started = time.perf_counter()
    plain = policy.engine.generate(requests, policy.stop, params, 0)
    base = sum(len(one.ids) for one in plain) / (time.perf_counter() - started)
    print(f"{'sampling alone':16} {base:8.1f} tokens/s")
    # The searches, each with the reward model.
    ends = StepEnds(policy.encoder.tokenizer, [options.step_end])
    convention = Convention.of(describe(model, "rm", options.rm))
    for method in SEARCHES:
        sampler = PolicySampler(policy, ends, params, 0)
        scorer = ModelScorer(model, policy, template, "own", convention)
        searches = [
            (Task(one.id, one.problem, ids), METHODS[method](Setting(options.budget, 2, key=one.id)))
            for one, ids in zip(problems, prompts, strict=True)
        ]
        started = time.perf_counter()
        with scorer.keeping():
            found = run_searches(searches, sampler, scorer)
        seconds = time.perf_counter() - started
        sampled = sum(cost.sampled for one in found for cost in one.costs)
        rounds = max(len(one.costs) for one in found) - 1
        speed = sampled / seconds
        print(
            f"{method:16} {speed:8.1f} tokens/s, {speed / base:.2f} of sampling alone; {sampled:,} tokens, {rounds} parts"
        )


if __name__ == "__main__":
    main()
