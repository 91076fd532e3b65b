"""Entries on the same items: what differs, by how much, whether it could be chance, and on which items."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.base import Benchmark, Measured
from prmbench.benchmarks.names import distinct
from prmbench.errors import ArgumentError, UserError, nearest, printable, shortened
from prmbench.results.schema import BenchmarkData
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
from prmbench.stats.steps import figures
from prmbench.stats.weighted import resample

if TYPE_CHECKING:
    from rich.console import RenderableType

Floats = NDArray[np.float64]
Members = NDArray[np.bool_]


class Comparison(Protocol):
    """What a benchmark's `compare` returns."""

    def render(self, *, groups: bool) -> RenderableType:
        """The comparison on the screen.

        Args:
            groups: Whether parts of the subsets are shown too.
        """

    def as_json(self) -> dict[str, Any]:
        """The comparison for programs; figures from 0 to 1."""

    def rows(self) -> list[dict[str, Any]]:
        """A row for each difference, for a frame of pandas; figures from 0 to 1."""


class ShownComparison:
    """What every comparison shows in Python, made of what a `Comparison` has."""

    def table(self: Comparison, *, groups: bool = False, width: int = 120) -> str:
        """Return the table that the command line prints.

        Args:
            groups: Whether parts of the subsets are shown too.
            width: Columns of the text.
        """
        from prmbench.benchmarks.views import as_text

        return as_text(self.render(groups=groups), width)

    def to_frame(self: Comparison) -> Any:
        """Return a frame of pandas with a row for each difference.

        Raises:
            UserError: pandas is not installed.
        """
        from prmbench.benchmarks.views import frame

        return frame(self.rows())

    def __repr__(self: Comparison) -> str:
        found = self.as_json()
        pairs = "; ".join(f"{pair['first']} and {pair['second']}" for pair in found["pairs"])
        return f"<Comparison {found['benchmark']}: {printable(pairs)}; .table() and .to_frame() show it>"


@dataclass(frozen=True)
class Outcomes:
    """What each item of one subset came to, in the order of the items' ids.

    Attributes:
        ids: Ids of traces or problems. Shape [n].
        values: From 0 to 1: whether a trace is predicted right, or the share of a problem's choices that are right. Shape [n].
        digests: Hash of each item's source. Shape [n].
        labels: Index of the first wrong step, -1: none; None where the figure is the mean of the values and not F1. Shape [n].
        predicted: What was predicted of a trace; None: as for labels. Shape [n].
        groups: Parts of the subset that are compared apart: by the name of the division, names and members (shape [n]).
        cells: Counts of steps (`prmbench.stats.steps.LabelledSteps.cells`) where the figure is PRMScore, which is no mean of the
            values; else None. Shape [n, 4].
    """

    ids: list[str]
    values: Floats
    digests: list[str]
    labels: NDArray[np.int64] | None = None
    predicted: NDArray[np.int64] | None = None
    groups: Mapping[str, Sequence[tuple[str, Members]]] = field(default_factory=dict)
    cells: Floats | None = None

    @property
    def has_error(self) -> Members:
        """Which traces have an error. Shape [n]."""
        assert self.labels is not None
        return self.labels >= 0

    @property
    def figure(self) -> float:
        """PRMScore of steps, F1 of traces, the mean value of problems."""
        if self.cells is not None:
            return float(figures(self.cells.sum(axis=0))["prm_score"])
        if self.labels is None:
            return float(self.values.mean())
        return f1_difference(self.values > 0, np.zeros(len(self.ids), dtype=bool), self.has_error)


def outcomes_by_subset(
    values: Mapping[tuple[str, str], float], digests: Mapping[tuple[str, str], str]
) -> dict[str, Outcomes]:
    """Outcomes of problems.

    Args:
        values: From 0 to 1, by subset and id.
        digests: Hash of each problem's source, by subset and id.
    """
    found: dict[str, Outcomes] = {}
    for subset in dict.fromkeys(name for name, _ in values):
        ids = sorted(one for name, one in values if name == subset)
        found[subset] = Outcomes(
            ids, np.array([values[subset, one] for one in ids]), [digests[subset, one] for one in ids]
        )
    return found


@dataclass(frozen=True)
class Side:
    """One subject of a comparison.

    Attributes:
        measured: Its entry.
        subsets: What each item came to, by subset.
        protocol: The step score that was compared; empty where there is one only.
    """

    measured: Measured
    subsets: dict[str, Outcomes]
    protocol: str = ""

    @property
    def name(self) -> str:
        """The subject's name."""
        return self.measured.name


