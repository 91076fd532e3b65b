"""ProcessBench metrics from items alone: no model, no problem text (docs/protocols.md, "ProcessBench F1")."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.groups import grouped
from prmbench.benchmarks.processbench.schema import (
    N_RANDOM,
    RULES,
    GroupResult,
    ProcessBenchMetrics,
    ProtocolResult,
    RuleResult,
    SubsetResult,
    TraceItem,
    VoteCounts,
)
from prmbench.results.schema import Estimate
from prmbench.stats import auc, bootstrap, thresholds
from prmbench.stats.protocols import DIRECT, STEP_PROTOCOL, TOKEN_PROTOCOLS, token_protocol_scores
from prmbench.stats.votes import vote

Floats = NDArray[np.float64]
AnyTraceItem = TypeVar("AnyTraceItem", bound=TraceItem)

TRANSFER_SUBSET = "gsm8k"
MOST_GENERATORS = 1000
"""The most generators that items are grouped by; of more, each has next to no items."""
POSITION_EDGES = (0, 1, 2, 3, 4, 5, 10)


@dataclass(frozen=True)
class Statistics:
    """Settings of the statistics.

    Attributes:
        n_resamples: Bootstrap resamples.
        seed: Seed of folds, resamples and random scores.
    """

    n_resamples: int = 10_000
    seed: int = 0


@dataclass(frozen=True)
class _Subset:
    """Items of one subset, sorted by id, so that nothing depends on file order."""

    name: str
    items: list[TraceItem]

    @property
    def labels(self) -> list[int]:
        return [item.label for item in self.items]

    @property
    def ids(self) -> list[str]:
        return [item.id for item in self.items]

    def stream(self, *numbers: int) -> np.random.Generator:
        """A random stream that depends on the subset's name, not on which others are there."""
        return np.random.default_rng([zlib.crc32(self.name.encode()), *numbers])


@dataclass(frozen=True)
class _Chosen:
    """The outcome of a threshold rule on one subset: its result, whether each item is predicted right, and F1 resamples."""

    result: RuleResult
    hits: NDArray[np.bool_]
    resampled: Floats


def compute_metrics(
    items: Sequence[TraceItem], beta: float, fixed_thresholds: dict[str, float], statistics: Statistics
) -> ProcessBenchMetrics:
    """Compute all figures of an entry.

    Args:
        items: The items of one run; at least one.
        beta: Scale of the stored sums.
        fixed_thresholds: Thresholds of the protocols whose logit is a probability's.
        statistics: Resamples and seed.

    Raises:
        ValueError: A NaN score; the message names the item.
    """
    subsets = [_Subset(name, mine) for name, mine in by_subset(items).items()]
    if items[0].votes is not None:
        protocols = {DIRECT: _direct(subsets, statistics)}
    else:
        names = (STEP_PROTOCOL,) if items[0].scores is not None else TOKEN_PROTOCOLS
        scored: dict[str, dict[str, list[Floats]]] = {name: {} for name in names}
        for subset in subsets:
            for item in subset.items:
                for name, scores in item_scores(item, beta).items():
                    scored[name].setdefault(subset.name, []).append(scores)
        protocols = {name: _protocol(subsets, scored[name], fixed_thresholds.get(name), statistics) for name in names}
    baselines = {
        "random": _random_baseline(subsets, statistics),
        "position": _baseline(subsets, lambda item: -np.arange(len(item.n_tokens), dtype=np.float64), statistics),
    }
    if any(item.n_tokens.any() for item in items):  # scores made elsewhere come without tokens
        baselines["length"] = _baseline(subsets, lambda item: -item.n_tokens.astype(np.float64), statistics)
    return ProcessBenchMetrics(protocols=protocols, baselines=baselines)


def by_subset(items: Iterable[AnyTraceItem]) -> dict[str, list[AnyTraceItem]]:
    """Group items by subset.

    Args:
        items: The items.

    Returns:
        The items of each subset sorted by id, the subsets in the order of the items.
    """
    groups = grouped(items, lambda item: item.subset)
    return {name: sorted(mine, key=lambda item: item.id) for name, mine in groups.items()}


