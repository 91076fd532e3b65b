"""Pictures of the studies, as SVG: learning curves, the reliability of prefix values, and figures against sampled tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from prmbench.benchmarks.parts import to_svg
from prmbench.stats.seeds import seed_mean
from prmbench.studies import figures
from prmbench.studies.figures import Results
from prmbench.studies.runs import StudyRun
from prmbench.studies.settings import BEST, LABELS, UPDATES

SMOOTH = 5

Panel = tuple[str, str, Sequence[str]]
"""Title, name of the logged figure, and names of the policies."""

COMPARED = ("grpo", "prime", "spro", "reinforce q_rm", "grpo dpo", "grpo ipvrm", BEST)
UPDATED = (*(f"distrl ipvrm {update}" for update in UPDATES), BEST)

LEARNING_CURVES: list[Panel] = [("Rollout accuracy in training", "rollouts/accuracy", COMPARED)]
"""Table 5's methods."""

FIGURE_SIX: list[Panel] = [
    ("Rollout accuracy", "rollouts/accuracy", UPDATED),
    ("Reward-model accuracy", "reward_model/accuracy", UPDATED),
    ("Reward-model pair accuracy", "reward_model/pair_accuracy", UPDATED),
]
"""Both panels of Fig. 6, and the accuracy that does not know the prompt's own."""


def curves(results: Results, panels: Sequence[Panel], title: str) -> str:
    """Draw logged figures against the training step: means over seeds, `SMOOTH` steps at a time.

    Args:
        results: Rows by run.
        panels: What to draw; a policy that did not log the figure is left out.
        title: Title of the picture.

    Returns:
        The picture as SVG.
    """
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    for axis, (heading, name, policies) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for policy in policies:
            rows = [row["history"] for row in results[StudyRun("policy", policy)]]
            if not all(name in step for history in rows for step in history):
                continue
            curve = np.array([[step[name] for step in history] for history in rows]).mean(axis=0)
            width = min(SMOOTH, len(curve))
            smooth = np.convolve(curve, np.ones(width) / width, mode="valid")
            steps = np.arange(len(smooth)) + (width + 1) // 2
            axis.plot(steps, 100 * smooth, label=LABELS[policy], linewidth=2 if policy == BEST else 1.2)
        axis.set(title=heading, xlabel=f"step (mean of {SMOOTH})", ylabel="%")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return to_svg(figure, title)


def reliability_diagram(results: Results, names: Sequence[str]) -> str:
    """Draw predicted prefix values against the true ones, under both links, with the seeds' bins put together.

    Args:
        results: Rows by run.
        names: Names of reward models whose value is a logit.

    Returns:
        The picture as SVG.
    """
    figure = Figure(figsize=(3.1 * len(names), 3.7), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(names), sharey=True))
    for axis, name in zip(axes, names, strict=True):
        rows = [row["truth"] for row in results[StudyRun("reward model", name)]]
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for link, label in (("margin", "margin's link"), ("naive", "plain sigmoid")):
            if link == "naive" and all(row["margin"] == row["naive"] for row in rows):
                continue
            # Shape [3, seeds, bins]; a bin of share 0 has no mean.
            p, o, s = (
                np.array([row[link][part] for row in rows], dtype=float) for part in ("predicted", "observed", "share")
            )
            weight = s.sum(axis=0)
            x, y = (np.nansum(s * part, axis=0)[weight > 0] / weight[weight > 0] for part in (p, o))
            axis.scatter(x, y, s=250 * weight[weight > 0] / len(rows) + 4, alpha=0.8, label=label)
        axis.set(title=LABELS[name], xlabel="predicted", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.legend(fontsize=7, loc="upper left")
    axes[0].set_ylabel("true value (share of right continuations)")
    return to_svg(figure, "Reliability of prefix values")


def against_tokens(
    results: Results,
    panels: Sequence[figures.Figure],
    tokens: figures.Figure,
    lines: Mapping[str, Sequence[str]],
    level: tuple[str, str],
) -> str:
    """Draw figures against sampled tokens, one line a family, with the 95% interval over seeds where there are several.

    Args:
        results: Rows by run.
        panels: The figures, one a panel.
        tokens: The figure of the tokens.
        lines: Names of the runs of each family, by what the legend calls it.
        level: Name of a run without a cost, drawn as a level, and what the legend calls it.

    Returns:
        The picture as SVG.
    """
    figure = Figure(figsize=(4.6 * len(panels), 4.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axis, panel in zip(axes, panels, strict=True):
        for (label, names), marker in zip(lines.items(), "os^Dv", strict=False):
            x = [float(np.mean(tokens.of(name).values(results))) for name in names]
            means = [seed_mean(panel.of(name).values(results)) for name in names]
            half = np.nan_to_num([one.high - one.mean for one in means])
            y = [one.mean for one in means]
            axis.errorbar(x, y, yerr=half if half.any() else None, marker=marker, capsize=3, label=label, linewidth=1.4)
        name, label = level
        axis.axhline(float(np.mean(panel.of(name).values(results))), color="0.5", linestyle=":", label=label)
        axis.set(title=panel.text, xlabel="sampled tokens", xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return to_svg(figure, "Figures against sampled tokens")
