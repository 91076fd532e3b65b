"""The page of the study of step labels: its tables and its picture."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Drawing

from prmbench.benchmarks.parts import to_svg
from prmbench.miniature.world import FORMATS
from prmbench.reports.pages import markdown_table
from prmbench.stats.seeds import ordering, seed_mean
from prmbench.studies.claims import with_interval
from prmbench.studies.figures import Figure, Results, RunFigure, at
from prmbench.studies.layout import write_rows
from prmbench.studies.measure_step_labels import BATCH, HELD_OUT, UPDATES
from prmbench.studies.runs import StudyRun
from prmbench.studies.step_label_data import N_EQUAL, N_POOL
from prmbench.studies.step_label_settings import (
    CONTINUATIONS,
    MODEL_LABELS,
    STEP_LABEL_MODELS,
    Budget,
)

BUDGETS: dict[Budget, str] = {"data": "Equal data", "tokens": "Equal sampled tokens"}
ABOUT: dict[Budget, str] = {
    "data": f"All learn from the solutions of the same {N_EQUAL} problems, {N_POOL[1]} of each. Exact labels cost no tokens: they "
    "stand for what people would give.",
    "tokens": f"All may spend the sampled tokens of the solutions of {N_POOL[0]:,} problems, {N_POOL[1]} of each.",
}
PICTURE = "step-labels-f1.svg"


def f1(form: str) -> Figure:
    """F1 of the first wrong step in %, with crossfit thresholds.

    Args:
        form: Format of the traces.
    """
    return at("step labels", f"F1, {form}", f"f1/{form}", scale=100)


def step_auc(form: str) -> Figure:
    """AUC of right steps against first wrong ones.

    Args:
        form: Format of the traces.
    """
    return at("step labels", f"step AUC, {form}", f"auc/{form}", 3)


MEASURED = (*map(f1, FORMATS), *map(step_auc, FORMATS))
TRAINED_ON = (
    at("step labels", "solutions", "data/n_traces", 0),
    at("step labels", "labels", "data/n_labels", 0),
    at("step labels", "sampled tokens, thousands", "data/tokens", 0, 1e-3),
    at("step labels", "right labels, %", "data/right", 1, 100),
    at("step labels", "exact ones, %", "data/agreement", 1, 100),
)


def write_step_labels(results: Results, _: Results) -> tuple[list[str], dict[str, str]]:
    """Write the figures of the page.

    Args:
        results: Rows of the tables.
        _: Not used; nothing is searched.

    Returns:
        The paragraphs, and the picture by its file's name.
    """
    some = next(iter(results.values()))
    random = ", ".join(
        f"{with_interval(seed_mean([100 * row['random'][form] for row in some]), 1)} on {form} traces"
        for form in FORMATS
    )
    paragraphs = [
        "## Figures",
        f"Seeds {', '.join(str(row['seed']) for row in some)}; means over seeds with the 95% Student-t interval of the mean. F1 of "
        f"the first wrong step in %, crossfit thresholds; step AUC of right steps against first wrong ones. Random scores have "
        f"F1 {random}. Every training has {UPDATES} updates of {BATCH} solutions, and one solution of {HELD_OUT} is kept back.",
        f"![F1 by label and budget]({PICTURE})",
    ]
    for budget, title in BUDGETS.items():
        paragraphs += [f"### {title}", ABOUT[budget], _table(results, budget, MEASURED)]
        paragraphs += ["What they are trained on:", _table(results, budget, TRAINED_ON)]
    return [
        *paragraphs,
        "### What a label buys",
        "Differences paired by seed, in points of F1 (tagged, plain) and of AUC times 100; `*`: the 95% interval is on one side of "
        "0.",
        _differences(results),
    ], {PICTURE: draw(results)}


def _models(budget: Budget) -> list[str]:
    """The reward models of a budget, in the page's order."""
    there = {one.model for one in STEP_LABEL_MODELS.values() if one.budget == budget}
    return [model for model in MODEL_LABELS if model in there]


def _run(model: str, budget: Budget) -> StudyRun:
    (name,) = [one.name for one in STEP_LABEL_MODELS.values() if (one.model, one.budget) == (model, budget)]
    return StudyRun("step labels", name)


def _table(results: Results, budget: Budget, figures: tuple[Figure, ...]) -> str:
    rows = [
        (MODEL_LABELS[model], [RunFigure(_run(model, budget), figure) for figure in figures])
        for model in _models(budget)
    ]
    return markdown_table(["", *(figure.text for figure in figures)], write_rows(rows, results, undefined=""))


def _differences(results: Results) -> str:
    """Paired differences of explicit PRMs and IPVRM, and of more continuations and fewer, at both budgets."""
    pairs = [
        ("exact", "ipvrm"),
        *((f"k={k}", "ipvrm") for k in CONTINUATIONS),
        ("exact", f"k={CONTINUATIONS[-1]}"),
        (f"k={CONTINUATIONS[-1]}", f"k={CONTINUATIONS[0]}"),
    ]
    rows = []
    for budget, title in BUDGETS.items():
        for one, other in pairs:
            if not {one, other} <= set(_models(budget)):
                continue
            cells = [_difference(results, figure, _run(one, budget), _run(other, budget)) for figure in MEASURED]
            rows.append([title, f"{MODEL_LABELS[one]}, minus {MODEL_LABELS[other]}", *cells])
    return markdown_table(["budget", "difference", *(figure.text for figure in MEASURED)], rows)


def _difference(results: Results, figure: Figure, one: StudyRun, other: StudyRun) -> str:
    scale = 1 if figure.digits == 1 else 100
    larger, smaller = ([scale * x for x in RunFigure(run, figure).values(results)] for run in (one, other))
    found, verdict = ordering(larger, smaller)
    return f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]" + ("" if verdict == "undecided" else " *")


def draw(results: Results) -> str:
    """Draw F1 with its interval, one line a reward model, one panel a budget.

    Args:
        results: Rows of the tables.

    Returns:
        The picture as SVG.
    """
    figure = Drawing(figsize=(9, 3.6), layout="constrained")
    place = dict(zip(MODEL_LABELS, range(len(MODEL_LABELS), 0, -1), strict=True))
    axes = figure.subplots(1, len(BUDGETS), sharey=True, sharex=True)
    for axis, (budget, title) in zip(axes, BUDGETS.items(), strict=True):
        for form, marker, shift in zip(FORMATS, "os", (0.12, -0.12), strict=True):
            models = _models(budget)
            means = [seed_mean(RunFigure(_run(model, budget), f1(form)).values(results)) for model in models]
            middle = np.array([one.mean for one in means])
            ends = np.array([[one.mean - one.low, one.high - one.mean] for one in means]).T
            places = np.array([place[model] for model in models]) + shift
            axis.errorbar(middle, places, xerr=ends, fmt=marker, capsize=3, label=f"{form} traces")
        axis.set(title=title, xlabel="F1 of the first wrong step, %", yticks=list(place.values()))
        axis.set_yticklabels(list(MODEL_LABELS.values()))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return to_svg(figure, "F1 by label and budget")
