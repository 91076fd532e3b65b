"""Figures: one number taken out of a run's row, with its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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

    def minus(self, larger: str, smaller: str) -> RunDifference:
        """Return what this figure of one run is above that of another.

        Args:
            larger: Name of the run that the other is taken from.
            smaller: Name of the run that is taken off.
        """
        return RunDifference(self.of(larger), self.of(smaller))


@dataclass(frozen=True)
class RunFigure:
    """One figure of one run.

    Attributes:
        run: The run.
        figure: The figure.
    """

    run: StudyRun
    figure: Figure

    @property
    def runs(self) -> tuple[StudyRun, ...]:
        """The run, alone."""
        return (self.run,)

    def values(self, results: Results) -> list[float]:
        """Return the figure of every seed.

        Args:
            results: Rows of the run, and maybe of others.
        """
        return [float(self.figure.find(row)) for row in results[self.run]]


@dataclass(frozen=True)
class RunDifference:
    """One figure less another: mostly the same figure of two runs.

    Attributes:
        larger: The figure that the other is taken from.
        smaller: The figure that is taken off.
    """

    larger: RunFigure
    smaller: RunFigure

    @property
    def runs(self) -> tuple[StudyRun, ...]:
        """Their runs, which may be one."""
        return tuple(dict.fromkeys((self.larger.run, self.smaller.run)))

    def values(self, results: Results) -> list[float]:
        """Return the difference of every seed.

        Args:
            results: Rows of both runs, and maybe of others.
        """
        pairs = zip(self.larger.values(results), self.smaller.values(results), strict=True)
        return [a - b for a, b in pairs]


@dataclass(frozen=True)
class RunRatio:
    """One figure of a run, divided by the same figure of another run.

    Attributes:
        upper: The figure that is divided.
        lower: The figure that it is divided by.
    """

    upper: RunFigure
    lower: RunFigure

    @property
    def runs(self) -> tuple[StudyRun, ...]:
        """Both runs."""
        return (self.upper.run, self.lower.run)

    def values(self, results: Results) -> list[float]:
        """Return the ratio of every seed.

        Args:
            results: Rows of both runs, and maybe of others.
        """
        pairs = zip(self.upper.values(results), self.lower.values(results), strict=True)
        return [a / b for a, b in pairs]


def last_third(row: Row, name: str) -> float:
    """Average a logged figure over the last third of the training steps.

    Args:
        row: A policy's row.
        name: Name of the figure, as training logs it.

    Returns:
        The mean; NaN where the figure was not logged.
    """
    history = row["history"]
    return _mean(history[-(len(history) // 3) :], name)


def _mean(steps: Sequence[Row], name: str) -> float:
    """Average a logged figure over steps that have it; NaN where none has."""
    values = [step[name] for step in steps if name in step]
    return float(np.mean(values)) if values else float("nan")


def at(kind: Kind, text: str, path: str, digits: int = 1, scale: float = 1.0) -> Figure:
    """A figure that stands somewhere in a row.

    Args:
        kind: Kind of run that it is of.
        text: What it is, in words.
        path: Keys that lead to it, with slashes between them. Null on the way gives NaN, and so does a key that is not there: no
            world has every figure.
        digits: Digits shown after the point.
        scale: What it is multiplied by; 100 shows a share in %.
    """

    def find(row: Row) -> float:
        found: Any = row
        for key in path.split("/"):
            found = None if found is None else found.get(key)
        return float("nan") if found is None else scale * float(found)

    return Figure(kind, text, find, digits)


def count_seeds(results: Results) -> int:
    """Count the seeds of rows in which every run has the same seeds.

    Args:
        results: Rows by run, at least one run.
    """
    return len(next(iter(results.values())))


# Figures of reward models.


def f1(form: str, protocol: str = "process", part: str = "f1") -> Figure:
    """F1 in %, with crossfit thresholds.

    Args:
        form: Format of the traces; in worlds other than the miniature, a subset.
        protocol: Name of the step-score protocol.
        part: ``f1``, or ``f1_content`` for sums without format tokens.
    """
    return at("reward model", _f1_text(protocol, part), f"{part}/crossfit/{form}/{protocol}", scale=100)


def shifted_f1(protocol: str = "process", part: str = "f1") -> Figure:
    """Mean F1 over the formats that reward models do not learn from, in %: the paper's ProcessBench is a shift of format.

    Args:
        protocol: Name of the step-score protocol.
        part: As in `f1`.
    """
    text = f"{_f1_text(protocol, part)}, shifted formats"
    return Figure("reward model", text, lambda row: _mean_f1(row, shifted_subsets_of(row), protocol, part))


def _f1_text(protocol: str, part: str) -> str:
    return f"F1 ({protocol})" + (" without format tokens" if part == "f1_content" else "")


def subsets_of(row: Row) -> list[str]:
    """Name the subsets of traces that a reward model was measured on.

    Args:
        row: A reward model's row.
    """
    return list(row["f1"]["crossfit"])


def shifted_subsets_of(row: Row) -> list[str]:
    """Name the subsets whose format is not the one that reward models learn from.

    Args:
        row: A reward model's row. One that does not say it is the miniature's, where all but ``tagged`` are a shift.
    """
    shifted: list[str] = row.get("shifted") or [name for name in subsets_of(row) if name != "tagged"]
    return shifted


def _mean_f1(row: Row, subsets: Sequence[str], protocol: str, part: str) -> float:
    return sum(f1(name, protocol, part).find(row) for name in subsets) / len(subsets)


DROP = Figure("reward model", "cost of the format shift", lambda row: f1("tagged").find(row) - shifted_f1().find(row))
"""Process F1 on tagged traces minus process F1 on the shifted formats, in points."""

FINAL_AUC = at("reward model", "AUC of the final value", "auc_final", 3)
"""AUC of a rollout's final value against its verdict."""

