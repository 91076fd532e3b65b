"""Is an entry what its items say? Every hash, count and figure computed again, and whatever differs named."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prmbench.benchmarks.best_of_n.metrics import compute_best_of_n, read_candidates
from prmbench.benchmarks.best_of_n.run import best_of_n_benchmark
from prmbench.benchmarks.calibration import run as calibration_probe
from prmbench.benchmarks.candidate_sets import run as candidates_probe
from prmbench.benchmarks.policy.run import build_policy_entry, read_completions
from prmbench.benchmarks.processbench.metrics import Plan
from prmbench.benchmarks.processbench.run import build_entry
from prmbench.benchmarks.td_probe import metrics as td_probe_metrics
from prmbench.benchmarks.td_probe import run as td_probe
from prmbench.data.traces import Trace
from prmbench.errors import UserError, shortened
from prmbench.reports.compare import ALL_TYPES, AnyEntry, find_entry, read_any_entry
from prmbench.results.items import TraceItem, read_items, statistics_of
from prmbench.results.schema import Benchmark, Items
from prmbench.reward_models.objectives import Convention

TOLERANCE = 1e-9
"""Of figures, relative: sums in another order on another machine."""

MOST_NAMED = 5


def verify_entry(path: str | Path, traces: Sequence[Trace] | None = None) -> list[str]:
    """What is wrong with a measured entry; nothing when it is as its items say.

    Args:
        path: an entry file or its folder.
        traces: the data, where they are at hand: then labels and traces that were changed are named too.

    Raises:
        UserError: no entry, or a broken one; a broken items file.
    """
    file = find_entry(path)
    entry = read_any_entry(file, ALL_TYPES)
    if entry.status != "measured":
        return [f"{file}: field 'status' is '{entry.status}': an entry with items is 'measured'"]
    if entry.items is None:
        return [f"{file}: field 'items' is empty: a measured entry has items"]
    if entry.provenance is None:
        return [f"{file}: field 'provenance' is empty: a measured entry says what seed its intervals are of"]
    items_file = file.parent / Path(entry.items.file).name
    if not items_file.exists():
        return [f"{items_file}: no such items file; it belongs beside the entry"]
    found: list[str] = []
    content = items_file.read_bytes()
    described = Items(file=entry.items.file, sha256=hashlib.sha256(content).hexdigest(), n=content.count(b"\n"))
    for name in ("n", "sha256"):
        said, real = getattr(entry.items, name), getattr(described, name)
        if said != real:
            found.append(f"{items_file}: field 'items.{name}' of the entry is {said}, of the file {real}")
    again, items = _recompute(entry, items_file)
    if traces is not None:
        found += _against_data(items_file, [i for i in items if isinstance(i, TraceItem)], traces)
    ignored = {"provenance", "items", "subject", "status", "miniature", "schema_version"}
    mine, theirs = (one.model_dump(mode="json", exclude=ignored) for one in (entry, again))
    differences = list(_differences("", mine, theirs))
    found += [
        f"{file}: field '{where}' is {shortened(repr(said))}; its items give {shortened(repr(real))}"
        for where, said, real in differences[:MOST_NAMED]
    ]
    if len(differences) > MOST_NAMED:
        found.append(f"{file}: and {len(differences) - MOST_NAMED:,} more fields that its items do not give")
    return found


def unchecked_subsets(path: str | Path, traces: Sequence[Trace]) -> list[str]:
    """Subsets of an entry that these data do not hold, so that its labels there cannot be checked against them."""
    there = {trace.subset for trace in traces}
    entry = read_any_entry(find_entry(path), ALL_TYPES)
    return [name for name in entry.benchmark.subsets if name not in there]


_PROBES: dict[str, tuple[Callable[..., list[Any]], Callable[..., Benchmark], Callable[..., Any]]] = {
    td_probe.NAME: (
        td_probe_metrics.read_branches,
        td_probe.td_probe_benchmark,
        lambda items, entry, kept: td_probe_metrics.compute_td_probe(items, entry.subject, **kept),
    ),
    calibration_probe.NAME: (
        calibration_probe.read_calibration_items,
        calibration_probe.calibration_benchmark,
        lambda items, entry, kept: calibration_probe.compute_calibration(items, entry.subject, **kept),
    ),
    candidates_probe.NAME: (
        candidates_probe.read_candidates_items,
        candidates_probe.candidates_benchmark,
        lambda items, _, kept: candidates_probe.compute_candidates(items, **kept),
    ),
}
"""Of each probe: how its items are read, what they are of, and its figures."""


def _recompute(entry: AnyEntry, items_file: Path) -> tuple[AnyEntry, list[Any]]:
    name, statistics = entry.benchmark.name, statistics_of(entry.provenance, None, None)
    if name == "processbench":
        traces = read_items(items_file)
        plan = Plan(statistics["n_resamples"], statistics["seed"])
        assert entry.items is not None
        again: AnyEntry = build_entry(traces, entry.subject, plan, entry.items, None, entry.benchmark.limit)
        return again, list(traces)
    if name == "policy":
        completions = read_completions(items_file)
        settings, limit = entry.benchmark.settings, entry.benchmark.limit
        return build_policy_entry(
            completions, entry.subject, settings, None, statistics["n_resamples"], statistics["seed"], limit
        ), list(completions)
    if name in _PROBES:
        read, describe, compute = _PROBES[name]
        items = read(items_file)
        changes = {"benchmark": describe(items, entry.benchmark.settings), "metrics": compute(items, entry, statistics)}
        return entry.model_copy(update=changes), items
    candidates = read_candidates(items_file)
    again = entry.model_copy(
        update={
            "benchmark": best_of_n_benchmark(candidates, entry.benchmark.settings, entry.benchmark.limit),
            "metrics": compute_best_of_n(
                candidates, Convention.of(entry.subject), sizes=entry.metrics.sizes, **statistics
            ),
        }
    )
    return again, list(candidates)


def _against_data(items_file: Path, items: Sequence[TraceItem], traces: Sequence[Trace]) -> list[str]:
    real = {(trace.subset, trace.id): trace for trace in traces}
    found = []
    for item in items:
        trace = real.get(item.key)
        name = f"{items_file}: item '{item.id}' of {item.subset}"
        if trace is None:
            if any(subset == item.subset for subset, _ in real):
                found.append(f"{name} is not in the data")
        elif item.label != trace.label:
            found.append(f"{name} has label {item.label}, the data {trace.label}")
        elif item.digest != trace.digest():
            found.append(f"{name} is of another trace than the data have (digest)")
    return [
        *found[:MOST_NAMED],
        *([f"{items_file}: and {len(found) - MOST_NAMED:,} more items"] if len(found) > MOST_NAMED else []),
    ]


def _differences(where: str, said: Any, real: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(said, dict) and isinstance(real, dict):
        for key in [*said, *(k for k in real if k not in said)]:
            yield from _differences(f"{where}.{key}" if where else key, said.get(key), real.get(key))
    elif isinstance(said, list) and isinstance(real, list) and len(said) == len(real):
        for i, (a, b) in enumerate(zip(said, real, strict=True)):
            yield from _differences(f"{where}[{i}]", a, b)
    elif isinstance(said, float) and isinstance(real, float):
        if not math.isclose(said, real, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield where, said, real
    elif said != real:
        yield where, said, real


def require_valid(path: str | Path, traces: Sequence[Trace] | None = None) -> None:
    """Raise UserError with the first thing that is wrong with an entry (`verify_entry`), and how many more there are."""
    found = verify_entry(path, traces)
    if found:
        more = f" (and {len(found) - 1} more; `prmbench leaderboard verify` lists them)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{more}")
