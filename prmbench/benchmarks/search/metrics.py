"""Figures of guided search from items alone: no model, no text (docs/search.md)."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.search.schema import CurvePoint, SearchFigures, SearchItem, SearchMetrics, SearchSubset
from prmbench.errors import ArgumentError, UserError, nearest, printable
from prmbench.results.schema import Entry, Estimate
from prmbench.reward_models.objectives import Convention
from prmbench.reward_models.response_scores import vote_weights
from prmbench.stats.bootstrap import interval, share_interval
from prmbench.stats.paired import two_sided_p
from prmbench.stats.repeats import mean_resamples, pass_at_k
from prmbench.stats.selection import expected_best, expected_vote, subsets

if TYPE_CHECKING:
    from prmbench.benchmarks.search.benchmark import SearchOptions

Floats = NDArray[np.float64]

METHODS = ("best-of-n", "weighted", "beam", "dvts", "particles")
POOLED = ("best-of-n", "weighted")
"""Methods whose candidates are plain samples."""
BUDGETS = (4, 16)
N_SUBSETS = 200
"""Subsets drawn for votes, which have no closed form, where there are more."""
TROUBLES = ("cut", "endless", "empty", "repeating", "duplicates")


def chosen_methods(options: SearchOptions) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Read the methods and budgets that were asked for.

    Args:
        options: The options.

    Returns:
        The methods in the order asked for, and the budgets in ascending order.

    Raises:
        ArgumentError: No such method, or a budget below 1.
    """
    methods = tuple(dict.fromkeys(options.methods or METHODS))
    for name in methods:
        if name not in METHODS:
            raise ArgumentError(
                "methods", printable(name), f"not known{nearest(name, METHODS)}; expected {', '.join(METHODS)}"
            )
    budgets = tuple(sorted(set(options.budgets or BUDGETS)))
    if budgets[0] < 1:
        raise ArgumentError("budgets", budgets[0], "expected 1 or more")
    return methods, budgets


def check_searches(path: Path, items: Sequence[SearchItem]) -> None:
    """Check that every problem has its plain samples, and the same searches as the others.

    Args:
        path: The items file, for errors.
        items: Its items.

    Raises:
        UserError: A problem without samples, or with other searches.
    """
    groups = by_problem(items)
    first: set[tuple[str, int]] | None = None
    for (subset, name), group in groups.items():
        found = {key for key in group if key[0] != "best-of-n"}
        if not any(method == "best-of-n" for method, _ in group):
            raise UserError(f"{path}: problem '{printable(name)}' of {printable(subset)} has no item of best-of-n")
        if first is not None and found != first:
            raise UserError(
                f"{path}: problem '{printable(name)}' of {printable(subset)} has other searches than the first problem"
            )
        first = found


def by_problem(items: Sequence[SearchItem]) -> dict[tuple[str, str], dict[tuple[str, int], SearchItem]]:
    """Group items.

    Args:
        items: The items.

    Returns:
        By subset and id: the items by method and budget; plain samples have budget 0.
    """
    groups: dict[tuple[str, str], dict[tuple[str, int], SearchItem]] = {}
    for item in items:
        budget = 0 if item.method == "best-of-n" else item.budget
        groups.setdefault((item.subset, item.id), {})[item.method, budget] = item
    return groups


@dataclasses.dataclass(frozen=True)
class SamplePool:
    """A problem's plain samples.

    Attributes:
        item: The item.
        weights: What each sample's vote counts. Shape [n].
        spent: What the prompt cost, and then each sample, in the unit that compute is counted in. Shape [n + 1].
    """

    item: SearchItem
    weights: Floats
    spent: Floats

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.item.correct)

    def cost(self, n: float) -> float:
        """Mean cost of n samples.

        Args:
            n: Their number.
        """
        return float(self.spent[0] + n * self.spent[1:].mean()) if self.size else float(self.spent.sum())

    def equal_n(self, cost: float) -> float:
        """The number of samples that cost as much, 1 at least.

        Args:
            cost: A cost.
        """
        each = float(self.spent[1:].mean()) if self.size else 0.0
        return max(1.0, (cost - float(self.spent[0])) / each) if each > 0 else 1.0

    def best(self, n: float) -> float:
        """Exact expectation of Best-of-N over all subsets of n samples; between two whole numbers it is interpolated.

        Args:
            n: N; more than there are samples takes all.
        """
        if not self.size:
            return 0.0
        n = min(max(n, 1.0), float(self.size))
        low, high = math.floor(n), math.ceil(n)
        correct = np.array(self.item.correct)
        ends = [expected_best(self.item.scores, correct, size) for size in (low, high)]
        return ends[0] + (n - low) * (ends[1] - ends[0])

    def vote(self, n: int, rng: np.random.Generator) -> float:
        """Expectation of the weighted vote over subsets of n samples.

        Args:
            n: Their number.
            rng: Source of the subsets, where there are many.
        """
        if not self.size:
            return 0.0
        n = min(n, self.size)
        drawn = subsets(self.size, n, N_SUBSETS, rng)
        return expected_vote(self.item.answers, np.array(self.item.correct), self.weights, drawn)