@dataclass(frozen=True)
class PairedGroup:
    """Part of a subset.

    Attributes:
        name: What its items share.
        n: How many there are.
        first: The share that the first subject got right.
        second: The share that the second subject got right.
        mcnemar: The paired test.
    """

    name: str
    n: int
    first: float
    second: float
    mcnemar: McNemar


@dataclass(frozen=True)
class Difference:
    """The first subject's figure minus the second's, from -1 to 1.

    Attributes:
        first: The first subject's figure.
        second: The second subject's figure.
        value: The difference.
        low: The lower end of its 95% paired-bootstrap interval.
        high: The upper end.
        p: The two-sided p (`two_sided_p`).
        mcnemar: The paired test of traces, on all of them; None where items have shares.
        groups: Parts of the subset, by the name of the division.
        flips: Ids that only the first subject got right, and that only the second did.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    p: float
    mcnemar: McNemar | None = None
    groups: Mapping[str, tuple[PairedGroup, ...]] = field(default_factory=dict)
    flips: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


@dataclass(frozen=True)
class ComparedPair:
    """Two subjects.

    Attributes:
        first: The first subject's name; where both have the same one, with what tells them apart.
        second: The second subject's name, likewise.
        subsets: Differences by subset.
        mean: The difference of the means over subsets.
        p_holm: The mean's p, corrected for all pairs compared at once.
    """

    first: str
    second: str
    subsets: dict[str, Difference]
    mean: Difference
    p_holm: float


@dataclass(frozen=True, repr=False)
class PairedComparison(ShownComparison):
    """Every two of several subjects.

    Attributes:
        sides: The subjects.
        pairs: Every two of them, in order.
    """

    sides: list[Side]
    pairs: list[ComparedPair]

    @property
    def sizes(self) -> list[int]:
        """Number of items of each subset."""
        return [len(one.ids) for one in self.sides[0].subsets.values()]

    def render(self, *, groups: bool) -> RenderableType:
        """The comparison on the screen.

        Args:
            groups: Whether parts of the subsets are shown too.
        """
        from prmbench.benchmarks.differences_table import render

        return render(self, groups=groups)

    def as_json(self) -> dict[str, Any]:
        """The comparison for programs; figures from 0 to 1."""
        entries = [
            {"name": one.name, "entry": str(one.measured.path), "protocol": one.protocol or None} for one in self.sides
        ]
        return {
            "benchmark": self.sides[0].measured.benchmark.name,
            "entries": entries,
            "pairs": [asdict(pair) for pair in self.pairs],
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row for each subset of each pair, and one for the mean; figures from 0 to 1."""
        return [
            {
                "first": pair.first,
                "second": pair.second,
                "subset": name,
                "figure_first": one.first,
                "figure_second": one.second,
                "difference": one.value,
                "low": one.low,
                "high": one.high,
                "p": one.p,
            }
            for pair in self.pairs
            for name, one in [*pair.subsets.items(), ("mean", pair.mean)]
        ]


def check_choice(benchmark: Benchmark, choice: Mapping[str, Any]) -> None:
    """Refuse options of a comparison that mean nothing to a benchmark.

    Args:
        benchmark: The benchmark.
        choice: The options.

    Raises:
        ArgumentError: One of them is not the benchmark's.
    """
    for name in choice:
        if name not in benchmark.choices and name != "seed":
            hint = nearest(name, benchmark.choices) or "; leave it out"
            raise ArgumentError(name, None, f"means nothing for {benchmark.name}{hint}")


def side_of(measured: Measured, **choice: Any) -> Side:
    """What each item of an entry came to.

    Args:
        measured: The entry and its items.
        choice: Options of the comparison that mean something to the benchmark.

    Raises:
        UserError: The choice does not fit the entry.
    """
    check_choice(measured.benchmark, choice)
    protocols = getattr(measured.entry.metrics, "protocols", None)
    protocol = choice.get("protocol") or (next(iter(protocols)) if protocols else "")
    return Side(measured, measured.benchmark.outcomes(measured, **choice), protocol)


def compare_outcomes(measured: Sequence[Measured], *, n_resamples: int, seed: int, **choice: Any) -> PairedComparison:
    """Compare every two entries item by item.

    Args:
        measured: Two entries or more.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples, and of crossfit's folds.
        choice: Options that mean something to the benchmark.

    Raises:
        UserError: Entries that are not of the same items; what differs is named.
    """
    if "thresholds" in measured[0].benchmark.choices:
        choice = {"seed": seed, **choice}
    sides = [side_of(one, **choice) for one in measured]
    return PairedComparison(sides, compare_sides(sides, n_resamples=n_resamples, seed=seed))


