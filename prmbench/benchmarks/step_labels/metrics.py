"""Step-labels metrics from items alone: no model, no problem text (docs/protocols.md, "Step labels")."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.processbench.metrics import Statistics, by_subset, item_scores
from prmbench.benchmarks.processbench.schema import N_RANDOM
from prmbench.benchmarks.step_labels.categories import categories_of
from prmbench.benchmarks.step_labels.schema import (
    RULES,
    LabelledItem,
    StepCalibration,
    StepCounts,
    StepFigures,
    StepLabelsMetrics,
    StepProtocolResult,
    StepRuleResult,
    StepSubsetResult,
)
from prmbench.benchmarks.step_labels.thresholds import protocols_of
from prmbench.results.schema import Estimate
from prmbench.stats.auc import auc
from prmbench.stats.bootstrap import f1_intervals, interval
from prmbench.stats.calibration import ece_rows, sigmoid
from prmbench.stats.steps import (
    LabelledSteps,
    figures,
    first_error_cells,
    mean_of_known,
    solution_cells,
)
from prmbench.stats.thresholds import f1_from_counts
from prmbench.stats.weighted import resample

Floats = NDArray[np.float64]
STEP_FIGURES = ("prm_score", "f1_right", "f1_wrong", "balanced_f1", "accuracy")


@dataclass(frozen=True)
class Labels:
    """The items of one subset, sorted by id, so that nothing depends on file order.

    Attributes:
        name: The subset.
        items: The items.
    """

    name: str
    items: list[LabelledItem]

    @property
    def ids(self) -> list[str]:
        """The ids of the items."""
        return [item.id for item in self.items]

    def steps(self, scores: Sequence[Floats]) -> LabelledSteps:
        """Join the steps whose label is known. Neutral steps count as right.

        Args:
            scores: One score a step for each item.
        """
        labels = [np.array(item.labels) for item in self.items]
        known = [one != "unknown" for one in labels]
        flat = np.concatenate([row[keep] for row, keep in zip(scores, known, strict=True)])
        wrong = np.concatenate([one[keep] == "wrong" for one, keep in zip(labels, known, strict=True)])
        trace = np.repeat(np.arange(len(labels)), [int(keep.sum()) for keep in known])
        return LabelledSteps(flat, wrong, trace, len(labels))

    def first_errors(self) -> list[int | None]:
        """Index of the first wrong step of each item, -1: none; None where an unknown step leaves it open."""
        ends = [item.label if item.label >= 0 else len(item.labels) for item in self.items]
        return [
            None if "unknown" in item.labels[:end] else item.label for item, end in zip(self.items, ends, strict=True)
        ]

    def wrong_solutions(self) -> list[bool | None]:
        """Whether each item has a wrong step; None where none is known and some steps are not."""
        return [True if item.label >= 0 else None if "unknown" in item.labels else False for item in self.items]

    def classes(self) -> dict[str, NDArray[np.bool_]]:
        """The members of each class of error, in the order of their names. Shape [n] each."""
        of = np.array([item.error_class or "" for item in self.items])
        return {str(name): of == name for name in np.unique(of) if name}

    def stream(self, *numbers: int) -> np.random.Generator:
        """A random stream that depends on the subset's name, not on which others are there.

        Args:
            *numbers: Seeds.
        """
        return np.random.default_rng([zlib.crc32(self.name.encode()), *numbers])


@dataclass
class _Figures:
    """Figures of one subset as functions of the traces' weights, so that one bootstrap serves them all."""

    cells: dict[str, Floats] = field(default_factory=dict)
    others: dict[str, Callable[[Floats], Floats]] = field(default_factory=dict)

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Compute every figure under each row of weights. Shape [rows, n] to [rows] each."""
        every = np.concatenate(list(self.cells.values()), axis=1)
        counts = (weights @ every).reshape(len(weights), len(self.cells), 4)
        out: dict[str, Floats] = {}
        for i, key in enumerate(self.cells):
            of = counts[:, i]
            if key.endswith("|first_error_f1"):
                out[key] = f1_from_counts(*of.T)
                continue
            found = figures(of)
            tp, fp, tn, fn = self.cells[key].sum(axis=0)
            if tp + fn > 0 and fp + tn > 0:  # a resample without one of the two sorts has no mean of both
                found["prm_score"] = (found["f1_right"] + found["f1_wrong"]) / 2
            if key.endswith("|solution_f1"):
                out[key] = found["prm_score"]
            else:
                out |= {f"{key}|{name}": value for name, value in found.items()}
        return out | {key: of(weights) for key, of in self.others.items()}


def compute_metrics(
    items: Sequence[LabelledItem],
    beta: float,
    fixed: Mapping[str, float],
    given: Mapping[str, float],
    statistics: Statistics,
) -> StepLabelsMetrics:
    """Compute all figures of an entry.

    Args:
        items: The items of one run; at least one.
        beta: Scale of the stored sums.
        fixed: Thresholds of the protocols whose logit is a probability's.
        given: Thresholds that were chosen elsewhere, by protocol.
        statistics: Resamples and seed.

    Raises:
        ValueError: A NaN score; the message names the item.
    """
    subsets = [Labels(name, mine) for name, mine in by_subset(items).items()]
    names = protocols_of(items[0].scores is not None)
    scored = {s.name: [item_scores(item, beta) for item in s.items] for s in subsets}
    protocols = {
        name: _protocol(
            subsets,
            {s.name: [row[name] for row in scored[s.name]] for s in subsets},
            {"given": given.get(name), "fixed": fixed.get(name)},
            statistics,
        )
        for name in names
    }
    position = {s.name: [-np.arange(len(item.labels), dtype=np.float64) for item in s.items] for s in subsets}
    length = {s.name: [-item.n_tokens.astype(np.float64) for item in s.items] for s in subsets}
    baselines = {
        "random": _random_baseline(subsets, statistics),
        "position": _protocol(subsets, position, {}, statistics),
    }
    if any(item.n_tokens.any() for item in items):  # scores made elsewhere come without tokens
        baselines["length"] = _protocol(subsets, length, {}, statistics)
    return StepLabelsMetrics(
        protocols=protocols,
        baselines=baselines,
        given={name: value for name, value in given.items() if name in names},
    )


def choose_thresholds(
    subset: Labels, scores: Sequence[Floats], rule: str, known: Mapping[str, float | None], seed: int
) -> tuple[Floats, list[float]]:
    """Choose the threshold of each trace by a rule.

    Args:
        subset: The items.
        scores: One score a step for each item.
        rule: ``crossfit``, ``oracle``, or the name of a threshold that is known.
        known: Thresholds that do not depend on these items, by rule; None: there is none.
        seed: Seed of crossfit's folds.

    Returns:
        The threshold of each trace, shape [n]; and the different thresholds, one a fold.

    Raises:
        ValueError: The rule is not defined on these items.
    """
    if rule == "crossfit":
        chosen, folds = subset.steps(scores).crossfit_thresholds(subset.ids, seed=seed)
        return chosen, [float(chosen[folds == fold][0]) for fold in np.unique(folds)]
    value = subset.steps(scores).best_threshold() if rule == "oracle" else known.get(rule)
    if value is None:
        raise ValueError(f"threshold rule '{rule}' is not defined here; rules: {', '.join(RULES)}")
    return np.full(len(subset.items), value), [value]


def _protocol(
    subsets: Sequence[Labels],
    scores: Mapping[str, list[Floats]],
    known: Mapping[str, float | None],
    statistics: Statistics,
) -> StepProtocolResult:
    results, samples = {}, {}
    for subset in subsets:
        results[subset.name], samples[subset.name] = _subset(subset, scores[subset.name], known, statistics)
    mean = {}
    for rule in RULES:
        if all(rule in result.rules for result in results.values()):
            values = [np.array(result.rules[rule].prm_score.value, dtype=np.float64) for result in results.values()]
            drawn = [samples[name].get(f"{rule}|prm_score", np.empty(0)) for name in results]
            mean[rule] = _estimate(float(np.mean(values)), np.mean(drawn, axis=0))
    return StepProtocolResult(subsets=results, mean=mean)


def _subset(
    subset: Labels, scores: list[Floats], known: Mapping[str, float | None], statistics: Statistics
) -> tuple[StepSubsetResult, dict[str, Floats]]:
    """The figures of one subset, and the resamples of each."""
    steps, classes = subset.steps(scores), subset.classes()
    lowest = np.array([row.min() for row in scores])

    # The cells of every rule, those of each class of error among them.
    found, thresholds, undefined = _Figures(), {}, {}
    for rule in [rule for rule in RULES if rule in ("crossfit", "oracle") or known.get(rule) is not None]:
        try:
            chosen, thresholds[rule] = choose_thresholds(subset, scores, rule, known, statistics.seed)
        except ValueError as error:
            undefined[rule] = str(error)
            continue
        cells = steps.cells(chosen)
        found.cells[rule] = cells
        found.cells |= {f"{rule}|{name}": cells * members[:, None] for name, members in classes.items()}
        found.cells[f"{rule}|first_error_f1"] = firsts = first_error_cells(scores, subset.first_errors(), chosen)
        found.others |= _first_error_accuracies(f"{rule}|first_error_f1", firsts)
        found.cells[f"{rule}|solution_f1"] = solution_cells(lowest, subset.wrong_solutions(), chosen)

    # What needs no threshold.
    if not found.cells:
        found.cells["none"] = np.zeros((len(scores), 4))
    wins = steps.wins()
    found.others |= {"auc": lambda w: auc(wins, w), "average_precision": steps.average_precision}
    if known.get("fixed") is not None and len(steps.wrong):
        found.others |= _calibration(steps)

    # Values and intervals.
    values = {key: float(value[0]) for key, value in found(np.ones((1, len(scores)))).items()}
    numbers = np.arange(len(scores))
    samples = resample(numbers, found, statistics.n_resamples, subset.stream(statistics.seed))

    def estimate(key: str) -> Estimate:
        return _estimate(values[key], samples.get(key, np.empty(0)))

    def first_error(rule: str) -> Estimate:
        key = f"{rule}|first_error_f1"
        cells = found.cells[key]
        has_error, known = cells[:, 1] > 0, cells.any(axis=1)
        drawn = {"f1": samples.get(key, np.empty(0))}
        drawn |= {name: samples.get(f"{key}|{name}", np.empty(0)) for name in ("acc_error", "acc_correct")}
        ends = f1_intervals((cells[:, 0] + cells[:, 2] > 0)[known], has_error[known], drawn)["f1"]
        return _with_ends(values[key], ends)

    def of_cells(key: str) -> dict[str, Estimate | StepCounts]:
        tp, fp, tn, fn = found.cells[key].sum(axis=0).astype(int).tolist()
        return {
            **{name: estimate(f"{key}|{name}") for name in STEP_FIGURES},
            "counts": StepCounts(tp=tp, fp=fp, tn=tn, fn=fn),
        }

    def categories(rule: str) -> dict[str, Estimate]:
        out = {}
        for category, members in categories_of(list(classes)).items():
            keys = [f"{rule}|{name}|prm_score" for name in members]
            drawn = mean_of_known(*(samples[key] for key in keys)) if samples else np.empty(0)
            out[category] = _estimate(float(mean_of_known(*(np.array(values[key]) for key in keys))), drawn)
        return out

    rules = {
        rule: StepRuleResult(
            **of_cells(rule),
            first_error_f1=first_error(rule),
            solution_f1=estimate(f"{rule}|solution_f1"),
            thresholds=thresholds[rule],
            classes={name: StepFigures(**of_cells(f"{rule}|{name}")) for name in classes},
            categories=categories(rule),
        )
        for rule in thresholds
    }
    oracle, crossfit = (rules[rule].prm_score.value if rule in rules else None for rule in ("oracle", "crossfit"))
    calibrated = "ece" in values
    return StepSubsetResult(
        rules=rules,
        undefined=undefined,
        optimism=oracle - crossfit if oracle is not None and crossfit is not None else None,
        step_auc=estimate("auc"),
        average_precision=estimate("average_precision"),
        calibration=StepCalibration(ece=estimate("ece"), brier=estimate("brier")) if calibrated else None,
    ), samples


def _calibration(steps: LabelledSteps) -> dict[str, Callable[[Floats], Floats]]:
    """Calibration of logits, under rows of the traces' weights."""
    probability, right = sigmoid(steps.scores), (~steps.wrong).astype(np.float64)
    square = (probability - right) ** 2

    def brier(weights: Floats) -> Floats:
        total = weights @ np.bincount(steps.trace, minlength=steps.n)
        summed = weights @ np.bincount(steps.trace, weights=square, minlength=steps.n)
        with np.errstate(invalid="ignore"):
            return np.asarray(summed / total)

    def ece(weights: Floats) -> Floats:
        rows = max(1, (1 << 22) // len(right))
        parts = [weights[i : i + rows][:, steps.trace] for i in range(0, len(weights), rows)]
        with np.errstate(invalid="ignore"):
            return np.concatenate([ece_rows(probability, right, part) for part in parts])

    return {"ece": ece, "brier": brier}


def _first_error_accuracies(key: str, cells: Floats) -> dict[str, Callable[[Floats], Floats]]:
    """Shares of the traces with and without an error whose first wrong step is found, under rows of the traces' weights."""

    def share(hit: int, weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray((weights @ cells[:, hit]) / (weights @ cells[:, hit + 1]))

    return {f"{key}|acc_error": partial(share, 0), f"{key}|acc_correct": partial(share, 2)}


def _estimate(value: float, samples: Floats) -> Estimate:
    return _with_ends(value, interval(samples))


def _with_ends(value: float, ends_found: tuple[float, float]) -> Estimate:
    low, high = ends_found
    ends = [None if np.isnan(end) or np.isnan(value) else end for end in (low, high)]
    return Estimate(value=None if np.isnan(value) else value, low=ends[0], high=ends[1])


def _random_baseline(subsets: Sequence[Labels], statistics: Statistics) -> StepProtocolResult:
    """The mean of `N_RANDOM` draws of uniform scores; without intervals, thresholds and classes."""
    alone = Statistics(0, statistics.seed)
    draws = []
    for draw in range(N_RANDOM):
        streams = {s.name: s.stream(statistics.seed, draw) for s in subsets}
        scores = {s.name: [streams[s.name].random(len(item.labels)) for item in s.items] for s in subsets}
        draws.append(_protocol(subsets, scores, {}, alone))

    def average(estimates: Sequence[Estimate]) -> Estimate:
        values = [one.value for one in estimates if one.value is not None]
        return Estimate(value=float(np.mean(values)) if values else None)

    results = {}
    for name, first in draws[0].subsets.items():
        same = [draw.subsets[name] for draw in draws]
        rules = {
            rule: StepRuleResult(
                **{
                    one: average([getattr(s.rules[rule], one) for s in same])
                    for one in (*STEP_FIGURES, "first_error_f1", "solution_f1")
                },
                thresholds=[],
            )
            for rule in first.rules
        }
        results[name] = StepSubsetResult(
            rules=rules,
            undefined=first.undefined,
            step_auc=average([s.step_auc for s in same]),
            average_precision=average([s.average_precision for s in same]),
        )
    return StepProtocolResult(
        subsets=results, mean={rule: average([draw.mean[rule] for draw in draws]) for rule in draws[0].mean}
    )
