"""Step-labels metrics from items alone: no model, no problem text (docs/protocols.md, "Step labels")."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

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
CellsOf = TypeVar("CellsOf")
Key = tuple[str | None, str | None, str]
"""A figure: its threshold rule (None: it needs no threshold), its class of error (None: all), and its name."""

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


@dataclass(frozen=True)
class _Cells:
    """What the figures of one subset that need a threshold are counted from, of each trace. Shape [n, 4] each.

    Attributes:
        steps: Steps, by threshold rule and class of error; None for the class: all traces.
        first_errors: Predictions of the first wrong step, by threshold rule (`first_error_cells`).
        solutions: Solutions, by threshold rule (`solution_cells`).
    """

    steps: dict[tuple[str, str | None], Floats] = field(default_factory=dict)
    first_errors: dict[str, Floats] = field(default_factory=dict)
    solutions: dict[str, Floats] = field(default_factory=dict)

    def classes(self, rule: str) -> list[str]:
        """The classes of error that a rule has cells of."""
        return [of for name, of in self.steps if name == rule and of is not None]

    def figures(self, weights: Floats) -> dict[Key, Floats]:
        """Compute every figure under each row of the traces' weights. Shape [rows, n] to [rows] each."""
        out: dict[Key, Floats] = {}
        for (rule, of), counts in _counts(self.steps, weights).items():
            out |= {(rule, of, name): one for name, one in _figures(counts, self.steps[rule, of]).items()}
        for rule, counts in _counts(self.solutions, weights).items():
            out[rule, None, "solution_f1"] = _figures(counts, self.solutions[rule])["prm_score"]
        for rule, counts in _counts(self.first_errors, weights).items():
            out[rule, None, "first_error_f1"] = f1_from_counts(*counts.T)
            with np.errstate(invalid="ignore"):
                out[rule, None, "acc_error"] = counts[:, 0] / counts[:, 1]
                out[rule, None, "acc_correct"] = counts[:, 2] / counts[:, 3]
        return out


def _counts(cells: Mapping[CellsOf, Floats], weights: Floats) -> dict[CellsOf, Floats]:
    """Sum cells over the traces under each row of their weights, all in one product. Shape [n, 4] to [rows, 4] each."""
    if not cells:
        return {}
    summed = (weights @ np.concatenate(list(cells.values()), axis=1)).reshape(len(weights), len(cells), 4)
    return {of: summed[:, i] for i, of in enumerate(cells)}


def _figures(counts: Floats, cells: Floats) -> dict[str, Floats]:
    """The figures of counts, shape [rows, 4], of resamples of some cells."""
    found = figures(counts)
    tp, fp, tn, fn = cells.sum(axis=0)
    if tp + fn > 0 and fp + tn > 0:  # a resample without one of the two sorts has no mean of both
        found["prm_score"] = (found["f1_right"] + found["f1_wrong"]) / 2
    return found


@dataclass(frozen=True)
class _Measured:
    """The figures of one subset, and their resamples where any were drawn."""

    values: dict[Key, float]
    samples: dict[Key, Floats]

    def drawn(self, rule: str | None, of: str | None, name: str) -> Floats:
        """The resamples of a figure; none where none were drawn. Shape [b]."""
        return self.samples.get((rule, of, name), np.empty(0))

    def estimate(self, rule: str | None, of: str | None, name: str) -> Estimate:
        """A figure with its interval."""
        return _estimate(self.values[rule, of, name], self.drawn(rule, of, name))


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
    results, measured = {}, []
    for subset in subsets:
        results[subset.name], found = _subset(subset, scores[subset.name], known, statistics)
        measured.append(found)
    mean = {}
    for rule in RULES:
        if all(rule in result.rules for result in results.values()):
            values = [np.array(result.rules[rule].prm_score.value, dtype=np.float64) for result in results.values()]
            drawn = [one.drawn(rule, None, "prm_score") for one in measured]
            mean[rule] = _estimate(float(np.mean(values)), np.mean(drawn, axis=0))
    return StepProtocolResult(subsets=results, mean=mean)