@dataclass(frozen=True)
class Predictions:
    """What a threshold rule makes of one subset.

    Attributes:
        items: The items, sorted by id.
        predicted: Index of the first flagged step, -1: none. Shape [n].
        thresholds: The threshold that each item was predicted with; NaN for a critic's verdict. Shape [n].
    """

    items: list[TraceItem]
    predicted: NDArray[np.int64]
    thresholds: Floats

    @property
    def labels(self) -> NDArray[np.int64]:
        """Index of the first wrong step, -1: none. Shape [n]."""
        return np.array([item.label for item in self.items])

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether the prediction is right. Shape [n]."""
        hits: NDArray[np.bool_] = self.predicted == self.labels
        return hits


def predict(
    items: Sequence[TraceItem],
    beta: float,
    fixed_thresholds: dict[str, float],
    *,
    protocol: str,
    rule: str = "crossfit",
    seed: int = 0,
) -> dict[str, Predictions]:
    """Predict every item, as the entry's F1 under a protocol and a threshold rule does.

    Items with votes are predicted by these under any rule: there is no threshold to choose.

    Args:
        items: The items of one run; at least one.
        beta: Scale of the stored sums.
        fixed_thresholds: Thresholds of the protocols whose logit is a probability's.
        protocol: Which step score.
        rule: The threshold rule.
        seed: Seed of crossfit's folds.

    Returns:
        The predictions by subset.

    Raises:
        ValueError: A protocol or rule that these items do not have, or a subset without both classes where the rule needs them.
    """
    if items[0].votes is not None:
        return _predict_directly(items, protocol)
    scored: dict[str, tuple[list[TraceItem], list[Floats]]] = {}
    for name, mine in by_subset(items).items():
        each = [item_scores(item, beta) for item in mine]
        if protocol not in each[0]:
            raise ValueError(f"protocol '{protocol}': these scores have {', '.join(each[0])}")
        scored[name] = mine, [row[protocol] for row in each]
    found = {name: thresholds.matches(rows, [i.label for i in mine]) for name, (mine, rows) in scored.items()}
    out: dict[str, Predictions] = {}
    for name, (mine, rows) in scored.items():
        chosen = _thresholds(found, name, [item.id for item in mine], rule, fixed_thresholds.get(protocol), seed)
        predicted = np.array(
            [thresholds.first_below(row, t) for row, t in zip(rows, chosen, strict=True)], dtype=np.int64
        )
        out[name] = Predictions(mine, predicted, chosen)
    return out


UNDECIDED = -2
"""The prediction of votes without a verdict: right for no label."""


def voted(items: Sequence[TraceItem]) -> NDArray[np.int64]:
    """Predict items by their votes.

    Args:
        items: The items; each has votes.

    Returns:
        The majority of each item's votes (`prmbench.stats.votes.vote`); `UNDECIDED` where none holds a verdict. Shape [n].
    """
    verdicts = [vote(item.votes or ()) for item in items]
    # A verdict may be any whole number; beyond the steps all are equally wrong.
    return np.array([UNDECIDED if v is None else min(max(v, UNDECIDED), 2**31) for v in verdicts], dtype=np.int64)


def _predict_directly(items: Sequence[TraceItem], protocol: str) -> dict[str, Predictions]:
    if protocol != DIRECT:
        raise ValueError(f"protocol '{protocol}': these items have votes, protocol {DIRECT}")
    out = {}
    for name, mine in by_subset(items).items():
        out[name] = Predictions(mine, voted(mine), np.full(len(mine), np.nan))
    return out


def _thresholds(
    found: dict[str, thresholds.Matches], name: str, ids: list[str], rule: str, fixed: float | None, seed: int
) -> Floats:
    if rule == "crossfit":
        return thresholds.crossfit_thresholds(found[name], ids, seed=seed)[0]
    if rule == "oracle":
        return np.full(len(ids), thresholds.best_threshold(found[name]))
    if rule == TRANSFER_SUBSET and TRANSFER_SUBSET in found:
        return np.full(len(ids), thresholds.best_threshold(found[TRANSFER_SUBSET]))
    if rule == "fixed" and fixed is not None:
        return np.full(len(ids), fixed)
    raise ValueError(f"threshold rule '{rule}' is not defined here; rules: {', '.join(RULES)}")


def item_scores(item: TraceItem, beta: float) -> dict[str, Floats]:
    """Compute the scores of an item's steps by protocol.

    Args:
        item: The item.
        beta: Scale of the stored sums.

    Returns:
        Logits by protocol, each of shape [n_steps]; nothing for an item with votes.

    Raises:
        ValueError: A NaN score; the message names the item.
    """
    if item.scores is not None:
        found = {STEP_PROTOCOL: item.scores}
    elif item.sums is None:
        return {}  # votes
    else:
        found = token_protocol_scores(item.sums, item.n_tokens, beta)
    for name, scores in found.items():
        if np.isnan(scores).any():
            step = int(np.flatnonzero(np.isnan(scores))[0])
            raise ValueError(f"item '{item.id}' of {item.subset} has a NaN {name} score at step {step}")
    return found


def _protocol(
    subsets: list[_Subset],
    scores: dict[str, list[Floats]],
    fixed: float | None,
    statistics: Statistics,
    *,
    grouped: bool = True,
) -> ProtocolResult:
    found = {s.name: thresholds.matches(scores[s.name], s.labels) for s in subsets}
    transfer = found.get(TRANSFER_SUBSET)
    results: dict[str, SubsetResult] = {}
    resampled: dict[str, list[Floats]] = {rule: [] for rule in RULES}
    for subset in subsets:
        here = found[subset.name]
        chosen, undefined = _apply_rules(subset, here, transfer, fixed, statistics)
        for rule, outcome in chosen.items():
            resampled[rule].append(outcome.resampled)
        best = chosen.get("crossfit") or chosen.get("oracle")
        oracle, crossfit = (chosen[p].result.f1.value if p in chosen else None for p in ("oracle", "crossfit"))
        results[subset.name] = SubsetResult(
            rules={rule: outcome.result for rule, outcome in chosen.items()},
            undefined=undefined,
            optimism=oracle - crossfit if oracle is not None and crossfit is not None else None,
            step_auc=_step_auc(subset, scores[subset.name], statistics),
            by_position=_by_position(subset, best.hits) if best and grouped else [],
            by_generator=_by_generator(subset, best.hits) if best and grouped else [],
        )
    return ProtocolResult(subsets=results, mean=_means(results, resampled))


def _direct(subsets: list[_Subset], statistics: Statistics) -> ProtocolResult:
    """Figures of votes: F1 and accuracies of their verdicts, without thresholds, and without an AUC."""
    results: dict[str, SubsetResult] = {}
    resampled: dict[str, list[Floats]] = {DIRECT: []}
    for subset in subsets:
        labels, predicted = np.array(subset.labels), voted(subset.items)
        chosen = _outcome(subset, predicted == labels, labels >= 0, [], statistics)
        resampled[DIRECT].append(chosen.resampled)
        votes = [one for item in subset.items for one in item.votes or ()]
        steps = np.array([len(item.n_tokens) for item in subset.items])
        undecided = np.array([vote(item.votes or ()) is None for item in subset.items])
        results[subset.name] = SubsetResult(
            rules={DIRECT: chosen.result},
            step_auc=Estimate(value=None),
            by_position=_by_position(subset, chosen.hits),
            by_generator=_by_generator(subset, chosen.hits),
            votes=VoteCounts(
                n=len(votes),
                unparsed=sum(one is None for one in votes),
                undecided=int(undecided.sum()),
                outside=int((~undecided & ((predicted < -1) | (predicted >= steps))).sum()),
            ),
        )
    return ProtocolResult(subsets=results, mean=_means(results, resampled))


def _apply_rules(
    subset: _Subset,
    here: thresholds.Matches,
    transfer: thresholds.Matches | None,
    fixed: float | None,
    statistics: Statistics,
) -> tuple[dict[str, _Chosen], dict[str, str]]:
    chosen: dict[str, _Chosen] = {}
    undefined: dict[str, str] = {}

    def attempt(rule: str, choose: Callable[[], tuple[Floats, list[float]]]) -> None:
        try:
            per_item, shown = choose()
        except ValueError as error:
            undefined[rule] = str(error)
            return
        chosen[rule] = _outcome(subset, here.hit(per_item), here.has_error, shown, statistics)

    def one(value: float) -> tuple[Floats, list[float]]:
        return np.full(len(here), value), [value]

    def crossfit() -> tuple[Floats, list[float]]:
        per_item, folds = thresholds.crossfit_thresholds(here, subset.ids, seed=statistics.seed)
        return per_item, [float(per_item[folds == fold][0]) for fold in np.unique(folds)]

    attempt("crossfit", crossfit)
    if transfer is not None:
        attempt(TRANSFER_SUBSET, lambda: one(thresholds.best_threshold(transfer)))
    attempt("oracle", lambda: one(thresholds.best_threshold(here)))
    if fixed is not None:
        attempt("fixed", lambda: one(fixed))
    return chosen, undefined


def _outcome(
    subset: _Subset, hits: NDArray[np.bool_], has_error: NDArray[np.bool_], shown: list[float], statistics: Statistics
) -> _Chosen:
    samples = bootstrap.f1_resamples(
        hits, has_error, n_resamples=statistics.n_resamples, rng=subset.stream(statistics.seed)
    )
    ends = bootstrap.f1_intervals(hits, has_error, samples)
    values = thresholds.f1_and_accuracies(hits, has_error)
    estimates = {name: _estimate(value, ends[name]) for name, value in values.items()}
    return _Chosen(RuleResult(**estimates, thresholds=shown), hits, samples["f1"])


def _estimate(value: float, ends: tuple[float, float]) -> Estimate:
    return Estimate(value=_number(value), low=_number(ends[0]), high=_number(ends[1]))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def _step_auc(subset: _Subset, scores: list[Floats], statistics: Statistics) -> Estimate:
    steps = auc.step_wins(scores, subset.labels)
    samples = auc.auc_resamples(steps, n_resamples=statistics.n_resamples, rng=subset.stream(statistics.seed))
    value = float(auc.auc(steps)[0])
    # An AUC of 0 or 1 is so in every resample; its bound is then that of as many shares as the rarer sort of step has traces.
    n_traces = min(len(steps.wrong_from), sum(label != 0 for label in subset.labels))
    return _estimate(value, bootstrap.share_interval([np.full(max(n_traces, 1), value)], samples))


def position_bins(labels: NDArray[np.int64]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Group traces with an error by the position of its first wrong step.

    Args:
        labels: Index of the first wrong step, -1: no error. Shape [n].

    Returns:
        The name and the members (shape [n]) of each bin, in order; bins that hold none are left out.
    """
    bins = []
    for low, high in zip(POSITION_EDGES, (*POSITION_EDGES[1:], None), strict=True):
        here = (labels >= low) & (labels < high if high is not None else True)
        name = str(low) if high == low + 1 else f"{low}+" if high is None else f"{low}-{high - 1}"
        if here.any():
            bins.append((name, here))
    return bins


