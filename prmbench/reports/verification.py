"""Is an entry what its items say? Every hash, count and figure is computed again, and whatever differs is named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prmbench.benchmarks.registry import find_benchmark, find_entry, read_any_entry, statistics_of
from prmbench.benchmarks.runner import describe_items
from prmbench.data.records import file_hash, open_file
from prmbench.data.traces import Trace
from prmbench.errors import UserError, printable, shortened
from prmbench.results.schema import Items

TOLERANCE = 1e-9
"""Of figures, relative: sums in another order on another machine."""

MOST_NAMED = 5


def verify_entry(path: str | Path, traces: Sequence[Trace] | None = None) -> list[str]:
    """Say what is wrong with a measured entry.

    Args:
        path: An entry file, or its folder.
        traces: The data, where they are at hand: then labels and traces that were changed are named too.

    Returns:
        A sentence for each thing that is wrong; nothing when the entry is as its items say.

    Raises:
        UserError: No entry, a broken one, or a broken items file.
    """
    file = find_entry(path)
    entry = read_any_entry(file)
    if entry.status != "measured":
        return [f"{file}: field 'status' is '{entry.status}': an entry with items is 'measured'"]
    if entry.items is None:
        return [f"{file}: field 'items' is empty: a measured entry has items"]
    if entry.provenance is None:
        return [f"{file}: field 'provenance' is empty: a measured entry says what seed its intervals are of"]
    # The file of items is the one that the entry tells of.
    items_file = file.parent / Path(entry.items.file).name
    if not items_file.exists():
        return [f"{items_file}: no such items file; it belongs beside the entry"]
    found: list[str] = []
    with open_file(items_file) as content:
        n = sum(block.count(b"\n") for block in iter(lambda: content.read(1 << 20), b""))
    described = Items(file=entry.items.file, sha256=file_hash(items_file), n=n)
    for name in ("n", "sha256"):
        said, real = getattr(entry.items, name), getattr(described, name)
        if said != real:
            found.append(f"{items_file}: field 'items.{name}' of the entry is {said}, of the file {real}")
    # The same figures from the items, and each trace against the data where they are given.
    benchmark = find_benchmark(entry.benchmark.name)
    items = benchmark.read_items(items_file)
    options, statistics = benchmark.options_of(entry), statistics_of(benchmark, entry)
    again = entry.model_copy(
        update={
            "benchmark": describe_items(benchmark, items, entry.benchmark.settings, entry.benchmark.limit),
            "metrics": benchmark.compute(items, entry.subject, options, **statistics),
        }
    )
    if traces is not None:
        wrong = benchmark.check_against(items_file, items, traces)
        more = [f"{items_file}: and {len(wrong) - MOST_NAMED:,} more items"] if len(wrong) > MOST_NAMED else []
        found += [*wrong[:MOST_NAMED], *more]
    # Everything that items give is compared, field by field.
    ignored = {"provenance", "items", "subject", "status", "miniature", "schema_version"}
    mine, theirs = (one.model_dump(mode="json", exclude=ignored) for one in (entry, again))
    differences = list(_differences("", mine, theirs))
    found += [
        f"{file}: field '{printable(where)}' is {shortened(repr(said))}; its items give {shortened(repr(real))}"
        for where, said, real in differences[:MOST_NAMED]
    ]
    if len(differences) > MOST_NAMED:
        found.append(f"{file}: and {len(differences) - MOST_NAMED:,} more fields that its items do not give")
    return found


def unchecked_subsets(path: str | Path, traces: Sequence[Trace]) -> list[str]:
    """Subsets of an entry that some data do not hold, so that its labels there cannot be checked.

    Args:
        path: An entry file, or its folder.
        traces: The data.
    """
    there = {trace.subset for trace in traces}
    entry = read_any_entry(find_entry(path))
    return [name for name in entry.benchmark.subsets if name not in there]


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
    """Refuse an entry that is not as its items say.

    Args:
        path: An entry file, or its folder.
        traces: The data, where they are at hand.

    Raises:
        UserError: The first thing that is wrong, and how many more there are.
    """
    found = verify_entry(path, traces)
    if found:
        more = f" (and {len(found) - 1} more; `prmbench leaderboard verify` lists them)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{more}")
