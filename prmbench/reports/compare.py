"""Two or more entries on the same items: what differs, by how much, whether it could be chance, and on which items."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.best_of_n.metrics import candidate_scores, read_candidates
from prmbench.benchmarks.best_of_n.run import BestOfNEntry
from prmbench.benchmarks.calibration.run import CalibrationEntry
from prmbench.benchmarks.candidate_sets.run import CandidatesEntry
from prmbench.benchmarks.policy.run import PolicyEntry, read_completions
from prmbench.benchmarks.processbench.metrics import position_bins, predict
from prmbench.benchmarks.processbench.run import ProcessBenchEntry
from prmbench.benchmarks.td_probe.run import TDProbeEntry
from prmbench.data.verdicts import Verdict
from prmbench.errors import UserError, shortened
from prmbench.results.items import read_described, read_items
from prmbench.results.schema import ENTRY_NAME, Benchmark, Entry, digest, read_entry
from prmbench.reward_models.objectives import Convention
from prmbench.stats.bootstrap import interval
from prmbench.stats.paired import (
    McNemar,
    f1_difference,
    f1_difference_resamples,
    holm,
    mcnemar,
    two_sided_p,
)
from prmbench.stats.repeats import mean_resamples
from prmbench.stats.selection import expected_best

Floats = NDArray[np.float64]
AnyEntry = Entry[Any]

ENTRY_TYPES: dict[str, type[Any]] = {
    "processbench": ProcessBenchEntry,
    "best-of-n": BestOfNEntry,
    "policy": PolicyEntry,
}
PROBE_TYPES: dict[str, type[Any]] = {
    "td-probe": TDProbeEntry,
    "candidates": CandidatesEntry,
    "calibration": CalibrationEntry,
}
ALL_TYPES = ENTRY_TYPES | PROBE_TYPES
FIGURES = {"processbench": "F1", "best-of-n": "Best-of-N", "policy": "avg@n"}


@dataclass(frozen=True)
class Outcomes:
    """What each item of one subset came to, items in the order of their ids.

    Attributes:
        ids: of traces, or of problems. values: float64, shape [n], 0 to 1: predicted right; or the share of right choices or
            completions.
        digests: hash of each item's source. labels: int64, shape [n], of traces; None elsewhere. generators: of traces.
        predicted: int64, shape [n], of traces.
    """

    ids: list[str]
    values: Floats
    digests: list[str]
    labels: NDArray[np.int64] | None = None
    generators: list[str] | None = None
    predicted: NDArray[np.int64] | None = None

    @property
    def has_error(self) -> NDArray[np.bool_]:
        """Which traces have an error. bool, shape [n]."""
        assert self.labels is not None
        return self.labels >= 0

    @property
    def figure(self) -> float:
        """F1 of traces, the mean value of problems."""
        if self.labels is None:
            return float(self.values.mean())
        return f1_difference(self.values > 0, np.zeros(len(self.ids), dtype=bool), self.has_error)


@dataclass(frozen=True)
class Measured:
    """An entry and its items' outcomes, by subset. protocol: which score they are of; empty where there is one only."""

    path: Path
    entry: AnyEntry
    subsets: dict[str, Outcomes]
    protocol: str

    @property
    def name(self) -> str:
        """The subject's."""
        return self.entry.subject.name


def find_entry(path: str | Path) -> Path:
    """The entry file of a path that is it, or the folder that holds it. Raises UserError when it is not there."""
    path = Path(path)
    file = path / ENTRY_NAME if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected an entry, or the folder of a run")
    return file


