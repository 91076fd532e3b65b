"""All benchmarks by name, and what is done with an entry of any of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prmbench.benchmarks.base import Benchmark, Measured
from prmbench.errors import ArgumentError, UserError, naming_keywords, nearest, printable, shortened
from prmbench.plugins import Registry

BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark",
    "prmbench.benchmarks",
    {
        "processbench": "prmbench.benchmarks.processbench.benchmark:PROCESSBENCH",
        "step-labels": "prmbench.benchmarks.step_labels.benchmark:STEP_LABELS",
        "best-of-n": "prmbench.benchmarks.best_of_n.benchmark:BEST_OF_N",
        "policy": "prmbench.benchmarks.policy.benchmark:POLICY_BENCHMARK",
        "td-probe": "prmbench.benchmarks.td_probe.benchmark:TD_PROBE",
        "search": "prmbench.benchmarks.search.benchmark:GUIDED_SEARCH",
        "candidates": "prmbench.benchmarks.candidate_sets.benchmark:CANDIDATE_SETS",
        "calibration": "prmbench.benchmarks.calibration.benchmark:CALIBRATION",
    },
)
"""All benchmarks, in the order of tables. A package adds one by an entry point ``prmbench.benchmarks`` that gives an instance."""


@naming_keywords
def register_benchmark(benchmark: Benchmark) -> Benchmark:
    """Make a benchmark known under its name, in this process.

    Args:
        benchmark: The benchmark.

    Returns:
        The benchmark.

    Examples:
        >>> from prmbench.benchmarks.processbench.benchmark import ProcessBench
        >>> class Mine(ProcessBench):
        ...     name, title = "mine", "My own ProcessBench"
        >>> prmbench.register_benchmark(Mine()).title
        'My own ProcessBench'
    """
    BENCHMARKS.add(benchmark.name, benchmark)
    return benchmark


def default_benchmark(*, has_rm: bool, has_rollouts: bool) -> str:
    """Name the benchmark that is meant where none is named.

    Args:
        has_rm: Whether a reward model is given.
        has_rollouts: Whether completions are.
    """
    if not has_rm:
        return "policy"
    return "best-of-n" if has_rollouts else "processbench"


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Args:
        name: Its name.

    Raises:
        ArgumentError: There is none; the nearest name is given.
    """
    try:
        return BENCHMARKS.find(name)
    except UserError:
        known = BENCHMARKS.names()
        if name in known:  # its package cannot be imported
            raise
        raise ArgumentError(
            "benchmark", printable(name), f"not known{nearest(name, known)}; expected {', '.join(known)}"
        ) from None


def benchmarks() -> list[Benchmark]:
    """All benchmarks, in the order of tables."""
    return [BENCHMARKS.find(name) for name in BENCHMARKS.names()]


def find_entry(path: str | Path) -> Path:
    """The entry file of a path that is it, or of the folder that holds it.

    Args:
        path: An entry file, or the folder of a run.

    Raises:
        UserError: It is not there.
    """
    from prmbench.data.records import find_file
    from prmbench.results.schema import ENTRY_NAME

    path = Path(path)
    file = path / ENTRY_NAME if path.is_dir() else path
    return find_file(file, "an entry, or the folder of a run")


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
    if name not in (known := BENCHMARKS.names()):
        shown = shortened(json.dumps(name, default=str))
        raise UserError(f"{path}: field 'benchmark.name' is {shown}; expected {', '.join(known)}")
    benchmark = find_benchmark(name)
    entry = read_entry(path, benchmark.entry_type)
    benchmark.check_entry(path, entry)
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
    from prmbench.data.records import parse_json, read_whole

    try:
        return parse_json(str(path), read_whole(path))["benchmark"]["name"]
    except (UserError, KeyError, TypeError):
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


@naming_keywords
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

    Examples:
        >>> entry = prmbench.recompute("leaderboards/entries/miniature-ipvrm", n_resamples=100)
        >>> round(entry.metrics.protocols["process"].mean["crossfit"].value, 3)
        0.541
    """
    from prmbench.benchmarks.runner import describe_items
    from prmbench.data.records import file_hash
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
    written = Items(file=file.name, sha256=file_hash(file), n=len(items))
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
    from prmbench.results.schema import check_resamples

    check_resamples(n_resamples)
    known = entry.provenance
    before = {"n_resamples": known.n_resamples if known else benchmark.resamples, "seed": known.seed if known else 0}
    given = {"n_resamples": n_resamples, "seed": seed}
    return before | {name: value for name, value in given.items() if value is not None}
