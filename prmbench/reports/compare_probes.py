"""TD probes of the same branches: by how much one reward model's values go better with what the policy makes of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.td_probe.metrics import BranchItem, Columns, columns_of, read_branches
from prmbench.benchmarks.td_probe.run import TDProbeEntry
from prmbench.errors import UserError, printable
from prmbench.reports.compare import check_benchmarks, read_any_entry
from prmbench.results.items import read_described
from prmbench.stats.bootstrap import interval
from prmbench.stats.branches import signal_figures
from prmbench.stats.paired import holm, two_sided_p
from prmbench.stats.weighted import resample

Floats = NDArray[np.float64]

FIGURES = ("auc", "pearson", "spearman", "corrected", "within", "within_corrected", "agreement")
"""Of `SignalResult`, those compared: the two with shares say no more than those with single rollouts and with true values."""
AS_TD = {("value", "within"), ("value", "within_corrected"), ("value", "agreement"), ("mean_value", "agreement")}
"""Within a state the value before the branch is constant: these are TD's figures again, and are counted once."""
FEW = 20
"""Problems below which intervals that draw problems are said to be too narrow."""


@dataclass(frozen=True)
class ProbeMeasured:
    """A probe's entry and its branches, in the order of their state and rank."""

    path: Path
    entry: TDProbeEntry
    items: list[BranchItem]
    columns: Columns

    @property
    def name(self) -> str:
        """The subject's."""
        return self.entry.subject.name

    @property
    def n_telling(self) -> int:
        """Problems with right and wrong rollouts: the others say nothing of a signal within a problem."""
        branches = self.columns.branches
        share = np.bincount(branches.cluster, weights=branches.share) / np.bincount(branches.cluster)
        return int(np.sum((share > 0) & (share < 1)))


@dataclass(frozen=True)
class FigureDifference:
    """One figure of one signal: the first subject's minus the second's, with its 95% interval and p (`two_sided_p`).

    Attributes:
        signal, figure: of `FIGURES`. p_holm: corrected for all figures of all pairs compared at once.
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
    """Two subjects, and every figure that both have."""

    first: str
    second: str
    figures: tuple[FigureDifference, ...]


def load_probe(path: Path) -> ProbeMeasured:
    """Read a probe's entry file and its items.

    Raises:
        UserError: no entry of a TD probe, items other than those it describes.
    """
    entry = read_any_entry(path, {"td-probe": TDProbeEntry})
    items = sorted(read_described(path.parent, entry.items, read_branches), key=lambda item: (item.state, item.rank))
    return ProbeMeasured(path, entry, items, columns_of(items, entry.subject))


def compare_probes(probes: Sequence[ProbeMeasured], *, n_resamples: int = 10_000, seed: int = 0) -> list[ProbePair]:
    """Compare every two, in the given order. A resample draws problems, the same for both; a figure that is refused or not defined
    for one of them is left out.

    Raises:
        UserError: fewer than two, or probes that are not of the same branches and rollouts; what differs is named.
    """
    if len(probes) < 2:
        raise UserError("compare: expected two entries or more")
    for other in probes[1:]:
        check_benchmarks(probes[0].path, probes[0].entry.benchmark, other.path, other.entry.benchmark)
        _check_branches(probes[0], other)
    pairs = [
        ProbePair(a.name, b.name, tuple(_differences(a, b, n_resamples, seed)))
        for a, b in itertools.combinations(probes, 2)
    ]
    corrected = iter(holm([one.p for pair in pairs for one in pair.figures]))
    return [
        replace(pair, figures=tuple(replace(one, p_holm=next(corrected)) for one in pair.figures)) for pair in pairs
    ]


def _check_branches(a: ProbeMeasured, b: ProbeMeasured) -> None:
    """Values aside, the items must be the same: then differences are the reward models' alone. The policy's log-prob may be rounded
    otherwise."""
    own = {"sum": 0.0, "ratio": 0.0, "logprob": 0.0}
    for mine, theirs in itertools.zip_longest(a.items, b.items):
        if mine is None or theirs is None or replace(mine, **own) != replace(theirs, **own):
            branch = mine or theirs
            which = f"branch {branch.rank} of problem '{printable(branch.id)}' ({printable(branch.subset)})"
            raise UserError(
                f"{a.path} and {b.path} cannot be compared: {which} is not the same in both, or has other rollouts; probe both "
                "with the same policy, engine, options and seed"
            )


def _differences(a: ProbeMeasured, b: ProbeMeasured, n_resamples: int, seed: int) -> list[FigureDifference]:
    branches = a.columns.branches
    shown = [one.entry.metrics.branches.signals for one in (a, b)]
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
