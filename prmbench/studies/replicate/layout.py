"""The paper's tables, laid out as it prints them, with the runs that fill them; and those that have no counterpart here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prmbench.studies.policies import average
from prmbench.studies.replicate.figures import (
    BEST,
    FORMS,
    LABELS,
    Figure,
    best_of,
    best_of_baseline,
    candidate_set,
    f1,
    logged,
    mean_f1,
    outcome,
    over_sizes,
    rm_accuracy,
    rm_pairs,
    rm_score,
    signal,
)
from prmbench.studies.replicate.runs import Kind, Run
from prmbench.studies.reward_models import BEST_OF

RIVALS = ("q_rm", "endo", "dpo", "implicit_prm", "ipvrm")
UPDATES = ("frozen", "naive", "dlw", "adb")


@dataclass(frozen=True)
class Cell:
    """One figure of one run; digits shown."""

    run: Run
    figure: Figure
    digits: int = 1


@dataclass(frozen=True)
class Layout:
    """A table.

    Attributes:
        number: in the paper: "1" to "14", "fig6", "4.3.3". title: what it is. unit: of the figures.
        columns: headings. rows: name and cells; None: nothing to show there. note: how it differs from the paper's.
        paper: what the paper has, where it is not among the `reported` tables of ``leaderboards/``.
    """

    number: str
    title: str
    unit: str
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]
    note: str = ""
    paper: str = ""

    @property
    def heading(self) -> str:
        """Its place and title."""
        place = {"fig6": "Fig. 6", "4.3.3": "Section 4.3.3"}.get(self.number, f"Table {self.number}")
        return f"{place}: {self.title}"

    @property
    def runs(self) -> list[Run]:
        """What must be run for it, each once."""
        return list(dict.fromkeys(cell.run for _, cells in self.rows for cell in cells if cell is not None))


def _rows(
    kind: Kind, names: Sequence[str], figures: Sequence[tuple[Figure, int]]
) -> list[tuple[str, list[Cell | None]]]:
    return [(LABELS[name], [Cell(Run(kind, name), figure, digits) for figure, digits in figures]) for name in names]


def _best_of_n(number: str, title: str, names: Sequence[str], note: str) -> Layout:
    figures = [*((best_of(n), 1) for n in BEST_OF), (over_sizes, 1)]
    rows = _rows("best-of-n", names, figures)
    some = Run("best-of-n", names[-1])
    for label, name in (("(any right)", "pass"), ("(majority)", "majority"), ("(random choice)", "mean")):
        cells: list[Cell | None] = [Cell(some, best_of_baseline(name, n)) for n in BEST_OF]
        rows.append((label, [*cells, None]))
    return Layout(number, title, "accuracy, %", [*(f"@{n}" for n in BEST_OF), "mean"], rows, note)


def _f1(number: str, title: str, names: Sequence[str], note: str = "") -> Layout:
    figures = [*((f1(form), 1) for form in FORMS), (mean_f1(), 1)]
    return Layout(
        number, title, "F1 (process), %, crossfit", [*FORMS, "mean"], _rows("reward model", names, figures), note
    )


def _policies(number: str, title: str, names: Sequence[str], note: str = "") -> Layout:
    return Layout(number, title, "avg@8, %", ["test problems"], _rows("policy", names, [(average, 1)]), note)


_TIMES = (
    "Seconds and memory are as logged in training: with whatever else the machine did, and resident memory of the whole process, "
    "so only a rough counterpart; scripts/bench_rl_step.py compares the two steps properly."
)
_SIGNALS = {
    "td": "TD, V(s') - V(s)",
    "value": "V(s')",
    "abs_value": "abs(V(s'))",
    "mean_value": "v_bar(s')",
    "probability": "change of corrected probability",
    "policy": "log pi of the token",
}

TABLES = [
    _best_of_n("1", "Best-of-N of reward models", RIVALS, "One problem set instead of MATH-500 and Minerva-Math."),
    _f1("2", "F1 of reward models on ProcessBench", RIVALS, "Two formats of the same traces instead of four subsets."),
    _best_of_n("3", "Best-of-N of IPVRM's variants", ("ipvrm_late", "ipvrm", "ipvrm_early"), ""),
    _f1("4", "F1 of IPVRM's variants on ProcessBench", ("ipvrm_late", "ipvrm", "ipvrm_early")),
    _policies(
        "5",
        "Policies",
        ("sft", "prime", "spro", "reinforce q_rm", "grpo", "grpo dpo", "grpo ipvrm", BEST),
        "One problem set instead of five.",
    ),
    _policies(
        "6",
        "Policies by reward model, GRPO and DistRL",
        [f"{method} {rm}" for rm in ("dpo", "implicit_prm", "ipvrm") for method in ("grpo", "distrl")],
    ),
    Layout(
        "7",
        "Training-time analysis of TD",
        "means over the last third of the steps",
        ["RM score", "verifier accuracy, %"],
        _rows("policy", (BEST, "grpo ipvrm"), [(rm_score, 3), (outcome, 1)]),
        paper="DistRL above GRPO in both, on all four backbones.",
    ),
    _policies(
        "8",
        "Policies by online update of the reward model (DistRL)",
        ("distrl implicit_prm", "distrl ipvrm naive", BEST),
        "DistRL w/ IPVRM without more has DLW and ADB.",
    ),
    _policies("9", "Policies by reference (DistRL w/ IPVRM)", ("distrl ipvrm start", BEST)),
    Layout(
        "10",
        "Sensitivity to the margin",
        "%",
        ["Best-of-N, mean over N", "F1 (process), mean of formats"],
        [
            (label, [Cell(Run("best-of-n", name), over_sizes), Cell(Run("reward model", name), mean_f1())])
            for label, name in (("m = 0", "ipvrm m=0"), ("m = 5", "ipvrm"), ("m = 10", "ipvrm m=10"))
        ],
        paper="Qwen3-0.6B: Best-of-N 26.1, 28.1, 27.5 and F1 37.0, 39.1, 39.1 at m = 0, 5, 10.",
    ),
    Layout(
        "11",
        "Candidate sets against P_min",
        "",
        ["average size", "mass", "states with several"],
        [
            (
                f"P_min {p}",
                [Cell(Run("candidates", "sft"), candidate_set(p, part), 3) for part in ("size", "mass", "several")],
            )
            for p in (0.05, 0.1, 0.2)
        ],
        paper="Qwen3-0.6B: sizes 1.54, 1.33, 1.16 and masses 97.57%, 96.11%, 93.58% at P_min 0.05, 0.1, 0.2.",
    ),
    Layout(
        "13",
        "Time and memory of a step",
        "",
        ["seconds a step", "peak resident memory, GiB"],
        _rows("policy", ("grpo ipvrm", BEST), [(logged("seconds/step_before"), 2), (logged("peak_memory_gib"), 2)]),
        _TIMES,
        "Qwen3-0.6B: GRPO 487.5 s and 30.20 GB, DistRL 458.7 s and 30.88 GB.",
    ),
    Layout(
        "14",
        "F1 on ProcessBench under two protocols",
        "F1, %, crossfit",
        [*FORMS, "mean"],
        [
            (
                f"{LABELS[name]}, {protocol}",
                [
                    *(Cell(Run("reward model", name), f1(form, protocol)) for form in FORMS),
                    Cell(Run("reward model", name), mean_f1(protocol)),
                ],
            )
            for protocol in ("prefix", "process")
            for name in ("dpo", "implicit_prm", "ipvrm")
        ],
    ),
    Layout(
        "fig6",
        "Online updates of IPVRM",
        "%, means over the last third of the steps",
        ["verifier accuracy", "RM accuracy", "RM pair accuracy"],
        _rows(
            "policy",
            (*(f"distrl ipvrm {u}" for u in UPDATES), BEST),
            [(outcome, 1), (rm_accuracy, 1), (rm_pairs, 1)],
        ),
        "RM accuracy is against the prompt's boundary where there is ADB; pair accuracy (right above wrong rollouts of one prompt) "
        "does not know it.",
        "Llama3.2-1B: accuracy collapses under naive updates and takes the policy with it; DLW and ADB together do best.",
    ),
    Layout(
        "4.3.3",
        "TD against Monte Carlo (IPVRM)",
        "",
        ["AUC", "Pearson", "Spearman", "with true values", "in a state, with true values", "tau-b in a state"],
        [
            (
                label,
                [
                    Cell(Run("td", "ipvrm"), signal(name, figure), 3)
                    for figure in ("auc", "pearson", "spearman", "corrected", "within_corrected", "agreement")
                ],
            )
            for name, label in _SIGNALS.items()
        ],
        "AUC, Pearson and Spearman are against single rollouts, as the paper's; with true values: rollout noise taken out.",
        "Qwen3-0.6B on MATH-500: AUC of abs(V) 0.64, Pearson of TD 0.0226.",
    ),
]

ABSENT = {
    "12": "Best-of-N on AMC-23 is Table 1 on another problem set; the miniature has one: see Table 1.",
}
"""Tables without a counterpart of their own, and why."""

NUMBERS = [layout.number for layout in TABLES]