FORMAT_SHARE = at("reward model", "share of abs(r) on format tokens, %", "format_share/absolute", scale=100)

TRUE_RANKS = at("reward model", "rank agreement with true prefix values", "truth/spearman", 3)

# Figures of Best-of-N.


def best_of(n: int, sampled: str = "figures") -> Figure:
    """Best-of-N by the model's own score, exact over all subsets, in %.

    Args:
        n: Number of candidates, one of `BEST_OF`.
        sampled: ``figures`` for candidates at the evaluation preset, ``at_one`` for candidates at temperature 1.
    """

    def find(row: Row) -> float:
        own = next(iter(row[sampled]["scores"].values()))
        return 100 * float(own[str(n)]["expected"]["value"])

    return Figure("best-of-n", f"@{n}", find)


def over_sizes(sampled: str = "figures") -> Figure:
    """Mean over N, as Tables 1, 3 and 12 average, in %.

    Args:
        sampled: As in `best_of`.
    """
    text = "Best-of-N, mean over N" + ("" if sampled == "figures" else ", temperature 1")
    parts = [best_of(n, sampled) for n in BEST_OF]
    return Figure("best-of-n", text, lambda row: sum(part.find(row) for part in parts) / len(parts))


OVER_SIZES = over_sizes()
OVER_SIZES_AT_ONE = over_sizes("at_one")


def best_of_baseline(name: str, n: int) -> Figure:
    """Best-of-N of a choice that needs no reward model, in %.

    Args:
        name: Name of the choice.
        n: Number of candidates, one of `BEST_OF`.
    """
    return at("best-of-n", name, f"figures/baselines/{name}/{n}/expected/value", scale=100)


# Figures of policies.


def _average(row: Row) -> float:
    return 100 * (float(row["average"]) if "average" in row else float(np.mean(row["right"])) / row["n"])


AVERAGE = Figure("policy", "avg@8", _average)
"""avg@8 on the test problems, in %. Where there are several problem sets, the row has their plain mean, as the paper takes it."""


def logged(name: str, text: str, digits: int = 1, scale: float = 1.0) -> Figure:
    """Mean of a logged figure over the last third of the training steps.

    Args:
        name: Name of the figure, as training logs it.
        text: What it is, in words.
        digits: Digits shown after the point.
        scale: What it is multiplied by; 100 shows a share in %.
    """
    return Figure("policy", text, lambda row: scale * last_third(row, name), digits)


