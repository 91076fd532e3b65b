"""The page of the study of labels: its tables and its picture, from rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from prmbench.miniature.solutions import FORMATS
from prmbench.reports.pages import markdown_table
from prmbench.stats.seeds import seed_mean
from prmbench.studies.claims import with_interval
from prmbench.studies.figures import Figure, Results, at
from prmbench.studies.label_settings import EQUAL_DATA, KS, LABELLED, MOST, SEARCHED_LABELLED, TITLES
from prmbench.studies.layout import cell_text
from prmbench.studies.measure_reward_models import BEST_OF
from prmbench.studies.pictures import against_tokens
from prmbench.studies.runs import Row, StudyRun

SHIFTED = tuple(form for form in FORMATS if form != "tagged")


def _own(row: Row, part: Row) -> float:
    """The figure of a model's main step score: its process score, or an explicit PRM's only one."""
    return float(part["step" if "step" in part else "process"])


def _mean(text: str, find: Callable[[Row, str], float], over: tuple[str, ...], digits: int = 1) -> Figure:
    return Figure("labels", text, lambda row: sum(find(row, one) for one in over) / len(over), digits)


def _f1(row: Row, form: str) -> float:
    return 100 * _own(row, row["f1"]["crossfit"][form])


def _step_auc(row: Row, form: str) -> float:
    return _own(row, row["step_auc"][form])


def best_by(score: str | None = None) -> Figure:
    """Best-of-N, mean over N, in %.

    Args:
        score: Name of the score that chooses; None: the model's own.
    """

    def find(row: Row) -> float:
        found = row["best_of_n"]
        by_size = found["scores"][score or found["own"]]
        return 100 * float(np.mean([by_size[str(n)] for n in BEST_OF]))

    return Figure("labels", "Best-of-N" if score is None else score, find)


F1_TAGGED = _mean("F1, tagged", _f1, ("tagged",))
F1_SHIFTED = _mean("F1, shifted formats", _f1, SHIFTED)
OWN_BEST = best_by()
FIGURES = (
    F1_TAGGED,
    F1_SHIFTED,
    _mean("step AUC, tagged", _step_auc, ("tagged",), 3),
    _mean("step AUC, shifted", _step_auc, SHIFTED, 3),
    OWN_BEST,
    at("labels", "AUC of the own score", "auc_final", 3),
    at("labels", "rank agreement with true values", "spearman", 3),
)
"""The columns of the main table."""

SPENT = Figure("labels", "all sampled tokens", lambda row: float(row["data"]["sampled"] + row["data"]["continued"]), 0)
"""Tokens that were sampled for a reward model: those of its solutions and those of their continuations."""

LINES: Mapping[str, tuple[str, ...]] = {
    "IPVRM": ("ipvrm", *(f"ipvrm @{k}" for k in KS)),
    "Implicit PRM": ("implicit_prm", f"implicit_prm @{MOST}"),
    "explicit, K = " + ", ".join(map(str, KS)) + " on the base solutions": tuple(f"k={k}" for k in KS),
    "explicit, K = 1, more solutions": ("k=1", "k=1 @4"),
    "explicit, exact labels": ("exact", f"exact @{MOST}"),
}
"""The lines of the picture."""

CONTRASTS = {
    "equal data": (
        ("exact", "ipvrm"),
        ("k=16", "ipvrm"),
        ("k=16", "k=1"),
        ("exact", "k=16"),
        ("true values", "k=16"),
        ("k=16 any", "k=16"),
    ),
    "equal tokens": (
        *((f"k={k}", f"ipvrm @{k}") for k in KS),
        (f"k={MOST}", f"implicit_prm @{MOST}"),
        ("k=4", "k=1 @4"),
    ),
    "equal solutions": ((f"exact @{MOST}", f"ipvrm @{MOST}"),),
}
"""Pairs of runs whose difference is shown, the first less the second."""


def chosen_step_rate(searched: Results) -> float:
    """Choose the learning rate of explicit models: the one with the highest AUC of the own score, which needs outcomes only.

    Args:
        searched: Rows of the search.
    """
    aucs = {run: float(np.mean([row["auc_final"] for row in rows])) for run, rows in searched.items()}
    return SEARCHED_LABELLED[max(aucs, key=lambda run: aucs[run]).name].learning_rate


def write_labels(results: Results, searched: Results) -> tuple[list[str], dict[str, str]]:
    """Write the page's figures.

    Args:
        results: Rows of the tables.
        searched: Rows of the search.

    Returns:
        Paragraphs of the page, and pictures by their file's name.
    """
    seeds = [row["seed"] for row in next(iter(results.values()))]
    # What was sampled.
    costs = []
    for name in LABELLED:
        parts = [_count(results, name, part) for part in ("solutions", "sampled", "continued")]
        costs.append([TITLES[name], *(f"{part:,.0f}" for part in (*parts, parts[1] + parts[2]))])
    # How good the labels are.
    quality = [
        [
            f"K = {k}",
            *(
                cell_text(at("labels", "", f"data/quality/{path}", digits, scale).of(f"k={k}"), results)
                for path, digits, scale in (("first_wrong", 1, 100.0), ("spearman", 3, 1.0))
            ),
        ]
        for k in KS
    ]
    explicit = [name for name, settings in LABELLED.items() if settings.is_explicit]
    ways = [best_by(score) for score in ("product", "min", "mean", "last")]
    paragraphs = [
        "## Figures",
        f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; means over seeds, with the 95% Student-t interval of the mean "
        "where there are several. F1 in %, crossfit thresholds: an implicit model's process score, an explicit one's step score.",
        "### Search of the learning rate",
        _search_table(searched),
        "### What was sampled",
        markdown_table(["", "solutions", "their tokens", "tokens of continuations", "all"], costs),
        f"{_start_share(results):.0f} % of the tokens of continuations are of those from the prompt, which `prmbench label` "
        f"samples and no soft label needs. The pool has {_pool(results):,} solutions; of the budget of K = {MOST} an implicit "
        f"model could spend {_spendable(results):.0f} %.",
        "### How good labels by rollouts are",
        "First wrong step: how often the rule `any` finds it, or that there is none. Rank agreement: of the share of right "
        "continuations and the exact value of a state.",
        markdown_table(["", "first wrong step, %", "rank agreement"], quality),
        "### What came of it",
        _table(results, "equal data", list(EQUAL_DATA)),
        _table(results, "more solutions", [name for name in LABELLED if name not in EQUAL_DATA]),
        _floors(results),
        "![Figures against sampled tokens](labels-tokens.svg)",
        "### Differences, seed by seed",
        _contrasts(results),
        "### Best-of-N by other scores of an explicit model",
        "The product over steps is the score that every table here uses. Means over N, in %.",
        markdown_table(
            ["", *(way.text for way in ways)],
            [[TITLES[name], *(cell_text(way.of(name), results) for way in ways)] for name in explicit],
        ),
    ]
    picture = against_tokens(results, (F1_TAGGED, F1_SHIFTED, OWN_BEST), SPENT, LINES, ("endo", "EndoRM"))
    return paragraphs, {"labels-tokens.svg": picture}


def _count(results: Results, name: str, part: str) -> float:
    return float(np.mean([row["data"][part] for row in results[StudyRun("labels", name)]]))


def _start_share(results: Results) -> float:
    name = f"k={MOST}"
    return 100 * _count(results, name, "start") / _count(results, name, "continued")


def _pool(results: Results) -> int:
    return int(_count(results, "ipvrm", "pool"))


def _spendable(results: Results) -> float:
    """Share of the largest budget that an implicit model could spend before the pool ends, in %."""
    name = f"ipvrm @{MOST}"
    return 100 * _count(results, name, "sampled") / _count(results, name, "affordable")


def _search_table(searched: Results) -> str:
    chosen, auc = chosen_step_rate(searched), at("labels", "", "auc_final", 3)
    rows = [
        [f"{one.learning_rate:g}", cell_text(auc.of(name), searched), "chosen" if one.learning_rate == chosen else ""]
        for name, one in SEARCHED_LABELLED.items()
    ]
    return markdown_table(["learning rate, exact labels", "AUC of the own score", ""], rows)


def _table(results: Results, corner: str, names: list[str]) -> str:
    rows = [[TITLES[name], *(cell_text(figure.of(name), results) for figure in FIGURES)] for name in names]
    return markdown_table([corner, *(figure.text for figure in FIGURES)], rows)


def _floors(results: Results) -> str:
    """Say what needs no reward model reaches."""

    def f1(kind: str, forms: tuple[str, ...]) -> str:
        found = _mean("", lambda row, form: 100 * row["baselines"][form][kind], forms)
        return cell_text(found.of("endo"), results)

    def best(kind: str) -> str:
        def find(row: Row) -> float:
            return 100 * float(np.mean([row["best_of_n"]["baselines"][kind][str(n)] for n in BEST_OF]))

        return cell_text(Figure("labels", "", find).of("endo"), results)

    return (
        f"Without a model: F1 of random scores {f1('random', ('tagged',))} on tagged traces and {f1('random', SHIFTED)} on the "
        f"shifted formats, of the position alone {f1('position', ('tagged',))} and {f1('position', SHIFTED)}; Best-of-N by a "
        f"random choice {best('mean')}, by majority {best('majority')}, with any right one {best('pass')}."
    )


def _contrasts(results: Results) -> str:
    shown = (F1_TAGGED, F1_SHIFTED, OWN_BEST)
    rows = []
    for what, pairs in CONTRASTS.items():
        for larger, smaller in pairs:
            differences = [figure.minus(larger, smaller).values(results) for figure in shown]
            cells = [with_interval(seed_mean(one), 1, sign=True) for one in differences]
            rows.append([what, f"{TITLES[larger]}, less {TITLES[smaller]}", *cells])
    return markdown_table(["", "", *(figure.text for figure in shown)], rows)