def spent_of(item: SearchItem, compute: str) -> Floats:
    """What each part of an item cost.

    Args:
        item: The item.
        compute: ``flops``, or ``tokens``: those sampled and those scored.

    Returns:
        Shape [parts].
    """
    if compute == "flops":
        return item.policy_flops + item.model_flops
    return (item.sampled + item.scored).astype(np.float64)


def compute_search(
    items: Sequence[SearchItem], convention: Convention, options: SearchOptions, *, n_resamples: int, seed: int
) -> SearchMetrics:
    """Compute all figures of an entry. Intervals resample problems.

    Args:
        items: The items of one run.
        convention: How the model scores a whole response.
        options: Which methods, budgets and score.
        n_resamples: Bootstrap resamples; 0 gives no intervals.
        seed: Seed of the resamples, and of the subsets that votes are drawn for.

    Raises:
        UserError: A method or budget that the items do not hold.
    """
    methods, budgets = chosen_methods(options)
    how = convention.own if options.score == "own" else options.score
    known = all(math.isfinite(item.flops) for item in items)
    compute = "flops" if known else "tokens"
    groups = by_problem(items)
    sizes = _curve_sizes(groups, budgets)
    found: dict[str, SearchSubset] = {}
    rows_of: list[Mapping[str, Floats]] = []
    samples_of: list[Mapping[str, Floats]] = []
    for subset in dict.fromkeys(item.subset for item in items):
        rng = np.random.default_rng([seed, zlib.crc32(subset.encode())])
        mine = [group for (name, _), group in sorted(groups.items()) if name == subset]
        rows = [_figures(group, methods, budgets, sizes, how, convention, compute, rng) for group in mine]
        names = list(rows[0])
        values = np.array([[row[name] for name in names] for row in rows])
        drawn = mean_resamples(values, n_resamples=n_resamples, rng=rng)
        rows_of.append({name: values[:, i] for i, name in enumerate(names)})
        samples_of.append({name: drawn[:, i] for i, name in enumerate(names)})
        found[subset] = _shaped(methods, budgets, sizes, rows_of[-1:], samples_of[-1:], known=known)
    mean = _shaped(methods, budgets, sizes, rows_of, samples_of, known=known)
    return SearchMetrics(score=how, compute=compute, subsets=found, mean=mean)


def _curve_sizes(
    groups: Mapping[tuple[str, str], Mapping[tuple[str, int], SearchItem]], budgets: Sequence[int]
) -> list[int]:
    """The N of the curve: powers of two up to the fewest samples that a problem has, and the budgets."""
    fewest = min((n for group in groups.values() if (n := len(group["best-of-n", 0].correct))), default=1)
    return sorted({*(2**k for k in range(fewest.bit_length())), *(n for n in budgets if n <= fewest)})


