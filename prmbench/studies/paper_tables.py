"""The paper's tables, laid out as the paper prints them, with the figures that fill them; and those without a counterpart here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prmbench.miniature.solutions import FORMATS
from prmbench.studies import figures
from prmbench.studies.layout import Layout, rows_of
from prmbench.studies.measure_reward_models import BEST_OF
from prmbench.studies.settings import BEST, LABELS, UPDATES

RIVALS = ("q_rm", "endo", "dpo", "implicit_prm", "ipvrm")
VARIANTS = ("ipvrm_late", "ipvrm", "ipvrm_early")
SIZES = [f"@{n}" for n in BEST_OF]
SHIFTED = "mean, shifted"
"""Column of the mean over the formats that reward models do not learn from, which the claims are about."""


def _best_of_n(number: str, title: str, names: Sequence[str], note: str = "") -> Layout:
    rows = rows_of(names, [*map(figures.best_of, BEST_OF), figures.OVER_SIZES])
    for label, name in (("(any right)", "pass"), ("(majority)", "majority"), ("(random choice)", "mean")):
        rows.append((label, [*(figures.best_of_baseline(name, n).of(names[-1]) for n in BEST_OF), None]))
    return Layout(number, title, "accuracy, %", [*SIZES, "mean"], rows, note)


def _f1(number: str, title: str, names: Sequence[str], subsets: Sequence[str], note: str = "") -> Layout:
    rows = rows_of(names, [*map(figures.f1, subsets), figures.shifted_f1()])
    return Layout(number, title, "F1 (process), %, crossfit", [*subsets, SHIFTED], rows, note)


def _policies(number: str, title: str, names: Sequence[str], note: str = "") -> Layout:
    return Layout(number, title, "avg@8, %", ["test problems"], rows_of(names, [figures.AVERAGE]), note)


_TIMES = (
    "In the miniature, the step benchmark (scripts/bench_rl_step.py, smaller): random models, everything of a step but sampling, "
    "the fastest of steps in turns, and what weights, moments and the step allocate. On real backbones, as training logs it."
)
_SIGNALS = {
    "td": "TD, V(s') - V(s)",
    "value": "V(s')",
    "abs_value": "abs(V(s'))",
    "mean_value": "v_bar(s')",
    "probability": "change of corrected probability",
    "policy": "log pi of the token",
}
_OF_SIGNALS = {
    "auc": "AUC",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "corrected": "with true values",
    "within_corrected": "in a state, with true values",
    "agreement": "tau-b in a state",
}

MINIATURE_NOTES = {
    "1": "One problem set instead of MATH-500 and Minerva-Math.",
    "2": "Three formats of the same traces instead of four subsets. Reward models learn from tagged text alone; the mean is over "
    "the others, as the claims are.",
    "5": "One problem set instead of five.",
}
"""How the miniature's tables differ from the paper's, by number."""


def _td_analysis() -> Layout:
    return Layout(
        "7",
        "Training-time analysis of TD",
        "means over all steps",
        ["RM score", "verifier accuracy, %"],
        rows_of((BEST, "grpo ipvrm"), [figures.RM_SCORE_MEAN, figures.OUTCOME_MEAN]),
        paper="DistRL above GRPO in both, on all four backbones.",
    )


def _margins() -> Layout:
    return Layout(
        "10",
        "Sensitivity to the margin",
        "%",
        ["Best-of-N, mean over N", f"F1 (process), {SHIFTED}"],
        [
            (label, [figures.OVER_SIZES.of(name), figures.shifted_f1().of(name)])
            for label, name in (("m = 0", "ipvrm m=0"), ("m = 5", "ipvrm"), ("m = 10", "ipvrm m=10"))
        ],
        paper="Qwen3-0.6B: Best-of-N 26.1, 28.1, 27.5 and F1 37.0, 39.1, 39.1 at m = 0, 5, 10.",
    )


def _candidate_sets() -> Layout:
    return Layout(
        "11",
        "Candidate sets against P_min",
        "",
        ["average size", "mass", "states with several"],
        [
            (f"P_min {p_min}", [figures.candidate_set(p_min, part).of("sft") for part in ("size", "mass", "several")])
            for p_min in (0.05, 0.1, 0.2)
        ],
        paper="Qwen3-0.6B: sizes 1.54, 1.33, 1.16 and masses 97.57%, 96.11%, 93.58% at P_min 0.05, 0.1, 0.2.",
    )


def _costs() -> Layout:
    return Layout(
        "13",
        "Time and memory of a step",
        "",
        ["seconds a step", "peak memory, GiB"],
        rows_of(
            ("grpo ipvrm", BEST),
            [figures.STEP_SECONDS, figures.PEAK_MEMORY],
        ),
        _TIMES,
        "Qwen3-0.6B: GRPO 487.5 s and 30.20 GB, DistRL 458.7 s and 30.88 GB.",
    )


def _two_protocols(subsets: Sequence[str]) -> Layout:
    return Layout(
        "14",
        "F1 on ProcessBench under two protocols",
        "F1, %, crossfit",
        [*subsets, SHIFTED],
        [
            (
                f"{LABELS[name]}, {protocol}",
                [*(figures.f1(form, protocol).of(name) for form in subsets), figures.shifted_f1(protocol).of(name)],
            )
            for protocol in ("prefix", "process")
            for name in ("dpo", "implicit_prm", "ipvrm")
        ],
    )


def _online_updates() -> Layout:
    return Layout(
        "fig6",
        "Online updates of IPVRM",
        "%, means over the last third of the steps",
        ["verifier accuracy", "RM accuracy", "RM pair accuracy"],
        rows_of(
            (*(f"distrl ipvrm {update}" for update in UPDATES), BEST),
            [figures.OUTCOME, figures.RM_ACCURACY, figures.RM_PAIRS],
        ),
        "RM accuracy is against the prompt's boundary where there is ADB; pair accuracy (right above wrong rollouts of one "
        "prompt) does not know it.",
        "Llama3.2-1B: accuracy collapses under naive updates and takes the policy with it; DLW and ADB together do best.",
    )


def _signals() -> Layout:
    return Layout(
        "4.3.3",
        "TD against Monte Carlo (IPVRM)",
        "",
        list(_OF_SIGNALS.values()),
        [
            (label, [figures.signal(name, figure).of("ipvrm") for figure in _OF_SIGNALS])
            for name, label in _SIGNALS.items()
        ],
        "AUC, Pearson and Spearman are against single rollouts, as the paper's; with true values: rollout noise taken out.",
        "Qwen3-0.6B on MATH-500: AUC of abs(V) 0.64, Pearson of TD 0.0226.",
    )


def paper_tables(subsets: Sequence[str], notes: Mapping[str, str]) -> list[Layout]:
    """Lay out the paper's tables for a world.

    Args:
        subsets: Subsets of labelled traces, the columns of the tables of F1.
        notes: How a table differs from the paper's, by its number.
    """
    policies = ("sft", "prime", "spro", "reinforce q_rm", "grpo", "grpo dpo", "grpo ipvrm", BEST)
    by_reward = [f"{method} {rm}" for rm in ("dpo", "implicit_prm", "ipvrm") for method in ("grpo", "distrl")]
    by_update = ("distrl implicit_prm", "distrl ipvrm naive", BEST)
    return [
        _best_of_n("1", "Best-of-N of reward models", RIVALS, notes.get("1", "")),
        _f1("2", "F1 of reward models on ProcessBench", RIVALS, subsets, notes.get("2", "")),
        _best_of_n("3", "Best-of-N of IPVRM's variants", VARIANTS),
        _f1("4", "F1 of IPVRM's variants on ProcessBench", VARIANTS, subsets),
        _policies("5", "Policies", policies, notes.get("5", "")),
        _policies("6", "Policies by reward model, GRPO and DistRL", by_reward),
        _td_analysis(),
        _policies(
            "8",
            "Policies by online update of the reward model (DistRL)",
            by_update,
            "DistRL w/ IPVRM without more has DLW and ADB.",
        ),
        _policies("9", "Policies by reference (DistRL w/ IPVRM)", ("distrl ipvrm start", BEST)),
        _margins(),
        _candidate_sets(),
        _costs(),
        _two_protocols(subsets),
        _online_updates(),
        _signals(),
    ]


TABLES = paper_tables(FORMATS, MINIATURE_NOTES)
"""The tables of the miniature."""

ABSENT = {
    "12": "Best-of-N on AMC-23 is Table 1 on another problem set; the miniature has one: see Table 1.",
}
"""Tables without a counterpart of their own, and why."""

NUMBERS = [layout.number for layout in TABLES]
