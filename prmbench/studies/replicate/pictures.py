"""Curves of the replication, as SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from prmbench.reports.plots import to_svg
from prmbench.studies.replicate.figures import BEST, LABELS
from prmbench.studies.replicate.layout import UPDATES
from prmbench.studies.replicate.runs import Run
from prmbench.studies.replicate.work import Results

SMOOTH = 5
METHODS = ("grpo", "prime", "spro", "reinforce q_rm", "grpo dpo", "grpo ipvrm", BEST)


def learning_curves(results: Results) -> str:
    """Rollout accuracy of Table 5's methods in training."""
    return _curves(results, [("Rollout accuracy in training", "rollouts/accuracy", METHODS)], "Learning curves")


def figure_six(results: Results) -> str:
    """Both panels of Fig. 6, and the accuracy that does not know the prompt's."""
    runs = (*(f"distrl ipvrm {update}" for update in UPDATES), BEST)
    panels: list[tuple[str, str, Sequence[str]]] = [
        ("Rollout accuracy", "rollouts/accuracy", runs),
        ("Reward-model accuracy", "reward_model/accuracy", runs),
        ("Reward-model pair accuracy", "reward_model/pair_accuracy", runs),
    ]
    return _curves(results, panels, "Fig. 6")


def _curves(results: Results, panels: list[tuple[str, str, Sequence[str]]], title: str) -> str:
    """Means over seeds, `SMOOTH` steps at a time."""
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    for axis, (heading, name, runs) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for run in runs:
            rows = [row["history"] for row in results[Run("policy", run)]]
            if not all(name in step for history in rows for step in history):
                continue
            curve = np.array([[step[name] for step in history] for history in rows]).mean(axis=0)
            smooth = np.convolve(curve, np.ones(SMOOTH) / SMOOTH, mode="valid")
            steps = np.arange(len(smooth)) + (SMOOTH + 1) // 2
            axis.plot(steps, 100 * smooth, label=LABELS[run], linewidth=2 if run == BEST else 1.2)
        axis.set(title=heading, xlabel=f"step (mean of {SMOOTH})", ylabel="%")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return to_svg(figure, title)