def _figures(
    group: Mapping[tuple[str, int], SearchItem],
    methods: Sequence[str],
    budgets: Sequence[int],
    sizes: Sequence[int],
    how: str,
    convention: Convention,
    compute: str,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Figures of one problem by name."""
    item = group["best-of-n", 0]
    pool = SamplePool(item, vote_weights(item.scores, how, convention), spent_of(item, compute))
    out: dict[str, float] = {"plain": float(np.mean(item.correct)) if item.correct else 0.0}
    each = max(pool.size, 1)
    for n in sizes:
        out[f"curve@{n} accuracy"] = pool.best(n)
        out[f"curve@{n} weighted"] = pool.vote(n, rng)
        out[f"curve@{n} any_right"] = pass_at_k(pool.size, sum(item.correct), n) if pool.size >= n else 0.0
        out[f"curve@{n} flops"] = pool.cost(n)
        out[f"curve@{n} sampled"] = n * float(item.sampled.sum()) / each
    for method in methods:
        for budget in budgets:
            name = f"{method}@{budget} "
            if method in POOLED:
                out |= {name + key: value for key, value in _pooled(pool, method, budget, rng).items()}
            elif (method, budget) in group:
                out |= {name + key: value for key, value in _searched(pool, group[method, budget], compute).items()}
            else:
                raise UserError(f"the items hold no search '{method}' with budget {budget}; run it")
    return out


def _pooled(pool: SamplePool, method: str, budget: int, rng: np.random.Generator) -> dict[str, float]:
    """Figures of a method of plain samples: costs are the mean ones of as many samples."""
    item, n = pool.item, min(budget, pool.size)
    share = n / max(pool.size, 1)
    best = pool.best(budget)
    accuracy = best if method == "best-of-n" else pool.vote(budget, rng)

    def mean(parts: NDArray[Any]) -> float:
        return float(parts[0] + share * parts[1:].sum())

    return {
        "accuracy": accuracy,
        "best_of_n": best,
        "difference": accuracy - best,
        "equal_n": float(n),
        "covered": 1.0,
        "any_right": pass_at_k(pool.size, sum(item.correct), n) if n else 0.0,
        "sampled": mean(item.sampled),
        "scored": mean(item.scored),
        "policy_flops": mean(item.policy_flops),
        "model_flops": mean(item.model_flops),
        "seconds": share * item.seconds,
        **{trouble: share * getattr(item, trouble) for trouble in TROUBLES},
    }


def _searched(pool: SamplePool, item: SearchItem, compute: str) -> dict[str, float]:
    """Figures of a search, beside Best-of-N with samples that cost as much."""
    accuracy = float(bool(item.correct) and item.correct[0])
    equal_n = pool.equal_n(float(spent_of(item, compute).sum()))
    best = pool.best(equal_n)
    return {
        "accuracy": accuracy,
        "best_of_n": best,
        "difference": accuracy - best,
        "equal_n": min(equal_n, float(max(pool.size, 1))),
        "covered": float(equal_n <= pool.size),
        "any_right": float(any(item.correct)),
        "sampled": float(item.sampled.sum()),
        "scored": float(item.scored.sum()),
        "policy_flops": float(item.policy_flops.sum()),
        "model_flops": float(item.model_flops.sum()),
        "seconds": item.seconds,
        **{trouble: float(getattr(item, trouble)) for trouble in TROUBLES},
    }


def _shaped(
    methods: Sequence[str],
    budgets: Sequence[int],
    sizes: Sequence[int],
    rows: Sequence[Mapping[str, Floats]],
    samples: Sequence[Mapping[str, Floats]],
    *,
    known: bool,
) -> SearchSubset:
    """Means over sets of the sets' means, with intervals. rows: per set, each figure of each problem. samples: its resamples."""

    def value(name: str) -> float:
        return float(np.mean([one[name].mean() for one in rows]))

    def total(name: str) -> int:
        return round(sum(float(one[name].sum()) for one in rows))

    def drawn(name: str) -> Floats:
        return np.asarray(np.mean([one[name] for one in samples], axis=0))

    def share(name: str) -> Estimate:
        resampled = drawn(name)
        ends = share_interval([one[name] for one in rows], resampled) if len(resampled) else (None, None)
        return Estimate(value=value(name), low=ends[0], high=ends[1])

    def change(name: str) -> Estimate:
        resampled = drawn(name)
        ends = interval(resampled) if len(resampled) else (None, None)
        return Estimate(value=value(name), low=ends[0], high=ends[1])

    def figures(name: str) -> SearchFigures:
        return SearchFigures(
            accuracy=share(f"{name} accuracy"),
            best_of_n=share(f"{name} best_of_n"),
            difference=change(f"{name} difference"),
            p=two_sided_p(drawn(f"{name} difference")),
            policy_flops=value(f"{name} policy_flops") if known else None,
            model_flops=value(f"{name} model_flops") if known else None,
            any_right=share(f"{name} any_right"),
            **{key: value(f"{name} {key}") for key in ("equal_n", "covered", "sampled", "scored", "seconds")},
            **{trouble: total(f"{name} {trouble}") for trouble in TROUBLES},
        )

    def point(n: int) -> CurvePoint:
        return CurvePoint(
            accuracy=share(f"curve@{n} accuracy"),
            weighted=share(f"curve@{n} weighted"),
            any_right=share(f"curve@{n} any_right"),
            flops=value(f"curve@{n} flops") if known else None,
            sampled=value(f"curve@{n} sampled"),
        )

    names = [f"{method}@{budget}" for method in methods for budget in budgets]
    return SearchSubset(
        methods={name: figures(name) for name in names},
        curve={str(n): point(n) for n in sizes},
        plain=share("plain"),
    )


def chosen_shares(
    items: Sequence[SearchItem], entry: Entry[SearchMetrics], options: SearchOptions
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], str]]:
    """Whether each problem's chosen answer is right, by the first method at its largest budget.

    Args:
        items: The items of an entry.
        entry: The entry.
        options: Its methods and budgets.

    Returns:
        Shares from 0 to 1, and hashes of the problems, by subset and problem.
    """
    methods, budgets = chosen_methods(options)
    convention, values, digests = Convention.of(entry.subject), {}, {}
    for key, group in by_problem(items).items():
        rng = np.random.default_rng([0, zlib.crc32("/".join(key).encode())])
        row = _figures(
            group, methods[:1], budgets[-1:], [], entry.metrics.score, convention, entry.metrics.compute, rng
        )
        values[key] = row[f"{methods[0]}@{budgets[-1]} accuracy"]
        digests[key] = group["best-of-n", 0].digest
    return values, digests
