"""Step-labels entries in leaderboards and comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prmbench.benchmarks.base import Column, Measured
from prmbench.benchmarks.differences import Outcomes
from prmbench.benchmarks.processbench.metrics import by_subset, item_scores
from prmbench.benchmarks.step_labels.metrics import Labels, choose_thresholds
from prmbench.benchmarks.step_labels.schema import (
    StepLabelsEntry,
    StepProtocolResult,
    StepRuleResult,
    StepSubsetResult,
    quoted,
)
from prmbench.benchmarks.trace_tables import BASELINE_TITLES, main_protocol
from prmbench.errors import UserError
from prmbench.results.schema import Estimate

Figure = Callable[[StepProtocolResult], Estimate | None]


def _figures(entries: Sequence[StepLabelsEntry]) -> dict[tuple[str, str], Figure]:
    """The figures of a table by key and title."""
    subsets = list(entries[0].benchmark.subsets)

    def ruled(subset: str, figure: Callable[[StepRuleResult], Estimate]) -> Figure:
        def of(result: StepProtocolResult) -> Estimate | None:
            found = quoted(result.subsets[subset].rules)
            return figure(found) if found else None

        return of

    def plain(subset: str, figure: Callable[[StepSubsetResult], Estimate]) -> Figure:
        return lambda result: figure(result.subsets[subset])

    found: dict[tuple[str, str], Figure] = {("prm_score", "PRMScore"): lambda result: quoted(result.mean)}
    for subset in subsets:
        key, title = (f".{subset}", f"{subset} ") if len(subsets) > 1 else ("", "")
        if title:
            found[f"prm_score{key}", f"{title}PRMScore"] = ruled(subset, lambda r: r.prm_score)
        found |= {
            (f"f1_right{key}", f"{title}F1 right"): ruled(subset, lambda r: r.f1_right),
            (f"f1_wrong{key}", f"{title}F1 wrong"): ruled(subset, lambda r: r.f1_wrong),
            (f"balanced_f1{key}", f"{title}balanced F1"): ruled(subset, lambda r: r.balanced_f1),
            (f"step_auc{key}", f"{title}step AUC"): plain(subset, lambda s: s.step_auc),
            (f"average_precision{key}", f"{title}AP"): plain(subset, lambda s: s.average_precision),
        }
    found["prm_score.oracle", "PRMScore oracle"] = lambda result: result.mean.get("oracle")
    return found


def columns(entries: Sequence[StepLabelsEntry]) -> list[Column]:
    """The columns of a leaderboard's table.

    Args:
        entries: Entries of one fingerprint.
    """

    def column(key: str, title: str, figure: Figure) -> Column:
        return Column(key, title, lambda entry: figure(entry.metrics.protocols[main_protocol(entry)]))

    return [column(key, title, figure) for (key, title), figure in _figures(entries).items()]


def baselines(entry: StepLabelsEntry, columns: Sequence[Column]) -> list[tuple[str, list[Estimate | None]]]:
    """Rows of scores that know nothing.

    Args:
        entry: One entry of the table.
        columns: The table's columns.
    """
    figures = {key: figure for (key, _), figure in _figures([entry]).items()}
    return [
        (BASELINE_TITLES[name], [figures[c.key](result) if c.key in figures else None for c in columns])
        for name, result in entry.metrics.baselines.items()
    ]


def notes(measured: Sequence[Measured]) -> list[str]:
    """What the columns are.

    Args:
        measured: The entries of the table.
    """
    protocols = sorted({main_protocol(one.entry) for one in measured})
    return [
        f"In %, step score: {', '.join(protocols)}; thresholds by crossfit, or chosen elsewhere. PRMScore is the mean of the F1 of "
        "right and of wrong steps. PRMScore oracle chooses on the test items."
    ]


def outcomes(
    measured: Measured, *, protocol: str | None = None, thresholds: str = "crossfit", seed: int = 0
) -> dict[str, Outcomes]:
    """What became of each trace's steps, of which comparisons make PRMScore. Traces without a known step are left out.

    Args:
        measured: The entry and its items.
        protocol: Which step score; None: the entry's first.
        thresholds: The threshold rule.
        seed: Seed of crossfit's folds.

    Raises:
        UserError: A protocol or threshold rule that the entry does not have.
    """
    entry: StepLabelsEntry = measured.entry
    subject, used = entry.subject, protocol or main_protocol(entry)
    if used not in entry.metrics.protocols:
        raise UserError(f"{measured.path}: protocol '{used}': these scores have {', '.join(entry.metrics.protocols)}")
    known: Mapping[str, float | None] = {
        "given": entry.metrics.given.get(used),
        "fixed": subject.fixed_thresholds.get(used),
    }
    found = {}
    for name, items in by_subset(measured.items).items():
        subset = Labels(name, items)
        scores = [item_scores(item, subject.beta)[used] for item in subset.items]
        try:
            chosen, _ = choose_thresholds(subset, scores, thresholds, known, seed)
        except ValueError as error:
            raise UserError(f"{measured.path}: {name}: {error}") from None
        cells = subset.steps(scores).cells(chosen)
        n = cells.sum(axis=1)
        kept = [item for item, some in zip(subset.items, n > 0, strict=True) if some]
        right = cells[n > 0][:, [0, 2]].sum(axis=1) / n[n > 0]
        found[name] = Outcomes(
            [item.id for item in kept], np.asarray(right), [item.digest for item in kept], cells=cells[n > 0]
        )
    return found
