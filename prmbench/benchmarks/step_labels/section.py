"""Step labels on a report's page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.parts import Cell, Picture, Section, ShownTable, about, to_svg
from prmbench.benchmarks.processbench.metrics import by_subset, item_scores
from prmbench.benchmarks.step_labels.schema import StepLabelsEntry, quoted
from prmbench.benchmarks.step_labels.table import rule_words, sentences
from prmbench.benchmarks.trace_tables import BASELINE_TITLES, main_protocol
from prmbench.data.traces import Trace

STEPS = {"prm_score": "PRMScore", "f1_right": "F1 right", "f1_wrong": "F1 wrong", "balanced_f1": "balanced F1"}
OTHERS = {
    "accuracy": "accuracy of steps",
    "first_error_f1": "F1 of first errors",
    "solution_f1": "macro F1 of solutions",
}


def section(measured: Measured, traces: Sequence[Trace] | None) -> Section:
    """Tables by step score, threshold rule and class of error, and pictures of the scores.

    Args:
        measured: The entry and its items.
        traces: Not used: what is shown needs no text.
    """
    entry: StepLabelsEntry = measured.entry
    tables = [table for subset in entry.benchmark.subsets for table in _tables(entry, subset)]
    return Section("Step labels", [*about(entry), *sentences(entry)], tables, _pictures(measured))


def _tables(entry: StepLabelsEntry, subset: str) -> list[tuple[str, ShownTable]]:
    main = main_protocol(entry)
    rows = [
        *entry.metrics.protocols.items(),
        *((f"baseline: {BASELINE_TITLES[name]}", one) for name, one in entry.metrics.baselines.items()),
    ]
    by_score, others = [], []
    for name, result in rows:
        found = result.subsets[subset]
        rule = quoted(found.rules)
        cells, more = ([Cell.of(getattr(rule, one) if rule else None) for one in names] for names in (STEPS, OTHERS))
        by_score.append((name, [*cells, Cell.of(found.step_auc), Cell.of(found.average_precision)]))
        others.append((name, more))
    rules = entry.metrics.protocols[main].subsets[subset].rules
    by_rule = [(rule, [Cell.of(getattr(one, name)) for name in STEPS]) for rule, one in rules.items()]
    heading = f"{subset}: in %, by step score, {rule_words(entry, subset)}"
    tables = [
        (heading, ShownTable(["step score", *STEPS.values(), "AUC", "AP"], by_score)),
        (f"{heading}: other figures", ShownTable(["step score", *OTHERS.values()], others)),
        (f"{subset}: in %, by threshold rule, {main}", ShownTable(["threshold", *STEPS.values()], by_rule)),
    ]
    chosen = quoted(rules)
    if chosen is not None and chosen.classes:
        classes = [(name, [Cell.of(getattr(one, f)) for f in STEPS]) for name, one in chosen.classes.items()]
        means = [(name, [Cell.of(mean)]) for name, mean in chosen.categories.items()]
        tables += [
            (f"{subset}: in %, by class of error, {main}", ShownTable(["class", *STEPS.values()], classes)),
            (
                f"{subset}: mean PRMScore in % of the classes of a category, {main}",
                ShownTable(["category", "PRMScore"], means),
            ),
        ]
    return tables


def _pictures(measured: Measured) -> list[Picture]:
    """The scores of right, neutral and wrong steps, by the first step score."""
    entry: StepLabelsEntry = measured.entry
    main, subsets = main_protocol(entry), by_subset(measured.items)
    figure = Figure(figsize=(4.2 * len(subsets), 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(subsets)))
    for axis, (name, items) in zip(axes, subsets.items(), strict=True):
        scores = np.concatenate([item_scores(item, entry.subject.beta)[main] for item in items])
        labels = np.concatenate([np.array(item.labels) for item in items])
        finite = scores[np.isfinite(scores)]
        low, high = np.quantile(finite, [0.01, 0.99]) if len(finite) else (-1.0, 1.0)
        bins = np.linspace(low, high if high > low else low + 1, 40)
        for label in ("right", "neutral", "wrong"):
            here = np.clip(scores[labels == label], bins[0], bins[-1])
            if len(here):
                axis.hist(
                    here,
                    bins,
                    weights=np.full(len(here), 1 / len(here)),
                    histtype="step",
                    label=f"{label} ({len(here):,})",
                )
        rule = quoted(entry.metrics.protocols[main].subsets[name].rules)
        for i, threshold in enumerate(rule.thresholds if rule else []):
            axis.axvline(threshold, color="0.5", lw=0.8, label="thresholds" if i == 0 else None)
        axis.set_title(name, parse_math=False)
        axis.set_xlabel(main)
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("share of steps")
    caption = f"Scores ({main}) of steps by their label, and the thresholds that the main figures have."
    return [Picture(to_svg(figure, "Scores of steps by label"), caption)]
