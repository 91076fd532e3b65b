"""A ProcessBench entry on the screen: one table, then what it means in words."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from prmbench.benchmarks.processbench.metrics import TRANSFER_SUBSET
from prmbench.benchmarks.processbench.run import ProcessBenchEntry
from prmbench.benchmarks.processbench.schema import ProtocolResult, quoted
from prmbench.results.schema import Estimate, what_it_is
from prmbench.stats.protocols import DIRECT

BASELINE_TITLES = {"random": "random score", "position": "position only", "length": "length only"}


def render(entry: ProcessBenchEntry) -> RenderableType:
    """The entry as a table (F1 in percent, 95% intervals in brackets) and sentences."""
    subsets = list(entry.benchmark.subsets)
    table = _one_subset(entry, subsets[0]) if len(subsets) == 1 else _many_subsets(entry, subsets)
    return Group(*(escape(line) for line in _heading(entry)), table, *(escape(line) for line in _sentences(entry)))


def main_protocol(entry: ProcessBenchEntry) -> str:
    """The protocol to read first: process where there is one (the paper's), else the only one."""
    return next(iter(entry.metrics.protocols))


def _heading(entry: ProcessBenchEntry) -> list[str]:
    subject, data = entry.subject, entry.benchmark.subsets.values()
    n_items, n_error = sum(d.n_items for d in data), sum(d.counts["error"] for d in data)
    lines = [
        f"ProcessBench: {subject.name} ({what_it_is(subject)}), {n_items:,} traces, {n_error:,} of them with an error"
    ]
    if entry.miniature:
        lines.append("Miniature: a synthetic world and a tiny model; it shows how things work, not how good they are.")
    if entry.benchmark.limit is not None:
        lines.append(f"Only {entry.benchmark.limit:,} traces of each subset: a try, not a result to quote.")
    return lines


def _rows(entry: ProcessBenchEntry) -> list[tuple[str, ProtocolResult, bool]]:
    """(title, result, whether a section ends after it)."""
    protocols = list(entry.metrics.protocols.items())
    rows = [(name, result, i == len(protocols) - 1) for i, (name, result) in enumerate(protocols)]
    return [*rows, *((BASELINE_TITLES[name], result, False) for name, result in entry.metrics.baselines.items())]


def _new_table(title: str) -> Table:
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("step score", no_wrap=True)
    return table


def _one_subset(entry: ProcessBenchEntry, subset: str) -> Table:
    has_fixed = any("fixed" in p.subsets[subset].policies for p in entry.metrics.protocols.values())
    table = _new_table(f"{subset}: F1 in %, threshold by crossfit [95% interval]")
    for title in ("F1", "acc error", "acc correct", *(["F1 at p=0.5"] if has_fixed else []), "F1 oracle", "step AUC"):
        table.add_column(title, justify="right", no_wrap=title in ("F1", "mean"))
    for title, result, end in _rows(entry):
        found = result.subsets[subset]
        crossfit, oracle, fixed = quoted(found.policies), found.policies.get("oracle"), found.policies.get("fixed")
        table.add_row(
            title,
            _with_interval(crossfit.f1 if crossfit else None),
            _percent(crossfit.acc_error if crossfit else None),
            _percent(crossfit.acc_correct if crossfit else None),
            *([_percent(fixed.f1 if fixed else None)] if has_fixed else []),
            _percent(oracle.f1 if oracle else None),
            _percent(found.step_auc),
            end_section=end,
        )
    return table


def _many_subsets(entry: ProcessBenchEntry, subsets: list[str]) -> Table:
    has = {
        policy: any(policy in p.mean for p in entry.metrics.protocols.values()) for policy in ("fixed", TRANSFER_SUBSET)
    }
    table = _new_table("F1 in %, threshold by crossfit [95% interval]")
    extra = [
        ("fixed", "mean at p=0.5"),
        (TRANSFER_SUBSET, f"mean, {TRANSFER_SUBSET} threshold"),
        ("oracle", "mean oracle"),
    ]
    shown = [(policy, title) for policy, title in extra if has.get(policy, True)]
    for title in (*subsets, "mean", *(title for _, title in shown)):
        table.add_column(title, justify="right", no_wrap=title in ("F1", "mean"))
    for title, result, end in _rows(entry):
        by_subset = [quoted(result.subsets[s].policies) for s in subsets]
        table.add_row(
            title,
            *(_percent(found.f1 if found else None) for found in by_subset),
            _with_interval(quoted(result.mean)),
            *(_percent(result.mean.get(policy)) for policy, _ in shown),
            end_section=end,
        )
    return table


def _sentences(entry: ProcessBenchEntry) -> list[str]:
    main = main_protocol(entry)
    found = entry.metrics.protocols[main]
    lines = _about_votes(found)
    crossfit, oracle = _value(quoted(found.mean)), _value(found.mean.get("oracle"))
    if crossfit is not None and oracle is not None:
        lines.append(
            f"Oracle thresholds are chosen on the very traces they are scored on: {100 * (oracle - crossfit):+.1f} points "
            f"for {main} here. Quote crossfit."
        )
    if crossfit is not None:
        knowing_nothing = {
            name: value
            for name, b in entry.metrics.baselines.items()
            if (value := _value(b.mean.get("crossfit"))) is not None
        }
        best = max(knowing_nothing, key=lambda name: knowing_nothing[name])
        verdict = "is above" if crossfit > knowing_nothing[best] else "is NOT above"
        lines.append(
            f"{main} ({100 * crossfit:.1f}) {verdict} the best score that knows nothing of the text "
            f"({BASELINE_TITLES[best]}: {100 * knowing_nothing[best]:.1f})."
        )
    reasons = {
        (subset, policy): reason
        for subset, result in found.subsets.items()
        for policy, reason in result.undefined.items()
    }
    if entry.subject.unverified:
        lines.append(
            f"unverified: the preset {entry.subject.preset} was not checked against numbers that its authors produced."
        )
    lines += [f"n/a: {subset}, {policy} threshold: {reason}." for (subset, policy), reason in reasons.items()]
    if empty := sum(data.counts["empty_steps"] for data in entry.benchmark.subsets.values()):
        lines.append(f"{empty:,} steps got no token of their own (a token spans two steps); their process score is 0.")
    lines += [f"At risk: {warning}." for warning in (entry.provenance.warnings if entry.provenance else [])]
    return lines


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


def _value(estimate: Estimate | None) -> float | None:
    return estimate.value if estimate else None


def _percent(estimate: Estimate | None) -> str:
    value = _value(estimate)
    return "n/a" if value is None else f"{100 * value:.1f}"


def _with_interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return _percent(estimate)
    return f"{_percent(estimate)} [dim]\\[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}][/dim]"
