"""The page of how settings were chosen: what was tried, and the one rule that chooses, which looks at outcomes alone."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np

from prmbench.miniature.solutions import FORMATS
from prmbench.reports.pages import markdown_table
from prmbench.studies import figures
from prmbench.studies.figures import Results, RunFigure
from prmbench.studies.layout import cell_text
from prmbench.studies.runs import StudyRun
from prmbench.studies.settings import LABELS, SEARCHED_POLICIES, SEARCHED_REWARD_MODELS


def chosen_rates(searched: Results) -> dict[str, float]:
    """Choose the learning rate of each searched objective: the one with the highest AUC of the final value.

    That needs outcomes only; nothing that needs step labels is looked at.

    Args:
        searched: Rows of the search.

    Returns:
        Learning rate by objective.
    """
    best: dict[str, tuple[float, float]] = {}
    for name, settings in SEARCHED_REWARD_MODELS.items():
        auc = float(np.mean(RunFigure(StudyRun("reward model", name), figures.FINAL_AUC).values(searched)))
        best[settings.objective] = max(best.get(settings.objective, (0.0, 0.0)), (auc, settings.learning_rate))
    return {objective: rate for objective, (_, rate) in best.items()}


def chosen_policy_rate(searched: Results) -> float:
    """Choose the policies' learning rate: the one with which GRPO, without a reward model, has the highest avg@8.

    Args:
        searched: Rows of the search.
    """
    found = {
        settings.learning_rate: float(np.mean(figures.AVERAGE.of(name).values(searched)))
        for name, settings in SEARCHED_POLICIES.items()
        if settings.method == "grpo"
    }
    return max(found, key=lambda rate: found[rate])


def paragraphs(searched: Results) -> list[str]:
    """Write the figures of the page.

    Args:
        searched: Rows of the search.
    """
    rates, rate = chosen_rates(searched), chosen_policy_rate(searched)
    shown = [figures.FINAL_AUC, *map(figures.f1, FORMATS)]
    models = [
        [
            LABELS[settings.objective],
            f"{settings.learning_rate:g}",
            *(cell_text(one.of(name), searched) for one in shown),
            "chosen" if rates[settings.objective] == settings.learning_rate else "",
        ]
        for name, settings in sorted(SEARCHED_REWARD_MODELS.items(), key=lambda one: astuple(one[1])[:2])
    ]
    policies = [
        [
            LABELS[settings.name],
            "" if settings.method == "sft" else f"{settings.learning_rate:g}",
            cell_text(figures.AVERAGE.of(name), searched),
            "chosen" if settings.method != "sft" and settings.learning_rate == rate else "",
        ]
        for name, settings in SEARCHED_POLICIES.items()
    ]
    return [
        "## Reward models",
        markdown_table(["objective", "learning rate", "AUC", *(f"process F1, {form}" for form in FORMATS), ""], models),
        "## Policies",
        markdown_table(["run", "learning rate", "avg@8", ""], policies),
    ]
