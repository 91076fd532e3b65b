"""All benchmarks by name, and what is done with an entry of any of them."""

from __future__ import annotations

import hashlib
import importlib
import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from prmbench.benchmarks.base import Benchmark, Measured
from prmbench.errors import ArgumentError, UserError, nearest, printable, shortened

BUILT_IN = {
    "processbench": "prmbench.benchmarks.processbench.benchmark:ProcessBench",
    "best-of-n": "prmbench.benchmarks.best_of_n.benchmark:BestOfN",
    "policy": "prmbench.benchmarks.policy.benchmark:PolicyBenchmark",
    "td-probe": "prmbench.benchmarks.td_probe.benchmark:TDProbe",
    "candidates": "prmbench.benchmarks.candidate_sets.benchmark:CandidateSets",
    "calibration": "prmbench.benchmarks.calibration.benchmark:Calibration",
}
"""The module and class of each benchmark of prmbench."""
GROUP = "prmbench.benchmarks"
"""The entry-point group under which other packages offer theirs: an instance or a class without arguments."""

_loaded: dict[str, Benchmark] = {}


def register(benchmark: Benchmark) -> Benchmark:
    """Make a benchmark known under its name, in this process.

    Args:
        benchmark: The benchmark.

    Returns:
        The benchmark.

    Raises:
        ValueError: The name is taken by another benchmark.
    """
    there = _loaded.get(benchmark.name)
    if (
        benchmark.name in BUILT_IN
        and there is not benchmark
        and type(benchmark).__module__.partition(".")[0] != "prmbench"
    ):
        raise ValueError(f"benchmark '{benchmark.name}' is one of prmbench's own; use another name")
    if there is not None and type(there) is not type(benchmark):
        raise ValueError(f"benchmark '{benchmark.name}' is there already; use another name")
    _loaded[benchmark.name] = benchmark
    return benchmark


