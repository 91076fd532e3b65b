"""The paper's orderings, as claims that a paired test over seeds decides. Written before the tables they are of were run, unless a
note says otherwise; nothing here depends on what came out.

A claim says that one figure is larger than another. Seed by seed the difference is taken (each seed has its own policy, data,
models and test items); the 95% Student-t interval of its mean above 0: appears, below 0: does not appear, else undecided. A seed's
figure is a mean over its own items, so their sampling is part of what differs between seeds. With one seed nothing is decided.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from prmbench.studies.policies import average
from prmbench.studies.replicate.figures import (
    BEST,
    LABELS,
    Figure,
    candidate_set,
    constant,
    drop,
    f1,
    final_auc,
    outcome,
    over_sizes,
    rm_accuracy,
    rm_pairs,
    rm_score,
    signal,
)
from prmbench.studies.replicate.runs import Kind, Run


@dataclass(frozen=True)
class Claim:
    """One claim: the larger figure is above the smaller.

    Attributes:
        where: in the paper. text: in words. larger, smaller: run and figure. digits: shown. note: what else must be known.
    """

    where: str
    text: str
    larger: tuple[Run, Figure]
    smaller: tuple[Run, Figure]
    digits: int = 1
    note: str = ""

    @property
    def tables(self) -> frozenset[str]:
        """Numbers of the paper's tables and figure it is of: ``{"1", "12"}``, ``{"fig6"}``, ``{"4.3.3"}``."""
        return tables_of(self.where)


def tables_of(where: str) -> frozenset[str]:
    """Numbers in a place's name."""
    if where.startswith("Fig. 6"):
        return frozenset({"fig6"})
    return frozenset(re.findall(r"\d+(?:\.\d+)*", where))


def _of(where: str, what: str, kind: Kind, figure: Figure, a: str, b: str, digits: int = 1, note: str = "") -> Claim:
    """The figure of run a above the same of run b."""
    text = f"{what}: {LABELS[a]} above {LABELS[b]}"
    return Claim(where, text, (Run(kind, a), figure), (Run(kind, b), figure), digits, note)


def _spearman(row: dict[str, object]) -> float:
    return float(row["truth"]["spearman"])  # type: ignore[index]


def _format_share(row: dict[str, object]) -> float:
    return 100 * float(row["format_share"]["absolute"])  # type: ignore[index]


REWARD_MODEL_CLAIMS = [
    *(
        _of(f"Table 2, {form}", "F1 (process)", "reward model", f1(form), "ipvrm", other)
        for form in ("plain", "tagged")
        for other in ("dpo", "implicit_prm", "endo", "q_rm")
    ),
    *(
        _of(f"Table 14, {form}", "F1 (prefix)", "reward model", f1(form, "prefix"), "ipvrm", other)
        for form in ("plain", "tagged")
        for other in ("dpo", "implicit_prm")
    ),
    *(
        Claim(
            "Table 14",
            f"{LABELS[name]}, plain: process F1 above prefix F1",
            (Run("reward model", name), f1("plain")),
            (Run("reward model", name), f1("plain", "prefix")),
        )
        for name in ("dpo", "implicit_prm", "ipvrm")
    ),
    *(
        _of(f"Table 4, {form}", "F1 (process)", "reward model", f1(form), a, b)
        for form in ("plain", "tagged")
        for a, b in (("ipvrm_early", "ipvrm"), ("ipvrm", "ipvrm_late"))
    ),
    *(
        _of(f"Table 10, {form}", "F1 (process)", "reward model", f1(form), "ipvrm", f"ipvrm m={margin}", note=note)
        for form in ("plain", "tagged")
        for margin, note in ((0, ""), (10, "no claim of the paper's: it has 39.1 for both"))
    ),
    _of("Table 10", "AUC of the final value", "reward model", final_auc, "ipvrm", "ipvrm m=0", 3),
    _of("Table 3", "AUC of the final value", "reward model", final_auc, "ipvrm_late", "ipvrm", 3),
    _of("Table 3", "AUC of the final value", "reward model", final_auc, "ipvrm", "ipvrm_early", 3),
    *(
        _of("Table 1", "AUC of the final value", "reward model", final_auc, "ipvrm", other, 3)
        for other in ("dpo", "implicit_prm", "endo")
    ),
    *(
        _of("Section 4.2", "cost of the format shift", "reward model", drop, other, "ipvrm")
        for other in ("dpo", "implicit_prm")
    ),
    *(
        _of("Section 3.1", "share of abs(r) on format tokens, %", "reward model", _format_share, other, "ipvrm")
        for other in ("dpo", "implicit_prm")
    ),
    *(
        _of("Section 3.1", "rank agreement with true prefix values", "reward model", _spearman, "ipvrm", other, 3)
        for other in ("dpo", "implicit_prm")
    ),
]

