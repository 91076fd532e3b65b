"""Figures of a run's row (`prmbench.studies.replicate.runs`): one number each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prmbench.studies.policies import last_third
from prmbench.studies.reward_models import BEST_OF

Row = dict[str, Any]
Figure = Callable[[Row], float]

FORMS = ("tagged", "plain")
"""Formats of the miniature's traces: as the reward models' rollouts are, and shifted."""

LABELS = {
    "endo": "EndoRM",
    "q_rm": "Q-RM",
    "dpo": "DPO-RM",
    "implicit_prm": "Implicit PRM",
    "ipvrm": "IPVRM",
    "ipvrm_late": "IPVRM late",
    "ipvrm_early": "IPVRM early",
    "ipvrm m=0": "IPVRM, m = 0",
    "ipvrm m=10": "IPVRM, m = 10",
    "sft": "SFT",
    "prime": "PRIME",
    "spro": "SPRO",
    "reinforce q_rm": "REINFORCE w/ Q-RM",
    "grpo": "GRPO w/ VR",
    "grpo dpo": "GRPO w/ DPO-RM",
    "grpo implicit_prm": "GRPO w/ Implicit PRM",
    "grpo ipvrm": "GRPO w/ IPVRM",
    "distrl dpo": "DistRL w/ DPO-RM",
    "distrl implicit_prm": "DistRL w/ Implicit PRM",
    "distrl ipvrm": "DistRL w/ IPVRM",
    "distrl ipvrm start": "DistRL w/ IPVRM, reference SFT",
    "distrl ipvrm frozen": "DistRL w/ IPVRM, frozen",
    "distrl ipvrm naive": "DistRL w/ IPVRM, naive",
    "distrl ipvrm dlw": "DistRL w/ IPVRM, DLW",
    "distrl ipvrm adb": "DistRL w/ IPVRM, ADB",
    "distrl ipvrm alpha=0.05": "DistRL w/ IPVRM, alpha 0.05",
    "distrl ipvrm alpha=0.2": "DistRL w/ IPVRM, alpha 0.2",
    "distrl ipvrm alpha=0.5": "DistRL w/ IPVRM, alpha 0.5",
}
"""Names on pages, by the names of `prmbench.studies.replicate.runs.REWARD_MODELS` and `POLICIES`."""

BEST = "distrl ipvrm"


def f1(form: str, protocol: str = "process", part: str = "f1") -> Figure:
    """F1 in %, crossfit thresholds."""
    return lambda row: 100 * row[part]["crossfit"][form][protocol]


def mean_f1(protocol: str = "process") -> Figure:
    """Mean F1 over the two formats, in %."""
    return lambda row: sum(f1(form, protocol)(row) for form in FORMS) / len(FORMS)


def drop(row: Row) -> float:
    """What the format shift costs: process F1 on tagged minus plain, in points."""
    return f1("tagged")(row) - f1("plain")(row)


def final_auc(row: Row) -> float:
    """AUC of a rollout's final value against its verdict."""
    return float(row["auc_final"])


def best_of(n: int) -> Figure:
    """Best-of-n by the model's own score, over all subsets, in %."""
    return lambda row: 100 * float(next(iter(row["figures"]["scores"].values()))[str(n)]["expected"]["value"])


def over_sizes(row: Row) -> float:
    """Mean over N, as Tables 1, 3 and 12 average."""
    return sum(best_of(n)(row) for n in BEST_OF) / len(BEST_OF)


def best_of_baseline(name: str, n: int) -> Figure:
    """Best-of-n of a choice that needs no reward model, in %."""
    return lambda row: 100 * float(row["figures"]["baselines"][name][str(n)]["expected"]["value"])


def outcome(row: Row) -> float:
    """Accuracy of the rollouts in training, last third of the steps, in % (Table 7's verifier accuracy, Fig. 6 left)."""
    return 100 * last_third(row, "rollouts/accuracy")


def rm_accuracy(row: Row) -> float:
    """The reward model's accuracy before each update, last third of the steps, in % (Fig. 6 right)."""
    return 100 * last_third(row, "reward_model/accuracy")


def rm_pairs(row: Row) -> float:
    """Right rollouts above wrong ones of their prompt by final value, before each update, last third of the steps, in %."""
    return 100 * last_third(row, "reward_model/pair_accuracy")


def rm_score(row: Row) -> float:
    """Mean per-token log-ratio, last third of the steps (Eq. 19, Table 7)."""
    return last_third(row, "reward_model/score")


def logged(name: str) -> Figure:
    """Mean of a logged figure over the last third of the steps."""
    return lambda row: last_third(row, name)


def signal(name: str, figure: str, group: str = "branches") -> Figure:
    """A figure of a signal of the TD probe."""

    def find(row: Row) -> float:
        found = row["metrics"][group]
        value = None if found is None else found["signals"][name][figure]["value"]
        return float("nan") if value is None else float(value)

    return find


def candidate_set(p_min: float, part: str) -> Figure:
    """``size``, ``mass`` or ``several`` of Table 11's candidate sets."""
    return lambda row: float(row["metrics"]["p_min"][str(p_min)][part]["value"])


def constant(value: float) -> Figure:
    """The same for every row."""
    return lambda _: value
