"""A step-labels entry on the screen: a table for each subset, classes of error, then what it means in words."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from prmbench.benchmarks.parts import at_risk
from prmbench.benchmarks.step_labels.schema import StepLabelsEntry, quoted
from prmbench.benchmarks.tables import heading, new_table, percent, percent_with_interval, safe
from prmbench.benchmarks.trace_tables import (
    against_baselines,
    empty_steps,
    main_protocol,
    oracle_gap,
    protocol_rows,
    undefined_rules,
    unverified,
)


def render(entry: StepLabelsEntry) -> RenderableType:
    """Show an entry as tables (in percent, 95% intervals in brackets) and sentences.

    Args:
        entry: The entry.
    """
    data = entry.benchmark.subsets.values()
    n_items, counts = sum(d.n_items for d in data), [d.counts for d in data]
    steps = ", ".join(
        f"{total:,} {name}"
        for name in ("right", "wrong", "neutral", "unknown")
        if (total := sum(c[name] for c in counts))
    )
    size = f"{n_items:,} traces, steps: {steps}"
    lines = heading(entry, "Step labels", size, f"{entry.benchmark.limit} traces of each subset")
    tables = [table for subset in entry.benchmark.subsets for table in _tables(entry, subset)]
    return Group(*map(safe, lines), *tables, *map(safe, [*sentences(entry), *at_risk(entry)]))


def _tables(entry: StepLabelsEntry, subset: str) -> list[Table]:
    """The figures of a subset by step score; and those of its classes of error, by the first step score."""
    main = rule_words(entry, subset)
    has = [
        (rule, title)
        for rule, title in (("given", "given"), ("fixed", "p=0.5"), ("oracle", "oracle"))
        if rule not in main and any(rule in p.subsets[subset].rules for p in entry.metrics.protocols.values())
    ]
    titles = ("PRMScore", "F1 right", "F1 wrong", "balanced", "first error", *(title for _, title in has), "AUC", "AP")
    table = new_table(f"{subset}: in %, {main} [95% interval]", "step score", titles)
    for title, result, end in protocol_rows(entry):
        found = result.subsets[subset]
        used = quoted(found.rules)
        names = ("f1_right", "f1_wrong", "balanced_f1", "first_error_f1")
        others = [found.rules.get(rule) for rule, _ in has]
        table.add_row(
            title,
            percent_with_interval(used.prm_score if used else None),
            *(percent(getattr(used, name) if used else None) for name in names),
            *(percent(one.prm_score if one else None) for one in others),
            percent(found.step_auc),
            percent(found.average_precision),
            end_section=end,
        )
    return [table, *_classes(entry, subset)]


def rule_words(entry: StepLabelsEntry, subset: str) -> str:
    """Say which thresholds the main figures of a subset have.

    Args:
        entry: The entry.
        subset: The subset.
    """
    rules = entry.metrics.protocols[main_protocol(entry)].subsets[subset].rules
    return f"threshold {'as given' if 'given' in rules and 'crossfit' not in rules else 'by crossfit'}"


def _classes(entry: StepLabelsEntry, subset: str) -> list[Table]:
    main = main_protocol(entry)
    found = quoted(entry.metrics.protocols[main].subsets[subset].rules)
    if found is None or not found.classes:
        return []
    table = new_table(
        f"{subset}: by class of error, {main}",
        "class",
        ["PRMScore", "F1 right", "F1 wrong"],
    )
    for i, (name, one) in enumerate(found.classes.items()):
        cells = percent_with_interval(one.prm_score), percent(one.f1_right), percent(one.f1_wrong)
        table.add_row(safe(name), *cells, end_section=i == len(found.classes) - 1)
    for name, mean in found.categories.items():
        table.add_row(safe(f"mean: {name}"), percent_with_interval(mean), "", "")
    return [table]


def sentences(entry: StepLabelsEntry) -> list[str]:
    """Say what the figures mean.

    Args:
        entry: The entry.
    """
    calibrated = {
        (subset, name): one.calibration
        for name, result in entry.metrics.protocols.items()
        for subset, one in result.subsets.items()
        if one.calibration is not None
    }
    return [
        *oracle_gap(entry),
        *against_baselines(entry, quoted),
        *(
            f"{subset}: calibration of {name} against right or wrong: expected error {c.ece.value:.3f}, Brier {c.brier.value:.3f}."
            for (subset, name), c in calibrated.items()
            if c.ece.value is not None and c.brier.value is not None
        ),
        *undefined_rules(entry),
        *empty_steps(entry, "they are blank, or a token spans two steps"),
        *unverified(entry),
    ]
