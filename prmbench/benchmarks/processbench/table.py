"""A ProcessBench entry on the screen: one table, then what it means in words."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from prmbench.benchmarks.parts import at_risk
from prmbench.benchmarks.processbench.metrics import TRANSFER_SUBSET
from prmbench.benchmarks.processbench.schema import ProcessBenchEntry, ProtocolResult, quoted
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
from prmbench.stats.protocols import DIRECT


def render(entry: ProcessBenchEntry) -> RenderableType:
    """Show an entry as a table (F1 in percent, 95% intervals in brackets) and sentences.

    Args:
        entry: The entry.
    """
    subsets = list(entry.benchmark.subsets)
    one = len(subsets) == 1
    tables = [_one_subset(entry, subsets[0])] if one else [_many_subsets(entry, subsets), _parts(entry, subsets)]
    return Group(*(safe(line) for line in _heading(entry)), *tables, *(safe(line) for line in _sentences(entry)))


def _heading(entry: ProcessBenchEntry) -> list[str]:
    data = entry.benchmark.subsets.values()
    n_items, n_error = sum(d.n_items for d in data), sum(d.counts["error"] for d in data)
    size = f"{n_items:,} traces, {n_error:,} of them with an error"
    return heading(entry, "ProcessBench", size, f"{entry.benchmark.limit} traces of each subset")


def _one_subset(entry: ProcessBenchEntry, subset: str) -> Table:
    has_fixed = any("fixed" in p.subsets[subset].rules for p in entry.metrics.protocols.values())
    table = new_table(f"{subset}: F1 in %, threshold by crossfit [95% interval]", "step score")
    for title in ("F1", "acc error", "acc correct", *(["F1 at p=0.5"] if has_fixed else []), "F1 oracle", "step AUC"):
        table.add_column(safe(title), justify="right", no_wrap=title in ("F1", "mean"))
    for title, result, end in protocol_rows(entry):
        found = result.subsets[subset]
        crossfit, oracle, fixed = quoted(found.rules), found.rules.get("oracle"), found.rules.get("fixed")
        table.add_row(
            title,
            percent_with_interval(crossfit.f1 if crossfit else None),
            percent(crossfit.acc_error if crossfit else None),
            percent(crossfit.acc_correct if crossfit else None),
            *([percent(fixed.f1 if fixed else None)] if has_fixed else []),
            percent(oracle.f1 if oracle else None),
            percent(found.step_auc),
            end_section=end,
        )
    return table


def _many_subsets(entry: ProcessBenchEntry, subsets: list[str]) -> Table:
    has = {rule: any(rule in p.mean for p in entry.metrics.protocols.values()) for rule in ("fixed", TRANSFER_SUBSET)}
    table = new_table("F1 in %, threshold by crossfit [95% interval]", "step score")
    extra = [
        ("fixed", "mean at p=0.5"),
        (TRANSFER_SUBSET, f"mean, {TRANSFER_SUBSET} threshold"),
        ("oracle", "mean oracle"),
    ]
    shown = [(rule, title) for rule, title in extra if has.get(rule, True)]
    for title in (*subsets, "mean", *(title for _, title in shown)):
        table.add_column(safe(title), justify="right", no_wrap=title in ("F1", "mean"))
    for title, result, end in protocol_rows(entry):
        by_subset = [quoted(result.subsets[s].rules) for s in subsets]
        table.add_row(
            title,
            *(percent(found.f1 if found else None) for found in by_subset),
            percent_with_interval(quoted(result.mean)),
            *(percent(result.mean.get(rule)) for rule, _ in shown),
            end_section=end,
        )
    return table


def _parts(entry: ProcessBenchEntry, subsets: list[str]) -> Table:
    """The two accuracies that F1 is made of, and the step AUC, by subset."""
    table = new_table("acc error / acc correct / step AUC in %", "step score", subsets)
    for title, result, end in protocol_rows(entry):
        cells = []
        for found in (result.subsets[name] for name in subsets):
            chosen = quoted(found.rules)
            parts = (chosen.acc_error if chosen else None, chosen.acc_correct if chosen else None, found.step_auc)
            cells.append(" / ".join(percent(one) for one in parts))
        table.add_row(title, *cells, end_section=end)
    return table


def _sentences(entry: ProcessBenchEntry) -> list[str]:
    return [
        *_about_votes(entry.metrics.protocols[main_protocol(entry)]),
        *oracle_gap(entry),
        *against_baselines(entry, quoted),
        *unverified(entry),
        *undefined_rules(entry),
        *empty_steps(entry, "a token spans two steps"),
        *at_risk(entry),
    ]


def _about_votes(found: ProtocolResult) -> list[str]:
    """What became of a critic's votes."""
    votes = [result.votes for result in found.subsets.values() if result.votes]
    if not votes:
        return []
    n, unparsed, undecided, outside = (
        sum(getattr(v, f) for v in votes) for f in ("n", "unparsed", "undecided", "outside")
    )
    return [
        f"{DIRECT}: the critic names the first wrong step itself; there is no threshold to choose.",
        f"{n - unparsed:,} of {n:,} votes hold a verdict ({(n - unparsed) / n:.1%}); {undecided:,} traces have none and count as "
        f"wrong; {outside:,} verdicts are no step of their trace.",
    ]
