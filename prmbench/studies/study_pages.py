"""The studies behind the settings: reward models, Best-of-N, policies, and what step labels buy.

Each is run, its rows are kept as JSON, and its figures are written under the hand-written part of its page in ``docs/studies/``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from prmbench.errors import ArgumentError, UserError, nearest
from prmbench.miniature.solutions import FORMATS
from prmbench.reports.pages import markdown_table
from prmbench.results.store import write_atomically
from prmbench.stats.nested import nested_interval
from prmbench.stats.protocols import TOKEN_PROTOCOLS
from prmbench.studies import figures
from prmbench.studies.claims import JudgedClaim, count_verdicts, judge
from prmbench.studies.figures import Figure, Results, RunFigure
from prmbench.studies.lab import N_CANDIDATES
from prmbench.studies.label_settings import LABELLED, SEARCHED_LABELLED
from prmbench.studies.labels_page import write_labels
from prmbench.studies.layout import LayoutRow, cell_text, rows_of, write_rows
from prmbench.studies.measure_reward_models import BEST_OF
from prmbench.studies.paper_claims import CLAIMS
from prmbench.studies.pictures import COMPARED, UPDATED, curves, reliability_diagram
from prmbench.studies.replicate import claims_table
from prmbench.studies.runs import Kind, Row, StudyRun
from prmbench.studies.settings import (
    BASE,
    BEST,
    LABELS,
    POLICIES,
    REWARD_MODELS,
    SEARCHED_POLICIES,
    SEARCHED_REWARD_MODELS,
)
from prmbench.studies.shared_rows import perform_shared

MARK = "<!-- What follows is written by scripts/study.py. -->"
SEARCH_SEED = 100
"""A seed that no table uses."""
LOGGED = (
    "rollouts/accuracy",
    "rollouts/kept",
    "reward_model/",
    "advantage/",
    "candidates/",
    "entropy",
    "clip_share/sampled",
)
"""Logged figures of a policy's training that are kept with a page."""

RELIABILITY = ("implicit_prm", "ipvrm m=0", "ipvrm", "ipvrm m=10")
"""Reward models of the reliability diagram."""