BEST_OF_N_CLAIMS = [
    *(
        _of("Tables 1, 12", "mean over N", "best-of-n", over_sizes, "ipvrm", other)
        for other in ("q_rm", "endo", "dpo", "implicit_prm")
    ),
    _of("Table 3", "mean over N", "best-of-n", over_sizes, "ipvrm_late", "ipvrm"),
    _of("Table 3", "mean over N", "best-of-n", over_sizes, "ipvrm", "ipvrm_early"),
    *(
        _of("Table 10", "mean over N", "best-of-n", over_sizes, "ipvrm", f"ipvrm m={margin}")
        for margin in (0, 10)
    ),
]  # fmt: skip

POLICY_CLAIMS = [
    *(
        _of("Table 5", "avg@8", "policy", average, BEST, other)
        for other in ("sft", "prime", "spro", "reinforce q_rm", "grpo", "grpo dpo", "grpo ipvrm")
    ),
    _of("Table 5", "avg@8", "policy", average, "grpo", "sft"),
    _of("Table 5", "avg@8", "policy", average, "grpo ipvrm", "grpo"),
    *(
        _of("Table 6", "avg@8", "policy", average, f"distrl {rm}", f"grpo {rm}")
        for rm in ("dpo", "implicit_prm", "ipvrm")
    ),
    *(
        _of("Table 6", "avg@8", "policy", average, f"{method} ipvrm", f"{method} {rm}")
        for method in ("grpo", "distrl")
        for rm in ("dpo", "implicit_prm")
    ),
    _of("Table 7", "RM score", "policy", rm_score, BEST, "grpo ipvrm", 3),
    _of("Table 7", "verifier accuracy", "policy", outcome, BEST, "grpo ipvrm"),
    _of("Table 8", "avg@8", "policy", average, "distrl ipvrm naive", "distrl implicit_prm"),
    _of("Table 8", "avg@8", "policy", average, BEST, "distrl ipvrm naive"),
    _of("Table 9", "avg@8", "policy", average, BEST, "distrl ipvrm start"),
    *(
        _of("Fig. 6, left", "verifier accuracy", "policy", outcome, BEST, f"distrl ipvrm {update}")
        for update in ("frozen", "naive", "dlw", "adb")
    ),
    _of("Fig. 6, left", "verifier accuracy", "policy", outcome, "distrl ipvrm frozen", "distrl ipvrm naive"),
    *(
        _of("Fig. 6, right", "RM accuracy", "policy", rm_accuracy, f"distrl ipvrm {update}", "distrl ipvrm naive")
        for update in ("dlw", "adb", "frozen")
    ),
    _of("Fig. 6, right", "RM accuracy", "policy", rm_accuracy, BEST, "distrl ipvrm naive"),
    *(
        _of(
            "Fig. 6, right",
            "RM pair accuracy",
            "policy",
            rm_pairs,
            run,
            "distrl ipvrm naive",
            note="added after the first tables: ADB's boundary knows the prompt's accuracy, this figure does not",
        )
        for run in ("distrl ipvrm dlw", "distrl ipvrm adb", "distrl ipvrm frozen", BEST)
    ),
]

_TD = Run("td", "ipvrm")
_SEEN = "written after the probe had been tried on one seed"

PROBE_CLAIMS = [
    Claim(
        "Section 4.3.3",
        "AUC of abs(V) against single rollouts' outcomes above one half (the paper: 0.64)",
        (_TD, signal("abs_value", "auc")),
        (_TD, constant(0.5)),
        3,
        _SEEN,
    ),
    Claim(
        "Section 4.3.3",
        "AUC of V above one half (the paper's value may mean V)",
        (_TD, signal("value", "auc")),
        (_TD, constant(0.5)),
        3,
        _SEEN,
    ),
    Claim(
        "Section 4.3.3",
        "Pearson of TD with single rollouts' outcomes below 0.1 (the paper: 0.0226)",
        (_TD, constant(0.1)),
        (_TD, signal("td", "pearson")),
        3,
        _SEEN,
    ),
    Claim(
        "Section 4.3.3",
        "TD ranks the branches of a state as their shares of right rollouts: tau-b above 0 (local signal)",
        (_TD, signal("td", "agreement")),
        (_TD, constant(0.0)),
        3,
        _SEEN,
    ),
    Claim(
        "Section 4.3.3",
        "within a state, correlation with true values: TD above the change of the corrected probability",
        (_TD, signal("td", "within_corrected")),
        (_TD, signal("probability", "within_corrected")),
        3,
        _SEEN,
    ),
    Claim(
        "Table 11",
        "candidate sets stay small: average size at P_min 0.05 below 2 (the paper: 1.54)",
        (Run("candidates", "sft"), constant(2.0)),
        (Run("candidates", "sft"), candidate_set(0.05, "size")),
        3,
        _SEEN,
    ),
]

CLAIMS = [*REWARD_MODEL_CLAIMS, *BEST_OF_N_CLAIMS, *POLICY_CLAIMS, *PROBE_CLAIMS]
