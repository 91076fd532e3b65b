"""Best-of-N figures from items alone: no model, no text (docs/protocols.md, "Best-of-N")."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.best_of_n.schema import BestOfNMetrics, BestOfNSubset, CompletionScores
from prmbench.benchmarks.groups import grouped, problem_of
from prmbench.errors import ArgumentError, UserError
from prmbench.results.schema import Estimate, Subject, digest
from prmbench.reward_models.objectives import Convention
from prmbench.reward_models.response_scores import scores_of_steps, scores_of_tokens, vote_weights
from prmbench.stats.bootstrap import share_interval
from prmbench.stats.repeats import mean_resamples, pass_at_k
from prmbench.stats.selection import AGGREGATIONS, expected_best, expected_vote, first_best, subsets

Floats = NDArray[np.float64]

ESTIMATORS = ("expected", "first")
N_SUBSETS = 200
"""Subsets drawn for votes, which have no closed form, where there are more."""


def completion_scores(item: CompletionScores, convention: Convention) -> dict[str, float]:
    """Compute every score of one completion, the model's own first.

    ``sum`` and ``token_mean`` are over all response tokens. ``min``, ``last``, ``product`` and ``mean`` are over the steps' process
    scores.

    Args:
        item: The completion.
        convention: How the model scores a whole response.

    Returns:
        Scores by name. All are minus infinity where the prompt left no room for a token: there is nothing to choose.

    Raises:
        UserError: The model's own score needs a field that the item lacks.
    """
    if item.length == 0:  # its prompt left no room: there is nothing to choose
        names = AGGREGATIONS if item.scores is not None else ("token_mean", "sum", *AGGREGATIONS)
        return {convention.own: -math.inf, **dict.fromkeys(names, -math.inf)}
    if item.scores is not None:
        found = scores_of_steps(item.scores)
    else:
        assert item.sums is not None
        assert item.total is not None
        found = scores_of_tokens(item.total, item.length, item.sums, item.weighted, convention)
    if convention.own not in found:
        raise UserError(f"completion '{item.key[1]}' has no field 'weighted', by which its model scores a response")
    return {convention.own: found[convention.own], **found}


def checked_sizes(counts: Iterable[int], sizes: Sequence[int] | None) -> list[int]:
    """Choose the N to compute.

    Args:
        counts: The number of completions of each problem.
        sizes: The N that were asked for; None: powers of two up to the number of completions, and that number.

    Returns:
        The N in ascending order.

    Raises:
        UserError: Problems have different numbers of completions, or N is above that number.
    """
    numbers = set(counts)
    if len(numbers) != 1:
        raise UserError(f"problems have {min(numbers)} to {max(numbers)} completions; expected equally many of each")
    (n,) = numbers
    wanted = sorted(set(sizes or [*(2**k for k in range(n.bit_length()) if 2**k <= n), n]))
    if not 1 <= wanted[0] <= wanted[-1] <= n:
        raise ArgumentError("sizes", " ".join(map(str, wanted)), f"there are {n} completions of each problem")
    return wanted


def compute_best_of_n(
    items: Sequence[CompletionScores],
    convention: Convention,
    *,
    sizes: Sequence[int] | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> BestOfNMetrics:
    """Compute all figures of an entry. Intervals resample problems.

    Args:
        items: The items of one run.
        convention: How the model scores a whole response.
        sizes: The N; None: see `checked_sizes`.
        n_resamples: Bootstrap resamples; 0 gives no intervals.
        seed: Seed of the resamples, and of the subsets that votes are drawn for.

    Raises:
        UserError: Problems have different numbers of completions, or N is above that number.
    """
    groups = grouped(items, problem_of)
    wanted = checked_sizes([len(group) for group in groups.values()], sizes)
    n = len(next(iter(groups.values())))
    found: dict[str, BestOfNSubset] = {}
    values_of: list[Floats] = []
    resamples_of: list[Floats] = []
    names: list[tuple[str, str, int, str]] = []
    for subset in dict.fromkeys(item.subset for item in items):
        rng = np.random.default_rng([seed, zlib.crc32(subset.encode())])
        rows = []
        for (name, _), group in sorted(groups.items()):
            if name == subset:
                row = _figures(sorted(group, key=lambda i: i.sample), convention, wanted, rng)
                names = list(row)
                rows.append(list(row.values()))
        values = np.array(rows)
        values_of.append(values)
        resamples_of.append(mean_resamples(values, n_resamples=n_resamples, rng=rng))
        found[subset] = _shaped(names, [values], resamples_of[-1])
    return BestOfNMetrics(
        own=convention.own,
        n=n,
        sizes=wanted,
        subsets=found,
        mean=_shaped(names, values_of, np.mean(resamples_of, axis=0)),
    )


def _figures(
    group: Sequence[CompletionScores], convention: Convention, sizes: Sequence[int], rng: np.random.Generator
) -> dict[tuple[str, str, int, str], float]:
    """Figures of one problem, by (scores or baselines, name, N, estimator)."""
    correct = np.array([item.correct for item in group])
    each = [completion_scores(item, convention) for item in group]
    scores = {name: np.array([one[name] for one in each]) for name in each[0]}
    lengths = np.array([float(item.length) for item in group])
    answers = [item.answer for item in group]
    own = scores[convention.own]
    weights = vote_weights(own, convention.own, convention)
    out: dict[tuple[str, str, int, str], float] = {}
    for size in sizes:
        for name, values in scores.items():
            out["scores", name, size, "expected"] = expected_best(values, correct, size)
            out["scores", name, size, "first"] = first_best(values, correct, size)
        out["baselines", "pass", size, "expected"] = pass_at_k(len(group), int(correct.sum()), size)
        out["baselines", "pass", size, "first"] = float(correct[:size].any())
        votes = {
            "expected": subsets(len(group), size, N_SUBSETS, rng),
            "first": [tuple(range(size))],
        }
        for estimator, drawn in votes.items():
            out["baselines", "majority", size, estimator] = expected_vote(answers, correct, None, drawn)
            out["baselines", "weighted_majority", size, estimator] = expected_vote(answers, correct, weights, drawn)
        for name, by in (("shortest", np.where(lengths > 0, -lengths, -np.inf)), ("longest", lengths)):
            out["baselines", name, size, "expected"] = expected_best(by, correct, size)
            out["baselines", name, size, "first"] = first_best(by, correct, size)
        out["baselines", "mean", size, "expected"] = float(correct.mean())
        out["baselines", "mean", size, "first"] = float(correct[:size].mean())
    return out


def _shaped(names: Sequence[tuple[str, str, int, str]], sets: Sequence[Floats], samples: Floats) -> BestOfNSubset:
    """Means over sets of the sets' means. sets: per set, figures of each problem, shape [n, m]. samples: shape [b, m]."""
    parts: dict[str, dict[str, dict[str, dict[str, Estimate]]]] = {"scores": {}, "baselines": {}}
    for i, (part, name, size, estimator) in enumerate(names):
        columns = [values[:, i] for values in sets]
        low, high = share_interval(columns, samples[:, i]) if len(samples) else (None, None)
        estimate = Estimate(value=float(np.mean([column.mean() for column in columns])), low=low, high=high)
        parts[part].setdefault(name, {}).setdefault(str(size), {})[estimator] = estimate
    return BestOfNSubset(**parts)


def chosen_shares(
    items: Sequence[CompletionScores], subject: Subject, n: int
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], str]]:
    """How often the choice among n completions is right, over all subsets of n of a problem's completions.

    Args:
        items: The items of an entry.
        subject: The entry's subject; says how it scores a whole response.
        n: The size of the subsets.

    Returns:
        Shares from 0 to 1, and hashes of the completions, by subset and problem.
    """
    convention = Convention.of(subject)
    values, digests = {}, {}
    for key, group in grouped(items, problem_of).items():
        digests[key] = digest([item.digest for item in group])
        scores = np.array([completion_scores(item, convention)[convention.own] for item in group])
        values[key] = expected_best(scores, np.array([item.correct for item in group]), n)
    return values, digests