def read_any_entry(path: Path, types: Mapping[str, type[Any]] = ENTRY_TYPES) -> AnyEntry:
    """Read an entry of whatever benchmark. types: by benchmark, those taken. Raises UserError when it is none of them."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        name = fields["benchmark"]["name"]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise UserError(f"{path}: is no entry; expected the {ENTRY_NAME} that `prmbench eval` writes") from None
    if name not in types:
        raise UserError(f"{path}: field 'benchmark.name' is {json.dumps(name)}; expected {', '.join(types)}")
    entry: AnyEntry = read_entry(path, types[name])
    if not entry.subject.name.isprintable():
        raise UserError(
            f"{path}: field 'subject.name' holds control characters ({entry.subject.name!r}); take them out"
        )
    return entry


def load_measured(
    path: str | Path, *, protocol: str | None = None, policy: str = "crossfit", size: int | None = None, seed: int = 0
) -> Measured:
    """Read an entry and its items, and say what each item came to.

    Args:
        protocol: of ProcessBench: which step score; None: the entry's first. policy: threshold policy.
        size: of Best-of-N: N; None: the largest. seed: of crossfit's folds.

    Raises:
        UserError: no entry, items other than those it describes, a protocol, policy or N that it does not have.
    """
    file = find_entry(path)
    entry = read_any_entry(file)
    if entry.status != "measured":
        raise UserError(f"{file}: field 'status' is '{entry.status}'; only measured entries have items to compare")
    if entry.benchmark.name == "processbench":
        used = protocol or next(iter(entry.metrics.protocols))
        items = read_described(file.parent, entry.items, read_items)
        try:
            found = predict(
                items, entry.subject.beta, entry.subject.fixed_thresholds, protocol=used, policy=policy, seed=seed
            )
        except ValueError as error:
            raise UserError(f"{file}: {error}") from None
        return Measured(
            file,
            entry,
            {
                name: Outcomes(
                    [item.id for item in one.items],
                    one.hits.astype(np.float64),
                    [item.digest for item in one.items],
                    one.labels,
                    [item.generator for item in one.items],
                    one.predicted,
                )
                for name, one in found.items()
            },
            used,
        )
    if protocol is not None:
        raise UserError(f"--protocol {protocol}: is of ProcessBench; {file} is of {entry.benchmark.name}")
    if entry.benchmark.name == "best-of-n":
        return Measured(file, entry, _best_of_n(file, entry, size), "")
    groups: dict[tuple[str, str], list[float]] = {}
    digests: dict[tuple[str, str], str] = {}
    for item in read_described(file.parent, entry.items, read_completions):
        groups.setdefault((item.subset, item.id), []).append(float(item.verdict == Verdict.CORRECT))
        digests[item.subset, item.id] = item.digest
    return Measured(file, entry, _by_subset({key: float(np.mean(v)) for key, v in groups.items()}, digests), "")


def _best_of_n(file: Path, entry: AnyEntry, size: int | None) -> dict[str, Outcomes]:
    used = max(entry.metrics.sizes) if size is None else size
    if not 1 <= used <= entry.metrics.n:
        raise UserError(f"--n {used}: {file} has {entry.metrics.n} candidates a problem")
    convention = Convention.of(entry.subject)
    groups: dict[tuple[str, str], list[Any]] = {}
    for item in read_described(file.parent, entry.items, read_candidates):
        groups.setdefault((item.subset, item.id), []).append(item)
    values, digests = {}, {}
    for key, group in groups.items():
        digests[key] = digest([item.digest for item in group])
        scores = np.array([candidate_scores(item, convention)[convention.own] for item in group])
        values[key] = expected_best(scores, np.array([item.correct for item in group]), used)
    return _by_subset(values, digests)


def _by_subset(values: dict[tuple[str, str], float], digests: dict[tuple[str, str], str]) -> dict[str, Outcomes]:
    found: dict[str, Outcomes] = {}
    for subset in dict.fromkeys(name for name, _ in values):
        ids = sorted(one for name, one in values if name == subset)
        found[subset] = Outcomes(
            ids, np.array([values[subset, one] for one in ids]), [digests[subset, one] for one in ids]
        )
    return found


@dataclass(frozen=True)
class Group:
    """Part of a subset: traces by the position of their first error, or by what wrote them. first, second: share right."""

    name: str
    n: int
    first: float
    second: float
    mcnemar: McNemar


@dataclass(frozen=True)
class Difference:
    """The first subject's figure minus the second's, 0 to 1, with its 95% paired-bootstrap interval and p (`two_sided_p`).

    Attributes:
        mcnemar: of traces, on all; None where items have shares. by_position, by_generator: of traces.
        flips: ids that only the first got right, and only the second.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    p: float
    mcnemar: McNemar | None = None
    by_position: tuple[Group, ...] = ()
    by_generator: tuple[Group, ...] = ()
    flips: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


@dataclass(frozen=True)
class Pair:
    """Two subjects. subsets: by name. mean: over subsets. p_holm: the mean's p, corrected for all pairs compared at once."""

    first: str
    second: str
    subsets: dict[str, Difference]
    mean: Difference
    p_holm: float


