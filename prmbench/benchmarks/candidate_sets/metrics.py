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
    """(size, mass, states with several) summed over states.

    Args:
        logprobs: of the likeliest tokens of each state, at least floor(1 / p_min) of them, float64, shape [t, k].
    """
    p = np.exp(logprobs)
    likely = p >= p_min
    size = likely.sum(axis=1)
    return int(size.sum()), float((p * likely).sum()), int((size >= 2).sum())


def compute_candidate_sets(items: Sequence[RolloutCandidates], *, n_resamples: int, seed: int) -> CandidateSetsMetrics:
    """All figures, from items alone: means over states; intervals draw problems with replacement."""
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