def _by_position(subset: _Subset, hits: NDArray[np.bool_]) -> list[GroupResult]:
    labels = np.array(subset.labels)
    return [_group(name, here | (labels < 0), hits, labels) for name, here in position_bins(labels)]


def _by_generator(subset: _Subset, hits: NDArray[np.bool_]) -> list[GroupResult]:
    labels = np.array(subset.labels)
    members = grouped(range(len(subset.items)), lambda i: subset.items[i].generator)
    if len(members) > MOST_GENERATORS:
        return []
    return [_group(name, np.array(mine), hits, labels) for name, mine in sorted(members.items())]


def _group(name: str, members: NDArray[Any], hits: NDArray[np.bool_], labels: NDArray[np.int64]) -> GroupResult:
    has_error = labels[members] >= 0
    values = {name: _number(value) for name, value in thresholds.f1_and_accuracies(hits[members], has_error).items()}
    return GroupResult(name=name, n_error=int(has_error.sum()), n_correct=int((~has_error).sum()), **values)


def _means(results: dict[str, SubsetResult], resampled: dict[str, list[Floats]]) -> dict[str, Estimate]:
    """Plain means over the subsets, each subset resampled on its own; only where every subset has a value."""
    means = {}
    for rule in RULES:
        found = [r.rules[rule].f1 for r in results.values() if rule in r.rules]
        known = [one.value for one in found if one.value is not None]
        if len(known) == len(results):
            ends = [(math.nan if f.low is None else f.low, math.nan if f.high is None else f.high) for f in found]
            means[rule] = _estimate(float(np.mean(known)), bootstrap.mean_interval(known, ends, resampled[rule]))
    return means