def over_training(name: str, text: str, digits: int = 1, scale: float = 1.0) -> Figure:
    """Mean of a logged figure over all training steps.

    Args:
        name: Name of the figure, as training logs it.
        text: What it is, in words.
        digits: Digits shown after the point.
        scale: What it is multiplied by; 100 shows a share in %.
    """
    return Figure("policy", text, lambda row: scale * _mean(row["history"], name), digits)


OUTCOME_MEAN = over_training("rollouts/accuracy", "verifier accuracy over training", scale=100)
"""Accuracy of the rollouts in training, in %, over all steps, as Table 7 averages."""

OUTCOME = logged("rollouts/accuracy", "verifier accuracy", scale=100)
"""Accuracy of the rollouts in training, in %."""

RM_ACCURACY = logged("reward_model/accuracy", "RM accuracy", scale=100)
"""The reward model's accuracy before each update, in %."""

RM_PAIRS = logged("reward_model/pair_accuracy", "RM pair accuracy", scale=100)
"""How often a right rollout has a higher final value than a wrong one of the same prompt, before each update, in %."""

RM_SCORE_MEAN = over_training("reward_model/score", "RM score over training", 3)
"""Mean log-ratio of a token (Eq. 19), over all steps, as Table 7 averages."""

STEP_SECONDS = at("step", "seconds a step", "seconds", 2)
PEAK_MEMORY = at("step", "peak memory of a step", "peak_gib", 3)


def _halfway(row: Row) -> float:
    first = next((step["reward_model/accuracy"] for step in row["history"] if "reward_model/accuracy" in step), None)
    return float("nan") if first is None else 100 * (float(first) + 0.5) / 2


HALFWAY_TO_CHANCE = Figure("policy", "halfway from the first RM accuracy to chance", _halfway)
"""Halfway between the reward model's accuracy before its first update and one half, in %."""


# Figures of probes.


def signal(name: str, figure: str, text: str = "") -> Figure:
    """A figure of a signal of the TD probe.

    Args:
        name: Name of the signal.
        figure: Name of the figure.
        text: What it is, in words.
    """
    return at("td", text, f"metrics/branches/signals/{name}/{figure}/value", 3)


def candidate_set(p_min: float, part: str) -> Figure:
    """A figure of Table 11's candidate sets.

    Args:
        p_min: Smallest probability of a candidate.
        part: ``size``, ``mass`` or ``several``.
    """
    return at("candidates", part, f"metrics/p_min/{p_min}/{part}/value", 3)


# Figures of token credit: TD, and what training moves, against exact values.


def preferred(kind: str) -> Figure:
    """How often TD prefers the better of the two ways of a decision, in %.

    Args:
        kind: Kind of the decision.
    """
    return at("credit", f"TD prefers the better way: {kind}", f"decisions/{kind}/agreement", scale=100)


def by_how_much(kind: str) -> Figure:
    """Correlation of what TD says of the two ways of a decision with the difference of their true values.

    Args:
        kind: Kind of the decision.
    """
    return at("credit", f"TD against the true difference: {kind}", f"decisions/{kind}/pearson", 3)


def credit(part: str, kind: str) -> Figure:
    """A figure of the TD of sampled tokens of a kind.

    Args:
        part: ``share`` of the sum of absolute TD, in %, or ``pearson`` of TD and true advantage.
        kind: Kind of the tokens.
    """
    text = {"share": "share of abs(TD), %", "pearson": "correlation of TD and true advantage"}[part]
    digits, scale = (1, 100) if part == "share" else (3, 1)
    return at("credit", f"{text}: {kind}", f"tokens/{kind}/{part}", digits, scale)


CREDIT = at("credit", "correlation of TD and true advantage, all tokens", "pearson", 3)


def gained(kind: str) -> Figure:
    """True value that training moved at a kind of decision, in points, at the SFT policy's own solutions.

    Args:
        kind: Kind of the decision, and whether the better way was the likelier one.
    """
    return at("policy", f"true value gained: {kind}", f"moves/decisions/{kind}/gain", 2, 100)


def moved(kind: str) -> Figure:
    """Mean absolute change of the probability of sampled tokens by training, in points.

    Args:
        kind: Kind of the tokens.
    """
    return at("policy", f"probability moved: {kind}", f"moves/tokens/{kind}", 2, 100)
