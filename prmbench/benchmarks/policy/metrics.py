"""Figures of a policy from items alone: avg@n, pass@k, maj@n (docs/protocols.md, "Policy evaluation")."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.groups import grouped, problem_of
from prmbench.benchmarks.policy.schema import CompletionOutcome, PolicyMetrics, ProblemSetResult
from prmbench.data.verdicts import Verdict
from prmbench.errors import UserError
from prmbench.results.schema import Estimate
from prmbench.stats.bootstrap import interval, share_interval
from prmbench.stats.repeats import majority, mean_resamples, pass_at_k


def compute_policy_metrics(items: Sequence[CompletionOutcome], n_resamples: int, seed: int) -> PolicyMetrics:
    """Compute all figures of an entry from items alone.

    Args:
        items: The items of one run.
        n_resamples: Bootstrap resamples; they draw problems.
        seed: Seed of the resamples.

    Raises:
        UserError: Problems have different numbers of completions.
    """
    groups = grouped(items, problem_of)
    numbers = {len(group) for group in groups.values()}
    if len(numbers) != 1:
        raise UserError(f"problems have {min(numbers)} to {max(numbers)} completions; expected equally many of each")
    (n,) = numbers
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if k < n] + [n]
    names = ["average", "majority", "truncated", "mean_tokens", *(f"pass@{k}" for k in ks)]
    results: dict[str, ProblemSetResult] = {}
    rows: list[NDArray[np.float64]] = []
    resampled: list[NDArray[np.float64]] = []
    for subset in dict.fromkeys(item.subset for item in items):
        mine = [sorted(group, key=lambda i: i.sample) for (name, _), group in sorted(groups.items()) if name == subset]
        values = np.array([_figures(group, ks) for group in mine])
        rng = np.random.default_rng([seed, zlib.crc32(subset.encode())])
        samples = mean_resamples(values, n_resamples=n_resamples, rng=rng)
        rows.append(values)
        resampled.append(samples)
        estimates = _estimates(names, [values], samples)
        results[subset] = ProblemSetResult(
            average=estimates["average"],
            pass_at={str(k): estimates[f"pass@{k}"] for k in ks},
            majority=estimates["majority"],
            truncated=estimates["truncated"],
            mean_tokens=estimates["mean_tokens"],
            verdicts={str(v): sum(i.verdict == v for group in mine for i in group) for v in Verdict},
            overlong_prompts=sum(group[0].finish_reason == "prompt" for group in mine),
        )
    whole = _estimates(names, rows, np.mean(resampled, axis=0))
    return PolicyMetrics(n=n, subsets=results, mean={k: v for k, v in whole.items() if k != "mean_tokens"})


def _figures(group: Sequence[CompletionOutcome], ks: Sequence[int]) -> list[float]:
    correct = [item.verdict == Verdict.CORRECT for item in group]
    n, right = len(group), sum(correct)
    return [
        right / n,
        majority([item.answer for item in group], correct),
        sum(item.finish_reason == "length" for item in group) / n,
        sum(item.n_tokens for item in group) / n,
        *(pass_at_k(n, right, k) for k in ks),
    ]


def _estimates(
    names: Sequence[str], sets: Sequence[NDArray[np.float64]], samples: NDArray[np.float64]
) -> dict[str, Estimate]:
    """Means over sets of the sets' means. sets: per set, figures of each problem, shape [n, m]. samples: shape [b, m]."""
    out = {}
    for i, name in enumerate(names):
        columns = [values[:, i] for values in sets]
        low, high = None, None
        if len(samples):
            low, high = interval(samples[:, i]) if name == "mean_tokens" else share_interval(columns, samples[:, i])
        out[name] = Estimate(value=float(np.mean([column.mean() for column in columns])), low=low, high=high)
    return out
