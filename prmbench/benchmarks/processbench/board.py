"""ProcessBench entries in leaderboards and comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prmbench.benchmarks.base import Column, Measured
from prmbench.benchmarks.differences import Outcomes
from prmbench.benchmarks.processbench.metrics import position_bins, predict
from prmbench.benchmarks.processbench.schema import BASELINES, ProcessBenchEntry, ProtocolResult, quoted
from prmbench.benchmarks.trace_tables import BASELINE_TITLES, main_protocol
from prmbench.errors import UserError
from prmbench.results.schema import Estimate
from prmbench.stats.protocols import DIRECT

Figure = Callable[[ProtocolResult, Mapping[str, ProtocolResult]], Estimate | None]
"""A figure of an entry's main protocol, given all of its protocols."""


def _figures(entries: Sequence[ProcessBenchEntry]) -> dict[tuple[str, str], Figure]:
    """The figures of a table by key and title."""
    subsets = list(entries[0].benchmark.subsets)
    others = list(dict.fromkeys(p for one in entries for p in list(one.metrics.protocols)[1:]))

    def of_subset(subset: str) -> Figure:
        def figure(main: ProtocolResult, _: Mapping[str, ProtocolResult]) -> Estimate | None:
            here = quoted(main.subsets[subset].rules)
            return here.f1 if here else None

        return figure

    def of_protocol(name: str) -> Figure:
        return lambda _, protocols: quoted(protocols[name].mean) if name in protocols else None

    return {
        ("f1", "F1"): lambda main, _: quoted(main.mean),
        **({(f"f1.{name}", name): of_subset(name) for name in subsets} if len(subsets) > 1 else {}),
        **{(f"f1.protocol.{name}", f"F1 {name}"): of_protocol(name) for name in others},
        ("f1.oracle", "F1 oracle"): lambda main, _: main.mean.get("oracle"),
    }


def columns(entries: Sequence[ProcessBenchEntry]) -> list[Column]:
    """The columns of a leaderboard's table.

    Args:
        entries: Entries of one fingerprint.
    """

    def column(key: str, title: str, figure: Figure) -> Column:
        def estimate(entry: ProcessBenchEntry) -> Estimate | None:
            return figure(entry.metrics.protocols[main_protocol(entry)], entry.metrics.protocols)

        return Column(key, title, estimate)

    return [column(key, title, figure) for (key, title), figure in _figures(entries).items()]


def baselines(entry: ProcessBenchEntry, columns: Sequence[Column]) -> list[tuple[str, list[Estimate | None]]]:
    """Rows of scores that know nothing; they have one protocol only.

    Args:
        entry: One entry of the table.
        columns: The table's columns.
    """
    figures = {key: figure for (key, _), figure in _figures([entry]).items()}
    return [
        (
            BASELINE_TITLES[kind],
            [figures[c.key](entry.metrics.baselines[kind], {}) if c.key in figures else None for c in columns],
        )
        for kind in BASELINES
        if kind in entry.metrics.baselines
    ]


def notes(measured: Sequence[Measured]) -> list[str]:
    """What the columns are, and which subjects to be careful with.

    Args:
        measured: The entries of the table.
    """
    protocols = sorted({main_protocol(one.entry) for one in measured})
    found = [
        f"F1 in %, step score: {', '.join(protocols)}; thresholds by crossfit. F1 oracle chooses on the test items."
    ]
    if DIRECT in protocols:
        found.append(f"{DIRECT}: a critic names the first wrong step itself; there is no threshold.")
    if any(one.entry.subject.unverified for one in measured):
        found.append("unverified: how it is scored was not checked against numbers of its authors' code.")
    return found


def outcomes(
    measured: Measured, *, protocol: str | None = None, thresholds: str = "crossfit", seed: int = 0
) -> dict[str, Outcomes]:
    """Whether each trace is predicted right.

    Args:
        measured: The entry and its items.
        protocol: Which step score; None: the entry's first.
        thresholds: The threshold rule.
        seed: Seed of crossfit's folds.

    Raises:
        UserError: A protocol or threshold rule that the entry does not have.
    """
    subject = measured.entry.subject
    try:
        found = predict(
            measured.items,
            subject.beta,
            subject.fixed_thresholds,
            protocol=protocol or main_protocol(measured.entry),
            rule=thresholds,
            seed=seed,
        )
    except ValueError as error:
        raise UserError(f"{measured.path}: {error}") from None
    return {
        name: Outcomes(
            ids=[item.id for item in one.items],
            values=one.hits.astype(np.float64),
            digests=[item.digest for item in one.items],
            labels=one.labels,
            predicted=one.predicted,
            groups=_groups(one.labels, [item.generator for item in one.items]),
        )
        for name, one in found.items()
    }


def _groups(labels: Any, generators: Sequence[str]) -> dict[str, list[tuple[str, Any]]]:
    """Parts of a subset that are compared apart: by position of the first error, and by generator."""
    right = labels < 0
    positions = ([("no error", right)] if right.any() else []) + position_bins(labels)
    written = np.array(generators)
    return {
        "position": positions,
        "generator": [(str(name), written == name) for name in np.unique(written)],
    }