def compare_sides(sides: Sequence[Side], *, n_resamples: int = 10_000, seed: int = 0) -> list[ComparedPair]:
    """Compare every two subjects, in the given order.

    Args:
        sides: Two subjects or more.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        UserError: Fewer than two subjects, or entries that are not of the same items; what differs is named.
    """
    if len(sides) < 2:
        raise UserError("compare: expected two entries or more")
    for other in sides[1:]:
        check_comparable(sides[0], other)
    names = names_of([side.measured for side in sides])
    found = []
    for (a, first_name), (b, second_name) in itertools.combinations(zip(sides, names, strict=True), 2):
        subsets, means = {}, []
        for name in a.subsets:
            rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
            subsets[name], samples = _difference(a.subsets[name], b.subsets[name], n_resamples, rng)
            means.append(samples)
        whole = np.mean(means, axis=0)
        first, second = (float(np.mean([getattr(d, side) for d in subsets.values()])) for side in ("first", "second"))
        low, high = interval(whole)
        mean = Difference(first, second, first - second, low, high, two_sided_p(whole))
        found.append((first_name, second_name, subsets, mean))
    corrected = holm([mean.p for _, _, _, mean in found])
    return [ComparedPair(*one, p) for one, p in zip(found, corrected, strict=True)]


def names_of(measured: Sequence[Measured]) -> list[str]:
    """Names of the subjects of entries; those that are equal are told apart by folder or file.

    Args:
        measured: The entries.
    """
    paths = [one.path for one in measured]
    return distinct([one.name for one in measured], [path.parent.name for path in paths], [str(p) for p in paths])


def check_benchmarks(a: Path, one: BenchmarkData, b: Path, other: BenchmarkData) -> None:
    """Refuse two entries that are not of the same benchmark on the same data.

    Args:
        a: The file of the first entry.
        one: What the first entry was evaluated on.
        b: The file of the second entry.
        other: What the second entry was evaluated on.

    Raises:
        UserError: They differ; the first field that does is named.
    """
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
                f"{a} and {b} cannot be compared: field '{printable(name)}' is {first} and {second}; evaluate both on the same "
                "items"
            )


def check_comparable(a: Side, b: Side) -> None:
    """Refuse two subjects that were not evaluated on the same items.

    Args:
        a: The first subject.
        b: The second subject.

    Raises:
        UserError: They differ; what does is named.
    """
    files = f"{a.measured.path} and {b.measured.path}"
    check_benchmarks(a.measured.path, a.measured.entry.benchmark, b.measured.path, b.measured.entry.benchmark)
    for name, outcomes in a.subsets.items():
        theirs = b.subsets[name]
        if outcomes.ids != theirs.ids:
            raise UserError(f"{files} cannot be compared: their items of {printable(name)} have other ids")
        for i, item in enumerate(outcomes.ids):
            same_label = outcomes.labels is None or theirs.labels is None or outcomes.labels[i] == theirs.labels[i]
            if outcomes.digests[i] != theirs.digests[i] or not same_label:
                what = "digest" if same_label else "label"
                raise UserError(
                    f"{files} cannot be compared: item '{printable(item)}' of {printable(name)} has another {what} in each; "
                    "`prmbench leaderboard verify --data` says which is wrong"
                )


def _difference(a: Outcomes, b: Outcomes, n_resamples: int, rng: np.random.Generator) -> tuple[Difference, Floats]:
    of_traces: dict[str, Any] = {}
    if a.cells is not None and b.cells is not None:
        both = np.concatenate([a.cells, b.cells], axis=1)

        def difference(weights: Floats) -> dict[str, Floats]:
            counts = weights @ both
            return {"": figures(counts[:, :4])["prm_score"] - figures(counts[:, 4:])["prm_score"]}

        samples = resample(np.arange(len(a.ids)), difference, n_resamples, rng)[""]
    elif a.labels is None:
        samples = mean_resamples((a.values - b.values)[:, None], n_resamples=n_resamples, rng=rng)[:, 0]
    else:
        first, second, ids = a.values > 0, b.values > 0, np.array(a.ids)
        samples = f1_difference_resamples(first, second, a.has_error, n_resamples=n_resamples, rng=rng)
        of_traces = {
            "mcnemar": mcnemar(first, second),
            "groups": {
                division: tuple(_group(name, members, first, second) for name, members in parts)
                for division, parts in a.groups.items()
            },
            "flips": (tuple(ids[first & ~second].tolist()), tuple(ids[~first & second].tolist())),
        }
    low, high = interval(samples)
    found = Difference(a.figure, b.figure, a.figure - b.figure, low, high, two_sided_p(samples), **of_traces)
    return found, samples


def _group(name: str, members: Members, first: Members, second: Members) -> PairedGroup:
    a, b = first[members], second[members]
    return PairedGroup(name, int(members.sum()), float(a.mean()), float(b.mean()), mcnemar(a, b))
