"""Figures: one number taken out of a run's row, with its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prmbench.miniature.world import FORMATS
from prmbench.studies.measure_reward_models import BEST_OF
from prmbench.studies.runs import Kind, Row, StudyRun

Results = Mapping[StudyRun, Sequence[Row]]
"""Rows of each run, one a seed, in the order of the seeds."""


@dataclass(frozen=True)
class Figure:
    """One number of a row.

    Attributes:
        kind: Kind of run that it is of.
        text: What it is, in words.
        find: Takes it out of a row; NaN where the row does not have it.
        digits: Digits shown after the point.
    """

    kind: Kind
    text: str
    find: Callable[[Row], float]
    digits: int = 1

    def of(self, name: str) -> RunFigure:
        """Return this figure of one run.

        Args:
            name: Name of the run's reward model or policy.
        """
        return RunFigure(StudyRun(self.kind, name), self)


@dataclass(frozen=True)
class RunFigure:
    """One figure of one run.

    Attributes:
        run: The run.
        figure: The figure.
    """

    run: StudyRun
    figure: Figure

    def values(self, results: Results) -> list[float]:
        """Return the figure of every seed.

        Args:
            results: Rows of the run, and maybe of others.
        """
        return [float(self.figure.find(row)) for row in results[self.run]]


def last_third(row: Row, name: str) -> float:
    """Average a logged figure over the last third of the training steps.

    Args:
        row: A policy's row.
        name: Name of the figure, as training logs it.

    Returns:
        The mean; NaN where the figure was not logged.
    """
    history = row["history"]
    values = [step[name] for step in history[-(len(history) // 3) :] if name in step]
    return float(np.mean(values)) if values else float("nan")


# Figures of reward models.


def f1(form: str, protocol: str = "process", part: str = "f1") -> Figure:
    """F1 in %, with crossfit thresholds.

    Args:
        form: Format of the traces.
        protocol: Name of the step-score protocol.
        part: ``f1``, or ``f1_content`` for sums without format tokens.
    """
    return Figure("reward model", f"F1 ({protocol})", lambda row: 100 * row[part]["crossfit"][form][protocol])


def mean_f1(protocol: str = "process") -> Figure:
    """Mean F1 over the formats, in %.

    Args:
        protocol: Name of the step-score protocol.
    """
    parts = [f1(form, protocol) for form in FORMATS]
    return Figure("reward model", f"F1 ({protocol})", lambda row: sum(part.find(row) for part in parts) / len(parts))


DROP = Figure("reward model", "cost of the format shift", lambda row: f1("tagged").find(row) - f1("plain").find(row))
"""Process F1 on tagged traces minus process F1 on plain ones, in points."""

FINAL_AUC = Figure("reward model", "AUC of the final value", lambda row: row["auc_final"], 3)
"""AUC of a rollout's final value against its verdict."""

FORMAT_SHARE = Figure(
    "reward model", "share of abs(r) on format tokens, %", lambda row: 100 * row["format_share"]["absolute"]
)

TRUE_RANKS = Figure("reward model", "rank agreement with true prefix values", lambda row: row["truth"]["spearman"], 3)


def best_of(n: int) -> Figure:
    """Best-of-N by the model's own score, exact over all subsets, in %.

    Args:
        n: Number of candidates, one of `BEST_OF`.
    """

    def find(row: Row) -> float:
        own = next(iter(row["figures"]["scores"].values()))
        return 100 * float(own[str(n)]["expected"]["value"])

    return Figure("best-of-n", f"@{n}", find)


OVER_SIZES = Figure("best-of-n", "mean over N", lambda row: sum(best_of(n).find(row) for n in BEST_OF) / len(BEST_OF))
"""Mean over N, as Tables 1, 3 and 12 average."""


def best_of_baseline(name: str, n: int) -> Figure:
    """Best-of-N of a choice that needs no reward model, in %.

    Args:
        name: Name of the choice.
        n: Number of candidates, one of `BEST_OF`.
    """
    return Figure(
        "best-of-n", name, lambda row: 100 * float(row["figures"]["baselines"][name][str(n)]["expected"]["value"])
    )


# Figures of policies.

AVERAGE = Figure("policy", "avg@8", lambda row: 100 * float(np.mean(row["right"])) / row["n"])
"""avg@8 on the test problems, in %."""


def logged(name: str, text: str, digits: int = 1, scale: float = 1.0) -> Figure:
    """Mean of a logged figure over the last third of the training steps.

    Args:
        name: Name of the figure, as training logs it.
        text: What it is, in words.
        digits: Digits shown after the point.
        scale: What it is multiplied by; 100 shows a share in %.
    """
    return Figure("policy", text, lambda row: scale * last_third(row, name), digits)


OUTCOME = logged("rollouts/accuracy", "verifier accuracy", scale=100)
"""Accuracy of the rollouts in training, in %."""

RM_ACCURACY = logged("reward_model/accuracy", "RM accuracy", scale=100)
"""The reward model's accuracy before each update, in %."""

RM_PAIRS = logged("reward_model/pair_accuracy", "RM pair accuracy", scale=100)
"""How often a right rollout has a higher final value than a wrong one of the same prompt, before each update, in %."""

RM_SCORE = logged("reward_model/score", "RM score", 3)
"""Mean log-ratio of a token (Eq. 19)."""


# Figures of probes.


def signal(name: str, figure: str, text: str = "") -> Figure:
    """A figure of a signal of the TD probe.

    Args:
        name: Name of the signal.
        figure: Name of the figure.
        text: What it is, in words.
    """

    def find(row: Row) -> float:
        branches = row["metrics"]["branches"]
        value = None if branches is None else branches["signals"][name][figure]["value"]
        return float("nan") if value is None else float(value)

    return Figure("td", text, find, 3)


def candidate_set(p_min: float, part: str) -> Figure:
    """A figure of Table 11's candidate sets.

    Args:
        p_min: Smallest probability of a candidate.
        part: ``size``, ``mass`` or ``several``.
    """
    return Figure("candidates", part, lambda row: row["metrics"]["p_min"][str(p_min)][part]["value"], 3)
