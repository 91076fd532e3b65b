"""The figures of the study of guided search, from the rows of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure as Drawing

from prmbench.benchmarks.parts import to_svg
from prmbench.benchmarks.search.table import standing
from prmbench.reports.pages import markdown_table
from prmbench.results.schema import Estimate
from prmbench.studies.figures import Results, count_seeds
from prmbench.studies.measure_search import BUDGETS, MANY, N_MANY, N_SEARCHED, SEARCHES, TRUTH
from prmbench.studies.runs import Row, StudyRun
from prmbench.studies.settings import LABELS

TITLES = {TRUTH: "true values", "exact @16": "explicit PRM, exact labels"}
RUNS = [StudyRun("search", name) for name in SEARCHES]
POOLED = "best-of-n@"
"""How the methods begin that choose from plain samples and are compared with nothing."""


def title_of(run: StudyRun) -> str:
    """Say what the page calls a way to score.

    Args:
        run: Its run.
    """
    return TITLES.get(run.name) or LABELS[run.name]


def over_problems(estimates: Sequence[Mapping[str, float]]) -> tuple[float, float, float]:
    """Take the mean over seeds, with the interval that the problems of these seeds give.

    It says nothing of other seeds: a few are too few for that.

    Args:
        estimates: ``value``, ``low`` and ``high`` of each seed. Problems of different seeds are independent, so the squares of half
            widths add.

    Returns:
        The mean, and the lower and the upper end of its interval.
    """
    value, low, high = (np.array([one[part] for one in estimates]) for part in ("value", "low", "high"))
    mean, n = float(value.mean()), len(value)
    down, up = (float(np.linalg.norm(part)) / n for part in (value - low, high - value))
    return mean, mean - down, mean + up


def _shown(rows: Sequence[Row], method: str, figure: str, *, sign: bool = False) -> str:
    found, plus = over_problems([row["methods"][method][figure] for row in rows]), "+" if sign else ""
    value, low, high = (f"{100 * part:{plus}.1f}" for part in found)
    return f"{value} [{low}, {high}]"


def _mean(rows: Sequence[Row], method: str, figure: str) -> float:
    return float(np.mean([row["methods"][method][figure] for row in rows]))


def methods_table(results: Results) -> str:
    """Write a row for each way to score, method and budget.

    Args:
        results: Rows by run.
    """
    cells = []
    for run, rows in results.items():
        for method in rows[0]["methods"]:
            against = ["", "", ""]
            if not method.startswith(POOLED):
                against = [
                    f"{100 * _mean(rows, method, 'best_of_n'):.1f} @{_mean(rows, method, 'equal_n'):.1f}",
                    _shown(rows, method, "difference", sign=True),
                    ", ".join(f"{100 * row['methods'][method]['difference']['value']:+.1f}" for row in rows),
                ]
            cost = [f"{_mean(rows, method, 'sampled'):,.0f}", f"{_mean(rows, method, 'flops') / 1e6:,.0f}"]
            cells.append([title_of(run), method, _shown(rows, method, "accuracy"), *against, *cost])
    titles = [
        "scores by",
        "method",
        "right",
        "best-of-n, equal compute",
        "difference",
        "seed by seed",
        "tokens",
        "MFLOPs",
    ]
    return markdown_table(titles, cells)


def winners(results: Results) -> list[str]:
    """Say of each way to score which searches are better and which are worse than Best-of-N at equal compute.

    Args:
        results: Rows by run.
    """
    lines = []
    for run, rows in results.items():
        groups: dict[str, list[str]] = {}
        for method in rows[0]["methods"]:
            if not method.startswith(POOLED):
                value, low, high = over_problems([row["methods"][method]["difference"] for row in rows])
                words = standing(Estimate(value=value, low=low, high=high))
                groups.setdefault(words, []).append(method)
        lines.append(
            f"- {title_of(run)}: "
            + "; ".join(f"{words} Best-of-N: {', '.join(some)}" for words, some in groups.items())
            + "."
        )
    return lines


def curve_table(results: Results) -> str:
    """Write Best-of-N against N, a row for each way to score.

    Args:
        results: Rows by run.
    """
    sizes = list(next(iter(results.values()))[0]["curve"])

    def means(rows: Sequence[Row], figure: str) -> list[str]:
        return [f"{100 * np.mean([row['curve'][n][figure] for row in rows]):.1f}" for n in sizes]

    cells = [[title_of(run), *means(rows, "accuracy")] for run, rows in results.items()]
    cells.append(["any right", *means(next(iter(results.values())), "any_right")])
    return markdown_table(["scores by", *(f"@{n}" for n in sizes)], cells)


def curve_picture(results: Results) -> str:
    """Draw Best-of-N against N, and what a perfect choice reaches.

    Args:
        results: Rows by run.

    Returns:
        The picture as SVG.
    """
    drawing = Drawing(figsize=(6, 3.8), layout="constrained")
    axis = drawing.subplots()
    first = next(iter(results.values()))
    sizes = [int(n) for n in first[0]["curve"]]
    for name, rows, figure in [
        *((title_of(run), rows, "accuracy") for run, rows in results.items()),
        ("any right", first, "any_right"),
    ]:
        curve = np.array([[100 * point[figure] for point in row["curve"].values()] for row in rows])
        colour, style = ("0.3", ":") if figure == "any_right" else (None, "-")
        axis.plot(sizes, curve.mean(axis=0), label=name, color=colour, linestyle=style)
    axis.set_xscale("log", base=2)
    axis.set(xlabel="samples of a problem", ylabel="right, %", title=f"Best-of-N up to {MANY:,} samples")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    return to_svg(drawing, "Best-of-N against N")


def write_search(results: Results) -> tuple[list[str], dict[str, str]]:
    """Write the figures of the page.

    Args:
        results: Rows by run.

    Returns:
        Paragraphs of the page, and pictures by their file's name.
    """
    n_seeds = count_seeds(results)
    agreement = [
        f"- {title_of(run)}: " + ", ".join(f"{row['agreement']:.2f}" for row in rows)
        for run, rows in results.items()
        if run.name != TRUTH
    ]
    paragraphs = [
        "## Figures",
        f"{n_seeds} seeds, {N_SEARCHED} test problems each, temperature 1, M = 4, budgets {' and '.join(map(str, BUDGETS))}. Means "
        "over seeds; in brackets the 95% interval over the problems of these seeds. Differences are paired by problem.",
        methods_table(results),
        "At equal compute:\n\n" + "\n".join(winners(results)),
        "How well scores order prefixes of a problem as true values do (Spearman, 16 paths of equally many steps), by seed:\n\n"
        + "\n".join(agreement),
        f"Best-of-N, exact over all subsets of {MANY:,} samples of {N_MANY} problems a seed:",
        "![Best-of-N against the number of samples](search-many.svg)",
        curve_table(results),
    ]
    return paragraphs, {"search-many.svg": curve_picture(results)}
