"""ProcessBench on a report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.parts import Cell, Picture, Section, ShownItem, ShownStep, ShownTable, about, to_svg
from prmbench.benchmarks.processbench.metrics import Predictions, by_subset, item_scores, predict
from prmbench.benchmarks.processbench.plots import calibration, f1_against_threshold, scores_around_errors
from prmbench.benchmarks.processbench.schema import BASELINES, RULES, ProcessBenchEntry, SubsetResult, TraceItem, quoted
from prmbench.benchmarks.trace_tables import against_baselines, main_protocol
from prmbench.data.traces import Trace
from prmbench.stats.protocols import DIRECT

Floats = NDArray[np.float64]

RIGHT = "right"
HOW_WRONG = (
    "The most wrong stand first: by how far the first error lies above its threshold, or a flagged step below it, in standard "
    "deviations of its subset's scores."
)
RULE_WORDS = {
    "crossfit": "each fold predicted with the threshold of the other four",
    "gsm8k": "chosen on gsm8k, applied to all",
    "oracle": "chosen on these very traces: an upper bound",
    "fixed": "probability 0.5",
    DIRECT: "a critic's own verdict, no threshold",
}


def section(measured: Measured, traces: Sequence[Trace] | None) -> Section:
    """Tables, pictures, and every trace, those first that were predicted wrong by the widest margin.

    Args:
        measured: The entry and its items.
        traces: Problems and solutions, where they are at hand.
    """
    entry: ProcessBenchEntry = measured.entry
    main = main_protocol(entry)
    found = entry.metrics.protocols[main].subsets
    used = [rule for rule in RULES if any(rule in p.mean for p in entry.metrics.protocols.values())]
    used = ["crossfit", *used] if used == [DIRECT] else used  # of the baselines
    tables = _tables(entry, used)
    votes = main == DIRECT  # there are no scores to draw, nor margins to rank by
    items = _shown(measured.items, entry, main, traces)
    n_wrong = sum(one.outcome != RIGHT for one in items)
    how = main if votes else f"{main}, crossfit"
    notes = [f"{len(items):,} traces, {n_wrong:,} of them predicted wrong ({how}).", *([] if votes else [HOW_WRONG])]
    notes += ["Their text is not shown: the report was made without the data."] if traces is None else []
    lines = [*about(entry), *(_votes(found) if votes else against_baselines(entry, quoted))]
    return Section(
        "ProcessBench",
        lines,
        tables,
        [] if votes else _pictures(measured, used),
        items,
        " ".join(notes) if items else "",
    )


def _tables(entry: ProcessBenchEntry, used: Sequence[str]) -> list[tuple[str, ShownTable]]:
    metrics, subsets = entry.metrics, list(entry.benchmark.subsets)
    baselines = [(f"baseline: {kind}", metrics.baselines[kind]) for kind in BASELINES if kind in metrics.baselines]
    rows = [
        (name, [Cell.of(result.mean.get(rule)) for rule in used])
        for name, result in [*metrics.protocols.items(), *baselines]
    ]
    over = "mean over subsets, " if len(subsets) > 1 else ""
    tables = [(f"F1 in %, {over}by step score and threshold", ShownTable(["step score", *used], rows))]
    if len(subsets) > 1:
        by_subset = [
            (name, [Cell.of(here.f1 if (here := quoted(result.subsets[s].rules)) else None) for s in subsets])
            for name, result in metrics.protocols.items()
        ]
        tables.append(("F1 in % by subset, crossfit thresholds", ShownTable(["step score", *subsets], by_subset)))
    main = main_protocol(entry)
    for subset in subsets:
        found = metrics.protocols[main].subsets[subset]
        for title, groups in (("position of the first error", found.by_position), ("generator", found.by_generator)):
            cells = [
                (f"{g.name} ({g.n_error:,} with an error)", [Cell(None if g.acc_error is None else 100 * g.acc_error)])
                for g in groups
                if g.n_error
            ]
            heading = f"{subset}: errors found exactly, in %, by {title} ({main})"
            tables.append((heading, ShownTable([title, "found"], cells)))
    return tables


def _pictures(measured: Measured, used: Sequence[str]) -> list[Picture]:
    entry: ProcessBenchEntry = measured.entry
    beta, main = entry.subject.beta, main_protocol(entry)
    found = entry.metrics.protocols[main].subsets
    mine = by_subset(measured.items)
    scores = {s: [item_scores(i, beta)[main] for i in mine[s]] for s in found}
    labels = {s: [i.label for i in mine[s]] for s in found}
    chosen = {s: {rule: result.thresholds for rule, result in found[s].rules.items()} for s in found}
    pictures = [
        Picture(
            to_svg(f1_against_threshold(scores, labels, chosen), "F1 against the threshold"),
            f"F1 of {main} at every threshold. " + "; ".join(f"{rule}: {RULE_WORDS[rule]}" for rule in used) + ".",
        ),
        Picture(
            to_svg(scores_around_errors(scores, labels), "Step scores around the first error"),
            f"Scores ({main}) of steps without an error in their trace, before the first error, at it, and after: quartiles, 5% to "
            "95%. The number of steps below each.",
        ),
    ]
    for protocol in entry.subject.fixed_thresholds:
        at = [item_scores(i, beta)[protocol] for i in measured.items]
        figure, ece = calibration(measured.items, at)
        pictures.append(
            Picture(
                to_svg(figure, "Reliability"),
                f"Reliability of {protocol}: its sigmoid against the share of steps up to which nothing is wrong (a stricter event "
                f"than a right final answer, which models that learn from outcomes predict). Expected calibration error {ece:.3f}.",
            )
        )
    return pictures


def _votes(found: Mapping[str, SubsetResult]) -> list[str]:
    return [
        f"{name}: {v.n - v.unparsed:,} of {v.n:,} votes hold a verdict; {v.undecided:,} traces have none and count as wrong"
        for name, result in found.items()
        if (v := result.votes)
    ]


def _shown(
    items: Sequence[TraceItem], entry: ProcessBenchEntry, protocol: str, traces: Sequence[Trace] | None
) -> list[ShownItem]:
    subject = entry.subject
    try:
        predictions = predict(items, subject.beta, subject.fixed_thresholds, protocol=protocol)
    except ValueError:  # a subset with one class only has no thresholds
        return []
    texts = {(t.subset, t.id): t for t in traces or ()}
    found = []
    for subset, one in predictions.items():
        # A critic's verdicts have no scores.
        blank = [np.full(len(item.n_tokens), np.nan) for item in one.items]
        rows = blank if protocol == DIRECT else [item_scores(item, subject.beta)[protocol] for item in one.items]
        found += _of_subset(subset, one, rows, texts)
    return sorted(found, key=lambda one: (-one.margin, one.subset, one.id))


def _outcome(label: int, predicted: int) -> str:
    if predicted == label:
        return RIGHT
    if label < 0:
        return "false alarm" if predicted > -1 else "no verdict"
    if predicted < 0:
        return "error missed" if predicted == -1 else "no verdict"
    return "too early" if predicted < label else "too late"


def _margin(row: Floats, label: int, predicted: int, threshold: float) -> float:
    """By how much a trace is predicted wrong, in units of its scores; below 0 where it is predicted right, by how much.

    Without scores (NaN): 1 where it is predicted wrong, else 0.
    """
    if np.isnan(row).all():
        return float(predicted != label)
    with np.errstate(invalid="ignore"):  # infinite scores
        if predicted == label:
            before = np.min(row[:label] if label >= 0 else row, initial=np.inf) - threshold
            margin = -min(before, threshold - row[label]) if label >= 0 else -before
        else:
            # What would have had to be the other way: the first error above the threshold, or a right step below it.
            missed = row[label] - threshold if label >= 0 and row[label] >= threshold else 0.0
            margin = max(missed, threshold - row[predicted] if predicted >= 0 else 0.0)
    return 0.0 if np.isnan(margin) else float(margin)


def _of_subset(
    subset: str, predictions: Predictions, rows: list[Floats], texts: Mapping[tuple[str, str], Trace]
) -> list[ShownItem]:
    """The items of a subset, what was predicted of them, and by how much that is wrong."""
    values = np.concatenate(rows)
    values = values[np.isfinite(values)]
    spread = (float(np.std(values)) if len(values) else 0.0) or 1.0
    found = []
    for item, row, predicted, threshold in zip(
        predictions.items, rows, predictions.predicted.tolist(), predictions.thresholds, strict=True
    ):
        trace = texts.get(item.key)
        steps = [
            ShownStep(
                number=i,
                score=None if np.isnan(score) else float(score),
                shade=0.0 if np.isnan(score) else float(np.clip((score - threshold) / (2 * spread), -1, 1)),
                text=trace.steps[i] if trace else None,
                is_error=i == item.label,
                is_flagged=i == predicted,
            )
            for i, score in enumerate(row)
        ]
        margin = _margin(row, item.label, predicted, float(threshold)) / spread
        outcome, problem = _outcome(item.label, predicted), trace.problem if trace else None
        found.append(ShownItem(item.id, subset, item.generator, item.label, predicted, outcome, margin, problem, steps))
    return found