def _baseline(subsets: list[_Subset], score: Callable[[TraceItem], Floats], statistics: Statistics) -> ProtocolResult:
    return _protocol(subsets, {s.name: [score(item) for item in s.items] for s in subsets}, None, statistics)


def _random_baseline(subsets: list[_Subset], statistics: Statistics) -> ProtocolResult:
    """The mean of `N_RANDOM` draws of uniform scores; without intervals."""
    alone = Statistics(0, statistics.seed)
    draws = []
    for draw in range(N_RANDOM):
        streams = {s.name: s.stream(statistics.seed, draw) for s in subsets}
        scores = {s.name: [streams[s.name].random(len(item.n_tokens)) for item in s.items] for s in subsets}
        draws.append(_protocol(subsets, scores, None, alone, grouped=False))
    return _mean_of(draws)


def _mean_of(draws: list[ProtocolResult]) -> ProtocolResult:
    """Average the F1, accuracies and AUC of several random draws; no intervals, thresholds or groups."""

    def average(estimates: list[Estimate]) -> Estimate:
        values = [e.value for e in estimates if e.value is not None]
        return Estimate(value=float(np.mean(values)) if values else None)

    first = draws[0]
    subsets = {}
    for name, found in first.subsets.items():
        same = [draw.subsets[name] for draw in draws]
        rules = {
            rule: RuleResult(
                f1=average([s.rules[rule].f1 for s in same]),
                acc_error=average([s.rules[rule].acc_error for s in same]),
                acc_correct=average([s.rules[rule].acc_correct for s in same]),
                thresholds=[],
            )
            for rule in found.rules
        }
        optimism = [s.optimism for s in same if s.optimism is not None]
        subsets[name] = SubsetResult(
            rules=rules,
            undefined=found.undefined,
            optimism=float(np.mean(optimism)) if optimism else None,
            step_auc=average([s.step_auc for s in same]),
        )
    return ProtocolResult(subsets=subsets, mean={rule: average([d.mean[rule] for d in draws]) for rule in first.mean})
