"""TD probes of the same branches: by how much one reward model's values go better with what the policy makes of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.differences import ShownComparison, check_benchmarks, names_of
from prmbench.benchmarks.td_probe.metrics import Columns, columns_of
from prmbench.benchmarks.td_probe.schema import BranchItem
from prmbench.errors import UserError, printable
from prmbench.stats.bootstrap import interval
from prmbench.stats.branches import signal_figures
from prmbench.stats.paired import holm, two_sided_p
from prmbench.stats.weighted import resample

if TYPE_CHECKING:
    from rich.console import RenderableType

Floats = NDArray[np.float64]

FIGURES = ("auc", "pearson", "spearman", "corrected", "within", "within_corrected", "agreement")
"""Of `SignalResult`, those compared: the two with shares say no more than those with single rollouts and with true values."""
AS_TD = {("value", "within"), ("value", "within_corrected"), ("value", "agreement"), ("mean_value", "agreement")}
"""Within a state the value before the branch is constant: these are TD's figures again, and are counted once."""
FEW = 20
"""Problems below which intervals that draw problems are said to be too narrow."""


@dataclass(frozen=True)
class ProbeSide:
    """One probe of a comparison.

    Attributes:
        measured: Its entry.
        items: Its branches, in the order of their state and rank.
        columns: The branches as arrays.
    """

    measured: Measured
    items: list[BranchItem]
    columns: Columns

    @property
    def name(self) -> str:
        """The subject's name."""
        return self.measured.name

    @property
    def n_telling(self) -> int:
        """Problems with right and wrong rollouts: the others say nothing of a signal within a problem."""
        branches = self.columns.branches
        share = np.bincount(branches.cluster, weights=branches.share) / np.bincount(branches.cluster)
        return int(np.sum((share > 0) & (share < 1)))


@dataclass(frozen=True)
class FigureDifference:
    """One figure of one signal: the first subject's minus the second's.

    Attributes:
        signal: The signal, a key of the metrics' ``signals``.
        figure: The figure, one of `FIGURES`.
        first: The first subject's figure.
        second: The second subject's figure.
        value: The difference.
        low: The lower end of its 95% interval.
        high: The upper end.
        p: The two-sided p (`two_sided_p`).
        p_holm: The p, corrected for all figures of all pairs compared at once.
    """

    signal: str
    figure: str
    first: float
    second: float
    value: float
    low: float
    high: float
    p: float
    p_holm: float = 1.0


@dataclass(frozen=True)
class ProbePair:
    """Two subjects, and every figure that both have.

    Attributes:
        first: The first subject's name.
        second: The second subject's name.
        figures: The differences.
    """

    first: str
    second: str
    figures: tuple[FigureDifference, ...]


@dataclass(frozen=True, repr=False)
class ProbeComparison(ShownComparison):
    """Every two of several probes.

    Attributes:
        sides: The probes.
        pairs: Every two of them, in order.
        n_resamples: Bootstrap resamples.
    """

    sides: list[ProbeSide]
    pairs: list[ProbePair]
    n_resamples: int

    def render(self, *, groups: bool) -> RenderableType:
        """The comparison on the screen.

        Args:
            groups: Not used: a probe's figures have no parts.
        """
        from prmbench.benchmarks.td_probe.differences_table import render

        return render(self)

    def as_json(self) -> dict[str, Any]:
        """The comparison for programs: every figure, p before and after the correction."""
        return {
            "benchmark": self.sides[0].measured.benchmark.name,
            "problems_right_and_wrong": self.sides[0].n_telling,
            "entries": [{"name": side.name, "entry": str(side.measured.path)} for side in self.sides],
            "pairs": [asdict(pair) for pair in self.pairs],
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row for each figure of each pair."""
        return [
            {"first_subject": pair.first, "second_subject": pair.second, **asdict(one)}
            for pair in self.pairs
            for one in pair.figures
        ]


def compare_probes(measured: Sequence[Measured], *, n_resamples: int = 10_000, seed: int = 0) -> ProbeComparison:
    """Compare every two probes, in the given order.

    A resample draws problems, the same for both. A figure that is refused or not defined for one of the two is left out.

    Args:
        measured: Two entries or more, with their items.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        UserError: Fewer than two, or probes that are not of the same branches and rollouts; what differs is named.
    """
    if len(measured) < 2:
        raise UserError("compare: expected two entries or more")
    sides = []
    for one in measured:
        items = sorted(one.items, key=lambda item: (item.state, item.rank))
        sides.append(ProbeSide(one, items, columns_of(items, one.entry.subject)))
    first = sides[0]
    for other in sides[1:]:
        a, b = first.measured, other.measured
        check_benchmarks(a.path, a.entry.benchmark, b.path, b.entry.benchmark)
        _check_branches(first, other)
    pairs = [
        ProbePair(first_name, second_name, tuple(_differences(a, b, n_resamples, seed)))
        for (a, first_name), (b, second_name) in itertools.combinations(zip(sides, names_of(measured), strict=True), 2)
    ]
    corrected = iter(holm([one.p for pair in pairs for one in pair.figures]))
    pairs = [
        replace(pair, figures=tuple(replace(one, p_holm=next(corrected)) for one in pair.figures)) for pair in pairs
    ]
    return ProbeComparison(sides, pairs, n_resamples)


def _check_branches(a: ProbeSide, b: ProbeSide) -> None:
    """Refuse probes of other branches or rollouts: then differences would not be the reward models' alone.

    The reward models' values differ, and the policy's log-prob may be rounded otherwise; all else has to be the same.
    """
    own = {"sum": 0.0, "ratio": 0.0, "logprob": 0.0}
    for mine, theirs in itertools.zip_longest(a.items, b.items):
        if mine is None or theirs is None or replace(mine, **own) != replace(theirs, **own):
            branch = mine or theirs
            raise UserError(
                f"{a.measured.path} and {b.measured.path} cannot be compared: branch {branch.rank} of problem "
                f"'{printable(branch.id)}' ({printable(branch.subset)}) is not the same in both, or has other rollouts; probe both "
                "with the same policy, engine, options and seed"
            )


def _differences(a: ProbeSide, b: ProbeSide, n_resamples: int, seed: int) -> list[FigureDifference]:
    branches = a.columns.branches
    shown = [one.measured.entry.metrics.branches.signals for one in (a, b)]
    both = set(b.columns.signals) & set(shown[0]) & set(shown[1]) - {"policy"}  # which is the same in both
    found = []
    for signal in a.columns.signals:
        if signal not in both:
            continue
        values = a.columns.signals[signal], b.columns.signals[signal]

        def figures(weights: Floats, values: tuple[Floats, Floats] = values) -> dict[str, Floats]:
            first, second = (signal_figures(one, branches, weights) for one in values)
            return {name: np.stack([first[name], second[name]], axis=-1) for name in FIGURES}

        whole = figures(np.ones((1, len(a.items))))
        samples = resample(branches.cluster, figures, n_resamples, np.random.default_rng(seed))
        for name, ((first, second),) in whole.items():
            refused = any(getattr(one[signal], name).value is None for one in shown) or np.isnan(first - second)
            differences = samples[name][:, 0] - samples[name][:, 1]
            if refused or (signal, name) in AS_TD or np.isnan(differences).all():
                continue
            low, high = interval(differences)
            found.append(
                FigureDifference(
                    signal,
                    name,
                    float(first),
                    float(second),
                    float(first - second),
                    low,
                    high,
                    two_sided_p(differences),
                )
            )
    return found
