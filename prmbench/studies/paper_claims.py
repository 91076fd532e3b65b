"""The paper's orderings as claims.

They were written before the tables they are of were run, unless a note says otherwise. Nothing here depends on what came out.
"""

from __future__ import annotations

from prmbench.studies import figures
from prmbench.studies.claims import Claim
from prmbench.studies.figures import Figure, RunFigure
from prmbench.studies.settings import BEST, LABELS, UPDATES

SHIFTED_FIRST = ("plain", "tagged")


def _above(where: str, figure: Figure, larger: str, smaller: str, note: str = "") -> Claim:
    """The figure of one run above the same figure of another run."""
    text = f"{figure.text}: {LABELS[larger]} above {LABELS[smaller]}"
    return Claim(where, text, figure.of(larger), figure.of(smaller), figure.digits, note)


REWARD_MODEL_CLAIMS = [
    *(
        _above(f"Table 2, {form}", figures.f1(form), "ipvrm", other)
        for form in SHIFTED_FIRST
        for other in ("dpo", "implicit_prm", "endo", "q_rm")
    ),
    *(
        _above(f"Table 14, {form}", figures.f1(form, "prefix"), "ipvrm", other)
        for form in SHIFTED_FIRST
        for other in ("dpo", "implicit_prm")
    ),
    *(
        Claim(
            "Table 14",
            f"{LABELS[name]}, plain: process F1 above prefix F1",
            figures.f1("plain").of(name),
            figures.f1("plain", "prefix").of(name),
        )
        for name in ("dpo", "implicit_prm", "ipvrm")
    ),
    *(
        _above(f"Table 4, {form}", figures.f1(form), larger, smaller)
        for form in SHIFTED_FIRST
        for larger, smaller in (("ipvrm_early", "ipvrm"), ("ipvrm", "ipvrm_late"))
    ),
    *(
        _above(f"Table 10, {form}", figures.f1(form), "ipvrm", f"ipvrm m={margin}", note)
        for form in SHIFTED_FIRST
        for margin, note in ((0, ""), (10, "no claim of the paper's: it has 39.1 for both"))
    ),
    _above("Table 10", figures.FINAL_AUC, "ipvrm", "ipvrm m=0"),
    _above("Table 3", figures.FINAL_AUC, "ipvrm_late", "ipvrm"),
    _above("Table 3", figures.FINAL_AUC, "ipvrm", "ipvrm_early"),
    *(_above("Table 1", figures.FINAL_AUC, "ipvrm", other) for other in ("dpo", "implicit_prm", "endo")),
    *(_above("Section 4.2", figures.DROP, other, "ipvrm") for other in ("dpo", "implicit_prm")),
    *(_above("Section 3.1", figures.FORMAT_SHARE, other, "ipvrm") for other in ("dpo", "implicit_prm")),
    *(_above("Section 3.1", figures.TRUE_RANKS, "ipvrm", other) for other in ("dpo", "implicit_prm")),
]

BEST_OF_N_CLAIMS = [
    *(_above("Tables 1, 12", figures.OVER_SIZES, "ipvrm", other) for other in ("q_rm", "endo", "dpo", "implicit_prm")),
    _above("Table 3", figures.OVER_SIZES, "ipvrm_late", "ipvrm"),
    _above("Table 3", figures.OVER_SIZES, "ipvrm", "ipvrm_early"),
    *(_above("Table 10", figures.OVER_SIZES, "ipvrm", f"ipvrm m={margin}") for margin in (0, 10)),
]

_PAIRS_NOTE = "added after the first tables: ADB's boundary knows the prompt's accuracy, this figure does not"

POLICY_CLAIMS = [
    *(
        _above("Table 5", figures.AVERAGE, BEST, other)
        for other in ("sft", "prime", "spro", "reinforce q_rm", "grpo", "grpo dpo", "grpo ipvrm")
    ),
    _above("Table 5", figures.AVERAGE, "grpo", "sft"),
    _above("Table 5", figures.AVERAGE, "grpo ipvrm", "grpo"),
    *(_above("Table 6", figures.AVERAGE, f"distrl {rm}", f"grpo {rm}") for rm in ("dpo", "implicit_prm", "ipvrm")),
    *(
        _above("Table 6", figures.AVERAGE, f"{method} ipvrm", f"{method} {rm}")
        for method in ("grpo", "distrl")
        for rm in ("dpo", "implicit_prm")
    ),
    _above("Table 7", figures.RM_SCORE, BEST, "grpo ipvrm"),
    _above("Table 7", figures.OUTCOME, BEST, "grpo ipvrm"),
    _above("Table 8", figures.AVERAGE, "distrl ipvrm naive", "distrl implicit_prm"),
    _above("Table 8", figures.AVERAGE, BEST, "distrl ipvrm naive"),
    _above("Table 9", figures.AVERAGE, BEST, "distrl ipvrm start"),
    *(_above("Fig. 6, left", figures.OUTCOME, BEST, f"distrl ipvrm {update}") for update in UPDATES),
    _above("Fig. 6, left", figures.OUTCOME, "distrl ipvrm frozen", "distrl ipvrm naive"),
    *(
        _above("Fig. 6, right", figure, run, "distrl ipvrm naive", note)
        for figure, note in ((figures.RM_ACCURACY, ""), (figures.RM_PAIRS, _PAIRS_NOTE))
        for run in ("distrl ipvrm dlw", "distrl ipvrm adb", "distrl ipvrm frozen", BEST)
    ),
]


def _probed(where: str, text: str, larger: RunFigure | float, smaller: RunFigure | float) -> Claim:
    return Claim(where, text, larger, smaller, 3, "written after the probe had been tried on one seed")


def _td(name: str, figure: str) -> RunFigure:
    return figures.signal(name, figure).of("ipvrm")


PROBE_CLAIMS = [
    _probed(
        "Section 4.3.3",
        "AUC of abs(V) against single rollouts' outcomes above one half (the paper: 0.64)",
        _td("abs_value", "auc"),
        0.5,
    ),
    _probed(
        "Section 4.3.3",
        "AUC of V above one half (the paper's value may mean V)",
        _td("value", "auc"),
        0.5,
    ),
    _probed(
        "Section 4.3.3",
        "Pearson of TD with single rollouts' outcomes below 0.1 (the paper: 0.0226)",
        0.1,
        _td("td", "pearson"),
    ),
    _probed(
        "Section 4.3.3",
        "TD ranks the branches of a state as their shares of right rollouts: tau-b above 0 (local signal)",
        _td("td", "agreement"),
        0.0,
    ),
    _probed(
        "Section 4.3.3",
        "within a state, correlation with true values: TD above the change of the corrected probability",
        _td("td", "within_corrected"),
        _td("probability", "within_corrected"),
    ),
    _probed(
        "Table 11",
        "candidate sets stay small: average size at P_min 0.05 below 2 (the paper: 1.54)",
        2.0,
        figures.candidate_set(0.05, "size").of("sft"),
    ),
]

CLAIMS = [*REWARD_MODEL_CLAIMS, *BEST_OF_N_CLAIMS, *POLICY_CLAIMS, *PROBE_CLAIMS]