def _subset(
    subset: Labels, scores: list[Floats], known: Mapping[str, float | None], statistics: Statistics
) -> tuple[StepSubsetResult, _Measured]:
    """The figures of one subset as an entry has them, and with the resamples of each."""
    steps = subset.steps(scores)
    cells, thresholds, undefined = _by_rule(subset, steps, scores, known, statistics.seed)

    # What needs no threshold.
    wins = steps.wins()
    others = {"auc": lambda weights: auc(wins, weights), "average_precision": steps.average_precision}
    calibrated = known.get("fixed") is not None and len(steps.wrong) > 0
    if calibrated:
        others |= _calibration(steps)

    # One bootstrap serves all figures.
    def compute(weights: Floats) -> dict[Key, Floats]:
        return cells.figures(weights) | {(None, None, name): of(weights) for name, of in others.items()}

    n = len(scores)
    found = _Measured(
        {key: float(value[0]) for key, value in compute(np.ones((1, n))).items()},
        resample(np.arange(n), compute, statistics.n_resamples, subset.stream(statistics.seed)),
    )

    rules = {rule: _rule(rule, cells, found, chosen) for rule, chosen in thresholds.items()}
    oracle, crossfit = (rules[rule].prm_score.value if rule in rules else None for rule in ("oracle", "crossfit"))
    plain = {name: found.estimate(None, None, name) for name in others}
    return StepSubsetResult(
        rules=rules,
        undefined=undefined,
        optimism=oracle - crossfit if oracle is not None and crossfit is not None else None,
        step_auc=plain["auc"],
        average_precision=plain["average_precision"],
        calibration=StepCalibration(ece=plain["ece"], brier=plain["brier"]) if calibrated else None,
    ), found


def _by_rule(
    subset: Labels, steps: LabelledSteps, scores: list[Floats], known: Mapping[str, float | None], seed: int
) -> tuple[_Cells, dict[str, list[float]], dict[str, str]]:
    """The cells and the thresholds of each rule, and why a rule has none."""
    classes = subset.classes()
    lowest = np.array([row.min() for row in scores])
    found, thresholds, undefined = _Cells(), {}, {}
    for rule in [rule for rule in RULES if rule in ("crossfit", "oracle") or known.get(rule) is not None]:
        try:
            chosen, thresholds[rule] = choose_thresholds(subset, scores, rule, known, seed)
        except ValueError as error:
            undefined[rule] = str(error)
            continue
        found.steps[rule, None] = cells = steps.cells(chosen)
        for name, members in classes.items():
            found.steps[rule, name] = cells * members[:, None]
        found.first_errors[rule] = first_error_cells(scores, subset.first_errors(), chosen)
        found.solutions[rule] = solution_cells(lowest, subset.wrong_solutions(), chosen)
    return found, thresholds, undefined


def _rule(rule: str, cells: _Cells, found: _Measured, thresholds: list[float]) -> StepRuleResult:
    """The figures under one threshold rule."""

    def of_steps(of: str | None) -> dict[str, Any]:
        tp, fp, tn, fn = cells.steps[rule, of].sum(axis=0).astype(int).tolist()
        return {
            **{name: found.estimate(rule, of, name) for name in STEP_FIGURES},
            "counts": StepCounts(tp=tp, fp=fp, tn=tn, fn=fn),
        }

    def mean_of(members: Sequence[str]) -> Estimate:
        values = [np.array(found.values[rule, of, "prm_score"]) for of in members]
        drawn = [found.drawn(rule, of, "prm_score") for of in members]
        return _estimate(float(mean_of_known(*values)), mean_of_known(*drawn))

    classes = cells.classes(rule)
    return StepRuleResult(
        **of_steps(None),
        first_error_f1=_first_error(rule, cells.first_errors[rule], found),
        solution_f1=found.estimate(rule, None, "solution_f1"),
        thresholds=thresholds,
        classes={of: StepFigures(**of_steps(of)) for of in classes},
        categories={category: mean_of(members) for category, members in categories_of(classes).items()},
    )


def _first_error(rule: str, cells: Floats, found: _Measured) -> Estimate:
    """ProcessBench's F1, whose interval has a width where the figure is 0 or 1 too."""
    has_error, known = cells[:, 1] > 0, cells.any(axis=1)
    drawn = {name: found.drawn(rule, None, name) for name in ("acc_error", "acc_correct")}
    drawn["f1"] = found.drawn(rule, None, "first_error_f1")
    ends = f1_intervals((cells[:, 0] + cells[:, 2] > 0)[known], has_error[known], drawn)["f1"]
    return _with_ends(found.values[rule, None, "first_error_f1"], ends)


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
