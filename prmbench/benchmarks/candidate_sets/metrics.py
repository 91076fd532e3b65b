"""Figures of candidate sets from items alone (docs/protocols.md, "Candidate sets"; Table 11)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.candidate_sets.schema import (
    PARTS,
    CandidateSetResult,
    CandidateSetsMetrics,
    RolloutCandidates,
)
from prmbench.benchmarks.clustered import clustered_estimates, numbered

Floats = NDArray[np.float64]


def candidate_sums(logprobs: Floats, p_min: float) -> tuple[float, float, float]:
    """Sum the size and the mass of candidate sets over states, and count the states with several candidates.

    Args:
        logprobs: Log-probs of the likeliest tokens of each state, at least floor(1 / p_min) of them. Shape [t, k].
        p_min: A token with at least this probability is a candidate.

    Returns:
        Size summed, mass summed, states with several candidates.
    """
    p = np.exp(logprobs)
    likely = p >= p_min
    size = likely.sum(axis=1)
    return int(size.sum()), float((p * likely).sum()), int((size >= 2).sum())


def compute_candidate_sets(items: Sequence[RolloutCandidates], *, n_resamples: int, seed: int) -> CandidateSetsMetrics:
    """Compute all figures from items alone: means over states, with intervals that draw problems.

    Args:
        items: The items of one run.
        n_resamples: Bootstrap resamples; 0 gives no intervals.
        seed: Seed of the draws.
    """
    cluster = numbered([(item.subset, item.id) for item in items])
    states = np.array([item.n_tokens for item in items], dtype=np.float64)
    found = {}
    for name in items[0].sets:
        sums = np.array([item.sets[name] for item in items], dtype=np.float64)

        def means(weights: Floats, sums: Floats = sums) -> dict[str, Floats]:
            return dict(zip(PARTS, (weights @ sums / (weights @ states)[:, None]).T, strict=True))

        found[name] = CandidateSetResult(
            **clustered_estimates(cluster, means, n_resamples, seed, frozenset({"several"}))
        )
    return CandidateSetsMetrics(n_rollouts=len(items), n_states=int(states.sum()), p_min=found)