def benchmark_names() -> list[str]:
    """The names of all benchmarks: prmbench's own, in the order of tables, then those of other packages."""
    others = {*_loaded, *(point.name for point in entry_points(group=GROUP))} - BUILT_IN.keys()
    return [*BUILT_IN, *sorted(others)]


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Args:
        name: A name of `benchmark_names`.

    Raises:
        ArgumentError: There is none; the nearest name is given.
    """
    if name not in _loaded:
        points = {point.name: point for point in entry_points(group=GROUP)}
        if name in BUILT_IN:
            module, _, attribute = BUILT_IN[name].partition(":")
            found = getattr(importlib.import_module(module), attribute)
        elif name in points:
            found = points[name].load()
        else:
            known = benchmark_names()
            raise ArgumentError(
                "benchmark", printable(name), f"not known{nearest(name, known)}; expected {', '.join(known)}"
            )
        register(found() if isinstance(found, type) else found)
    return _loaded[name]


def benchmarks() -> list[Benchmark]:
    """All benchmarks, in the order of tables."""
    return [find_benchmark(name) for name in benchmark_names()]


def find_entry(path: str | Path) -> Path:
    """The entry file of a path that is it, or of the folder that holds it.

    Args:
        path: An entry file, or the folder of a run.

    Raises:
        UserError: It is not there.
    """
    from prmbench.results.schema import ENTRY_NAME

    path = Path(path)
    file = path / ENTRY_NAME if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected an entry, or the folder of a run")
    return file


def read_any_entry(path: Path) -> Any:
    """Read an entry of any benchmark.

    Args:
        path: The entry's file.

    Raises:
        UserError: It is no entry, or one of a benchmark that is not known.
    """
    from prmbench.results.schema import ENTRY_NAME, read_entry

    name = benchmark_of(path)
    if name is None:
        raise UserError(f"{path}: is no entry; expected the {ENTRY_NAME} that `prmbench eval` writes")
    if name not in (known := benchmark_names()):
        shown = shortened(json.dumps(name, default=str))
        raise UserError(f"{path}: field 'benchmark.name' is {shown}; expected {', '.join(known)}")
    entry = read_entry(path, find_benchmark(name).entry_type)
    if not entry.subject.name.isprintable():
        raise UserError(
            f"{path}: field 'subject.name' holds control characters ({entry.subject.name!r}); take them out"
        )
    return entry


def benchmark_of(path: Path) -> Any:
    """What an entry file gives as its benchmark's name; None where it is no entry.

    Args:
        path: The file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))["benchmark"]["name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def load_measured(path: str | Path, *, items: bool = True) -> Measured:
    """Read an entry and its items.

    Args:
        path: An entry file, or the folder of a run.
        items: Whether the items are read too.

    Raises:
        UserError: No entry; or, where items are read, one without items, or items other than those it describes.
    """
    from prmbench.results.items import read_described

    file = find_entry(path)
    entry = read_any_entry(file)
    benchmark = find_benchmark(entry.benchmark.name)
    if not items:
        return Measured(file, entry, (), benchmark)
    if entry.status != "measured":
        raise UserError(
            f"{file}: field 'status' is {json.dumps(entry.status)}; only measured entries have items to compute from"
        )
    return Measured(file, entry, read_described(file.parent, entry.items, benchmark.read_items), benchmark)


def recompute(path: str | Path, *, n_resamples: int | None = None, seed: int | None = None) -> Any:
    """Compute every figure of an entry again from its items, without a model.

    Args:
        path: An items file, an entry file, or the folder that holds them. What the items do not say (the subject, provenance) is
            read from the entry beside them. Without an entry the items are taken for ProcessBench's, beta is 1 and the subject is
            unknown.
        n_resamples: Bootstrap resamples; None: as in the entry beside the items, or the default.
        seed: Seed of everything drawn; None: as in the entry beside the items, or 0.

    Returns:
        The entry.

    Raises:
        UserError: No such file, something wrong in it, or items that are not those that the entry describes.
    """
    from prmbench.benchmarks.runner import describe_items
    from prmbench.results.schema import ENTRY_NAME, Items

    path = Path(path)
    folder = path if path.is_dir() else path.parent
    beside = path if path.name == ENTRY_NAME else folder / ENTRY_NAME
    old = read_any_entry(beside) if beside.exists() else None
    benchmark = find_benchmark(old.benchmark.name if old else "processbench")

    # The items, which have to be the entry's.
    file = (
        folder / Path(old.items.file if old and old.items else "items.jsonl").name
        if path.is_dir() or path == beside
        else path
    )
    if not file.exists():
        raise UserError(f"{file}: no such items file; pass the items.jsonl of a run, or the run's folder")
    items = benchmark.read_items(file)
    written = Items(file=file.name, sha256=hashlib.sha256(file.read_bytes()).hexdigest(), n=len(items))
    if old is not None and old.items is not None and old.items != written:
        raise UserError(
            f"{file}: is not the file that {beside} describes (it has {written.n:,} items and sha256 {written.sha256[:12]}..., "
            f"expected {old.items.n:,} and {old.items.sha256[:12]}...); restore it, or copy it to a folder of its own to compute "
            "figures without the entry"
        )

    # Their figures.
    if old is None:
        from prmbench.results.schema import Subject

        stepwise = benchmark.name == "processbench" and items[0].sums is None
        old = benchmark.entry_type.model_construct(
            metrics=None,
            subject=Subject(name=folder.resolve().name, source=file.name, kind="unknown", step_valued=stepwise),
            benchmark=describe_items(benchmark, items, {}, None),
        )
    statistics = statistics_of(benchmark, old, n_resamples, seed)
    return old.model_copy(
        update={
            "benchmark": describe_items(benchmark, items, old.benchmark.settings, old.benchmark.limit),
            "metrics": benchmark.compute(items, old.subject, benchmark.options_of(old), **statistics),
            "items": written,
            "provenance": old.provenance and old.provenance.model_copy(update=statistics),
        }
    )


def statistics_of(
    benchmark: Benchmark, entry: Any, n_resamples: int | None = None, seed: int | None = None
) -> dict[str, int]:
    """The statistics' settings of figures that are computed again.

    Args:
        benchmark: The entry's benchmark.
        entry: The entry.
        n_resamples: Bootstrap resamples; None: as in the entry, else the benchmark's default.
        seed: Seed of everything drawn; None: as in the entry, else 0.

    Returns:
        ``n_resamples`` and ``seed``.
    """
    known = entry.provenance
    before = {"n_resamples": known.n_resamples if known else benchmark.resamples, "seed": known.seed if known else 0}
    given = {"n_resamples": n_resamples, "seed": seed}
    return before | {name: value for name, value in given.items() if value is not None}