def compare(measured: Sequence[Measured], *, n_resamples: int = 10_000, seed: int = 0) -> list[Pair]:
    """Compare every two of them, in the given order.

    Raises:
        UserError: fewer than two, or entries that are not of the same items; the field that differs is named.
    """
    if len(measured) < 2:
        raise UserError("compare: expected two entries or more")
    for other in measured[1:]:
        check_comparable(measured[0], other)
    found = []
    for a, b in itertools.combinations(measured, 2):
        subsets, means = {}, []
        for name in a.subsets:
            rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
            subsets[name], samples = _difference(a.subsets[name], b.subsets[name], n_resamples, rng)
            means.append(samples)
        whole = np.mean(means, axis=0)
        first, second = (float(np.mean([getattr(d, side) for d in subsets.values()])) for side in ("first", "second"))
        low, high = interval(whole)
        mean = Difference(first, second, first - second, low, high, two_sided_p(whole))
        found.append((a.name, b.name, subsets, mean))
    corrected = holm([mean.p for _, _, _, mean in found])
    return [Pair(*one, p) for one, p in zip(found, corrected, strict=True)]


def check_benchmarks(a: Path, one: Benchmark, b: Path, other: Benchmark) -> None:
    """Raise UserError, naming the first field that differs, unless two entries are of the same benchmark on the same data."""
    fields: list[tuple[str, Any, Any]] = [
        ("benchmark.name", one.name, other.name),
        ("benchmark.version", one.version, other.version),
        ("benchmark.subsets", sorted(one.subsets), sorted(other.subsets)),
    ]
    fields += [
        (f"benchmark.settings.{key}", one.settings.get(key), other.settings.get(key))
        for key in sorted(one.settings.keys() | other.settings.keys())
    ]
    fields += [
        (f"benchmark.subsets.{name}.data_hash", data.data_hash, other.subsets[name].data_hash)
        for name, data in one.subsets.items()
        if name in other.subsets
    ]
    for name, mine, theirs in fields:
        if mine != theirs:
            first, second = (shortened(json.dumps(value)) for value in (mine, theirs))
            raise UserError(
                f"{a} and {b} cannot be compared: field '{name}' is {first} and {second}; evaluate both on the same items"
            )


def check_comparable(a: Measured, b: Measured) -> None:
    """Raise UserError, naming what differs, unless two entries are of the same benchmark on the same items."""
    check_benchmarks(a.path, a.entry.benchmark, b.path, b.entry.benchmark)
    for name, outcomes in a.subsets.items():
        if outcomes.ids != b.subsets[name].ids:
            raise UserError(f"{a.path} and {b.path} cannot be compared: their items of {name} have other ids")
        theirs = b.subsets[name]
        for i, item in enumerate(outcomes.ids):
            same_label = outcomes.labels is None or theirs.labels is None or outcomes.labels[i] == theirs.labels[i]
            if outcomes.digests[i] != theirs.digests[i] or not same_label:
                raise UserError(
                    f"{a.path} and {b.path} cannot be compared: item '{item}' of {name} has another "
                    f"{'label' if not same_label else 'digest'} in each; `prmbench leaderboard verify --data` says which is wrong"
                )


def _difference(a: Outcomes, b: Outcomes, n_resamples: int, rng: np.random.Generator) -> tuple[Difference, Floats]:
    if a.labels is None:
        samples = mean_resamples((a.values - b.values)[:, None], n_resamples=n_resamples, rng=rng)[:, 0]
        low, high = interval(samples)
        return Difference(a.figure, b.figure, a.figure - b.figure, low, high, two_sided_p(samples)), samples
    first, second = a.values > 0, b.values > 0
    samples = f1_difference_resamples(first, second, a.has_error, n_resamples=n_resamples, rng=rng)
    low, high = interval(samples)
    ids = np.array(a.ids)
    generators = np.array(a.generators)
    right = a.labels < 0
    positions = [("no error", right)] if right.any() else []
    positions += position_bins(a.labels)
    return (
        Difference(
            a.figure,
            b.figure,
            a.figure - b.figure,
            low,
            high,
            two_sided_p(samples),
            mcnemar(first, second),
            tuple(_group(name, members, first, second) for name, members in positions),
            tuple(_group(str(g), generators == g, first, second) for g in np.unique(generators)),
            (tuple(ids[first & ~second].tolist()), tuple(ids[~first & second].tolist())),
        ),
        samples,
    )


def _group(name: str, members: NDArray[np.bool_], first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Group:
    a, b = first[members], second[members]
    return Group(name, int(members.sum()), float(a.mean()), float(b.mean()), mcnemar(a, b))