Written = tuple[list[str], Mapping[str, str]]
"""Paragraphs of a page, and pictures by their file's name."""


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        title: Title of its page.
        runs: Runs of its tables.
        search_runs: Runs of its search, which are on `SEARCH_SEED` and validation problems.
        write: Writes the page's figures from the rows of the tables and of the search.
    """

    title: str
    runs: Sequence[StudyRun]
    search_runs: Sequence[StudyRun]
    write: Callable[[Results, Results], Written]


def run_study(name: str, folder: Path, *, seeds: int = 6, workers: int | None = None) -> Path:
    """Run what is missing of a study, and write its rows and its page.

    Args:
        name: One of `STUDIES`.
        folder: Folder of the page and of the rows. Rows that other machines have finished are taken from its folder ``rows``, and
            given to it.
        seeds: Number of seeds of the tables, from 0 on.
        workers: Number of processes, one thread each; None takes one a core.

    Returns:
        The page.

    Raises:
        ArgumentError: There is no such study.
    """
    if name not in STUDIES:
        raise ArgumentError("name", name, f"not known{nearest(name, STUDIES)}; known: {', '.join(STUDIES)}")
    study = STUDIES[name]
    for suffix, runs, of in (("-search", study.search_runs, [SEARCH_SEED]), ("", study.runs, range(seeds))):
        rows = [_short(row) for found in perform_shared(folder / "rows", runs, of, workers).values() for row in found]
        if rows:
            lines = ",\n".join(map(json.dumps, rows))
            write_atomically(folder / f"{name}{suffix}.json", f"[\n{lines}\n]\n")
    return write_page(name, folder)


def write_page(name: str, folder: Path) -> Path:
    """Write the figures of a study's page, and its pictures, from the rows beside it.

    Args:
        name: One of `STUDIES`.
        folder: Folder of the page and of the rows. What the page has before `MARK` stays.

    Returns:
        The page.

    Raises:
        UserError: A run lacks a seed that another run has.
    """
    study, page = STUDIES[name], folder / f"{name}.md"
    results = _read(folder / f"{name}.json", study.runs)
    searched = _read(folder / f"{name}-search.json", study.search_runs) if study.search_runs else {}
    paragraphs, pictures = study.write(results, searched)
    said = page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else f"# {study.title}\n\n"
    write_atomically(page, said + "\n\n".join([MARK, *paragraphs]) + "\n")
    for file, picture in pictures.items():
        write_atomically(folder / file, picture)
    return page


def _short(row: Row) -> Row:
    """Leave out what a page does not use, and digits beyond the fifth of what training logged."""
    if "history" not in row:
        return row
    history = [
        {k: float(f"{v:.5g}") for k, v in step.items() if k.startswith(LOGGED) and v is not None}
        for step in row["history"]
    ]
    return {**row, "history": history}


def _read(path: Path, runs: Sequence[StudyRun]) -> Results:
    rows = json.loads(path.read_text(encoding="utf-8"))
    found = {
        run: sorted((r for r in rows if r["settings"] == run.facts["settings"]), key=lambda r: r["seed"])
        for run in runs
    }
    if len({tuple(row["seed"] for row in mine) for mine in found.values()}) != 1:
        raise UserError(f"{path}: the table is not finished: a run lacks a seed")
    return found


def _n_seeds(results: Results) -> int:
    return len(next(iter(results.values())))


def _table(results: Results, columns: Sequence[str], rows: Sequence[LayoutRow], corner: str = "") -> str:
    return markdown_table([corner, *columns], write_rows(rows, results, undefined=""))


def _judged(results: Results) -> list[JudgedClaim]:
    return judge([claim for claim in CLAIMS if claim.runs[0].kind == next(iter(results)).kind], results)


# Reward models.


def chosen_rates(searched: Results) -> dict[str, float]:
    """Choose the learning rate of each searched objective: the one with the highest AUC of the final value.

    That needs outcomes only; nothing that needs step labels is looked at.

    Args:
        searched: Rows of the search.

    Returns:
        Learning rate by objective.
    """
    best: dict[str, tuple[float, float]] = {}
    for run in searched:
        settings = SEARCHED_REWARD_MODELS[run.name]
        auc = float(np.mean(RunFigure(run, figures.FINAL_AUC).values(searched)))
        best[settings.objective] = max(best.get(settings.objective, (0.0, 0.0)), (auc, settings.learning_rate))
    return {objective: rate for objective, (_, rate) in best.items()}


def _write_reward_models(results: Results, searched: Results) -> Written:
    some = results[StudyRun("reward model", "q_rm")]
    logit = [name for name in REWARD_MODELS if "margin" in results[StudyRun("reward model", name)][0]["truth"]]

    def mean(path: str, digits: int, scale: float = 1.0, name: str = "q_rm") -> str:
        return cell_text(figures.at("reward model", "", path, digits, scale).of(name), results)

    # The search.
    rates = chosen_rates(searched)
    search = []
    for name, settings in sorted(SEARCHED_REWARD_MODELS.items(), key=lambda one: astuple(one[1])[:2]):
        cells = [cell_text(one.of(name), searched) for one in (*map(figures.f1, FORMATS), figures.FINAL_AUC)]
        chosen = rates[settings.objective] == settings.learning_rate
        search.append([LABELS[settings.objective], f"{settings.learning_rate:g}", *cells, "chosen" if chosen else ""])
    columns = ["objective", "learning rate", *(f"process F1, {form}" for form in FORMATS), "AUC", ""]

    # F1 under the four protocols, with what needs no reward model.
    def protocols(form: str) -> str:
        rows = rows_of(list(REWARD_MODELS), [figures.f1(form, protocol) for protocol in TOKEN_PROTOCOLS])
        for kind in some[0]["baselines"][form]:
            figure = figures.at("reward model", kind, f"baselines/{form}/{kind}", scale=100)
            rows.append((kind if kind == "random" else f"{kind} only", [figure.of("q_rm"), None, None, None]))
        return f"{form.capitalize()} traces:\n\n" + _table(results, TOKEN_PROTOCOLS, rows)

    # Final values, format tokens, true prefix values.
    variance = figures.at("reward model", "", "format_share/variance", scale=100)
    parts = {
        figures.FINAL_AUC.text: figures.FINAL_AUC,
        figures.FORMAT_SHARE.text: figures.FORMAT_SHARE,
        "their part of the variance of sum r, %": variance,
        "process F1 without them, tagged": figures.f1("tagged", part="f1_content"),
        "plain": figures.f1("plain", part="f1_content"),
        figures.TRUE_RANKS.text: figures.TRUE_RANKS,
    }
    errors = {
        f"{title}, {of}": figures.at("reward model", title, f"truth/{link}/{part}", digits)
        for title, part, digits in (("Brier", "mse", 4), ("ECE", "ece", 3))
        for link, of in (("margin", "margin's link"), ("naive", "plain sigmoid"))
    }
    truth = results[StudyRun("reward model", logit[0])][0]["truth"]
    judged = _judged(results)
    paragraphs = [
        "## Figures",
        f"Seeds {', '.join(str(row['seed']) for row in some)}; means over seeds with the 95% Student-t interval of the mean. F1 in "
        "%, crossfit thresholds. Each seed has its own policy, rollouts, reward models, and 400 traces in each format.",
        "### Search",
        markdown_table(columns, search),
        "### Tables 2, 4 and 10: F1 under the four protocols",
        *map(protocols, FORMATS),
        "### The final value, format tokens, true prefix values",
        _table(results, list(parts), rows_of(list(REWARD_MODELS), list(parts.values()))),
        f"Format tokens are {mean('format_share/tokens', 1, 100)} % of a rollout's tokens. Minus the length alone has AUC "
        f"{mean('auc_length', 3)}.",
        "### Prefix values against the truth",
        f"{truth['n']} prefixes of {truth['n'] // 4} rollouts a seed, each continued {truth['continuations']} times by the policy "
        f"that sampled it, at temperature 1; mean true value {mean('truth/mean_share', 3)}. Mean squared error with the sampling "
        f"noise of the shares taken off; a constant at the mean has {mean('truth/mse_constant', 4, name=logit[0])}.",
        _table(results, list(errors), rows_of(logit, list(errors.values()))),
        "![Reliability of prefix values](reward-models-reliability.svg)",
        "### The paper's orderings",
        "Paired by seed; `appears` and `does not appear` mean that the difference's 95% interval is on one side of 0.",
        f"{count_verdicts(judged)}.",
        claims_table(judged),
    ]
    diagram = reliability_diagram(results, [name for name in RELIABILITY if name in logit])
    return paragraphs, {"reward-models-reliability.svg": diagram}


# Best-of-N.


def _write_best_of_n(results: Results, _: Results) -> Written:
    names = [run.name for run in results]
    rows = rows_of(names, [*map(figures.best_of, BEST_OF), figures.OVER_SIZES])
    for name in ("mean", "majority", "pass", "shortest"):
        rows.append((name, [*(figures.best_of_baseline(name, n).of("ipvrm") for n in BEST_OF), None]))
    judged = _judged(results)
    paragraphs = [
        "## Figures",
        f"{_n_seeds(results)} seeds, {N_CANDIDATES[0]} test problems of each with {N_CANDIDATES[1]} candidates of its policy at "
        "temperature 0.6, top-p 0.95. Accuracy in % of choosing by the model's own score, exact over all subsets of N; means "
        "over seeds with the 95% Student-t interval.",
        _table(results, [*(f"@{n}" for n in BEST_OF), "mean over N"], rows),
        "### The paper's orderings",
        f"Of the mean over N, paired by seed: {count_verdicts(judged)}.",
        claims_table(judged),
    ]
    return paragraphs, {}


# Policies.


def _write_policies(results: Results, searched: Results) -> Written:
    # The search.
    search = []
    for name, settings in SEARCHED_POLICIES.items():
        trained, rewarded = settings.method != "sft", settings.objective is not None
        search.append(
            [
                LABELS[settings.name],
                f"{settings.learning_rate:g}" if trained else "",
                f"{settings.gae_weight:g}" if rewarded else "",
                f"{settings.reward_learning_rate:g}" if rewarded else "",
                cell_text(figures.AVERAGE.of(name), searched),
                cell_text(figures.RM_ACCURACY.of(name), searched) if rewarded else "",
            ]
        )

    # The tables.
    def ratio(row: Row) -> float:
        return figures.last_third(row, "advantage/gae") / figures.last_third(row, "advantage/outcome")

    def candidates(part: str, digits: int, scale: float = 1.0) -> str:
        return cell_text(figures.logged(f"candidates/{part}", part, digits, scale).of(BEST), results)

    columns = {
        "avg@8": figures.AVERAGE,
        "rollout accuracy": figures.OUTCOME,
        "RM accuracy": figures.RM_ACCURACY,
        "RM pair accuracy": figures.RM_PAIRS,
        "RM score": figures.RM_SCORE_MEAN,
        "entropy": figures.logged("entropy", "entropy", 3),
        "GAE / outcome": Figure("policy", "GAE / outcome", ratio, 2),
        "clipped, %": figures.logged("clip_share/sampled", "clipped", 2, 100),
    }
    # The claims.
    judged = _judged(results)
    rows = [[j.claim.where, j.claim.text, j.shown, _over_problems(j, results), j.verdict] for j in judged]
    paragraphs = [
        "## Figures",
        f"{_n_seeds(results)} seeds; means over seeds with the 95% Student-t interval of the mean. avg@8 in % on "
        f"{len(results[StudyRun('policy', 'sft')][0]['right'])} test problems of each seed. Policy learning rate "
        f"{BASE.learning_rate:g}, coefficient of GAE {BASE.gae_weight:g}, learning rate of online reward models "
        f"{BASE.reward_learning_rate:g}, {BASE.steps} steps of at most 32 prompts with 4 rollouts each.",
        "### Search",
        markdown_table(["run", "policy rate", "GAE", "reward-model rate", "avg@8", "RM accuracy"], search),
        "### Tables 5 to 9, Fig. 6 and alpha",
        _table(
            results,
            list(columns),
            rows_of([name for name in LABELS if name in POLICIES], list(columns.values())),
            "run",
        ),
        "Rollout accuracy, RM accuracy (against the prompt's boundary where there is ADB), pair accuracy, RM score (Eq. 19), "
        "entropy, mean abs(GAE) over mean abs(outcome advantage): means over the last third of the steps.",
        f"Candidates of DistRL (P_min 0.1): {candidates('size', 3)} a state, {candidates('mass', 2, 100)} % of pi_old.",
        "![Learning curves](policies-curves.svg)",
        "### The paper's orderings",
        f"{count_verdicts(judged)}. Paired by seed; `appears` and `does not appear` mean that the difference's 95% interval over "
        "seeds is on one side of 0. Beside: a two-level bootstrap over seeds x problems where the figure is one of problems, which "
        "with so few seeds is too narrow.",
        markdown_table(["paper", "claim", "difference", "seeds x problems", "here"], rows),
    ]
    panels = [
        ("Rollout accuracy", "rollouts/accuracy", COMPARED),
        ("Rollout accuracy by online update", "rollouts/accuracy", UPDATED),
        ("Reward-model pair accuracy by online update", "reward_model/pair_accuracy", UPDATED),
    ]
    return paragraphs, {"policies-curves.svg": curves(results, panels, "Learning curves")}


def _over_problems(judged: JudgedClaim, results: Results) -> str:
    """Write a claim's interval over seeds and problems, where its figure is a mean over problems."""
    larger, smaller = judged.claim.larger, judged.claim.smaller
    if not (isinstance(larger, RunFigure) and isinstance(smaller, RunFigure)) or larger.figure is not figures.AVERAGE:
        return ""
    differences = [
        100 * np.subtract(one["right"], other["right"]) / one["n"]
        for one, other in zip(results[larger.run], results[smaller.run], strict=True)
    ]
    _, low, high = nested_interval(differences, 2_000, np.random.default_rng(0))
    return f"[{low:+.1f}, {high:+.1f}]"


def _runs(kind: Kind, names: Iterable[str]) -> list[StudyRun]:
    return [StudyRun(kind, name) for name in names]


STUDIES = {
    "reward-models": Study(
        "Reward models in the miniature",
        _runs("reward model", REWARD_MODELS),
        _runs("reward model", SEARCHED_REWARD_MODELS),
        _write_reward_models,
    ),
    "best-of-n": Study(
        "Best-of-N in the miniature",
        _runs("best-of-n", (name for name, settings in REWARD_MODELS.items() if settings.margin is None)),
        [],
        _write_best_of_n,
    ),
    "policies": Study(
        "Policies in the miniature", _runs("policy", POLICIES), _runs("policy", SEARCHED_POLICIES), _write_policies
    ),
    "labels": Study(
        "What a step label buys, in the miniature",
        _runs("labels", LABELLED),
        _runs("labels", SEARCHED_LABELLED),
        write_labels,
    ),
}
"""The studies, by the name of their page."""
