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

ROOM = 85.0
"""avg@8, in %, that GRPO is to stay below."""

TIE = 0.005
"""Difference of two AUCs that is not worth a higher rate: about a standard error on 2,400 rollouts."""


def chosen_rates(searched: Results) -> dict[str, float]:
    """Choose the learning rate of each searched objective: the lowest whose AUC of the final value is within `TIE` of the best.

    That needs outcomes only; nothing that needs step labels is looked at.

    Args:
        searched: Rows of the search.

    Returns:
        Learning rate by objective.
    """
    found: dict[str, dict[float, float]] = {}
    for name, settings in SEARCHED_REWARD_MODELS.items():
        auc = float(np.mean(RunFigure(StudyRun("reward model", name), figures.FINAL_AUC).values(searched)))
        found.setdefault(settings.objective, {})[settings.learning_rate] = auc
    return {
        objective: min(rate for rate, auc in aucs.items() if auc >= max(aucs.values()) - TIE)
        for objective, aucs in found.items()
    }


def chosen_policy_rate(searched: Results) -> float:
    """Choose the policies' learning rate: the highest with which GRPO, without a reward model, stays below `ROOM`.

    Above it a policy has little left to learn, and methods can no longer differ.

    Args:
        searched: Rows of the search.
    """
    found = {SEARCHED_POLICIES[name].learning_rate: average for name, average in _averages(searched, "grpo rate")}
    return max(rate for rate, average in found.items() if average < ROOM)


def chosen_gae_weight(searched: Results) -> float:
    """Choose the weight of the advantages that GAE gives: the one with which GRPO with IPVRM has the highest avg@8.

    Args:
        searched: Rows of the search.
    """
    name, _ = max(_averages(searched, "grpo ipvrm"), key=lambda one: one[1])
    return SEARCHED_POLICIES[name].gae_weight


def _averages(searched: Results, start: str) -> list[tuple[str, float]]:
    """avg@8 of the searched policies whose names begin so."""
    names = [name for name in SEARCHED_POLICIES if name.startswith(start)]
    return [(name, float(np.mean(figures.AVERAGE.of(name).values(searched)))) for name in names]


def paragraphs(searched: Results) -> list[str]:
    """Write the figures of the page.

    Args:
        searched: Rows of the search.
    """
    rates, rate, weight = chosen_rates(searched), chosen_policy_rate(searched), chosen_gae_weight(searched)
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
    policies = []
    for name, settings in SEARCHED_POLICIES.items():
        trained, rewarded = settings.method != "sft", settings.objective is not None
        chosen = settings.gae_weight == weight if rewarded else trained and settings.learning_rate == rate
        cells = [f"{settings.learning_rate:g}" if trained else "", f"{settings.gae_weight:g}" if rewarded else ""]
        average = cell_text(figures.AVERAGE.of(name), searched)
        policies.append([LABELS[settings.name], *cells, average, "chosen" if chosen else ""])
    return [
        "## Reward models",
        markdown_table(["objective", "learning rate", "AUC", *(f"process F1, {form}" for form in FORMATS), ""], models),
        "## Policies",
        markdown_table(["run", "learning rate", "weight of GAE", "avg@8", ""], policies),
    ]
