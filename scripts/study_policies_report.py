"""The page of the study of policies: tables, claims and curves from the JSON that the study left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from study_tables import table, with_interval

from prmbench.stats.nested import nested_interval
from prmbench.stats.seeds import Verdict
from prmbench.studies.policies import PolicySettings, average, last_third
from prmbench.studies.replicate.claims import POLICY_CLAIMS, Claim
from prmbench.studies.replicate.figures import BEST, LABELS, Row, outcome, rm_accuracy, rm_pairs, rm_score
from prmbench.studies.replicate.judge import count_verdicts, judge
from prmbench.studies.replicate.runs import Run

MARK = "<!-- What follows is written by scripts/study_policies.py report. -->"


def report(found: list[Row], searched: list[Row], base: PolicySettings, folder: Path) -> str:
    """The figures as Markdown; draws the curves into the folder."""
    by_name: dict[str, list[Row]] = {}
    for row in found:
        by_name.setdefault(row["name"], []).append(row)
    n_seeds = len(by_name["sft"])
    assert all([r["seed"] for r in rows] == [r["seed"] for r in by_name["sft"]] for rows in by_name.values())
    sizes = with_interval([last_third(r, "candidates/size") for r in by_name[BEST]], 3)
    masses = with_interval([100 * last_third(r, "candidates/mass") for r in by_name[BEST]], 2)
    claims = [_claim(by_name, claim) for claim in POLICY_CLAIMS]
    parts = [
        MARK,
        "\n\n## Figures\n\n",
        f"{n_seeds} seeds; means over seeds with the 95% Student-t interval of the mean. avg@8 in % on "
        f"{len(found[0]['right'])} test problems of each seed. Policy learning rate {base.learning_rate:g}, coefficient of GAE "
        f"{base.gae_weight:g}, learning rate of online reward models {base.reward_learning_rate:g}, {base.steps} steps of at most "
        "32 prompts with 4 rollouts each.\n\n",
        "### Search\n\n",
        table(
            ["run", "policy rate", "GAE", "reward-model rate", "avg@8", "RM accuracy"],
            [
                [
                    _searched(r["settings"]),
                    "" if r["settings"]["method"] == "sft" else f"{r['settings']['learning_rate']:g}",
                    "" if r["settings"]["objective"] is None else f"{r['settings']['gae_weight']:g}",
                    "" if r["settings"]["objective"] is None else f"{r['settings']['reward_learning_rate']:g}",
                    f"{average(r):.1f}",
                    "" if r["settings"]["objective"] is None else f"{rm_accuracy(r):.1f}",
                ]
                for r in searched
            ],
        ),
        "\n\n### Tables 5 to 9, Fig. 6 and alpha\n\n",
        table(
            [
                "run",
                "avg@8",
                "rollout accuracy",
                "RM accuracy",
                "RM pair accuracy",
                "RM score",
                "entropy",
                "GAE / outcome",
                "clipped, %",
            ],
            [[LABELS[name], *_figures(rows)] for name, rows in ((n, by_name[n]) for n in LABELS if n in by_name)],
        ),
        "\n\nRollout accuracy, RM accuracy (against the prompt's boundary where there is ADB), pair accuracy, RM score "
        "(Eq. 19), entropy, mean abs(GAE) over mean abs(outcome advantage): means over the last third of the steps.\n\n",
        f"Candidates of DistRL (P_min 0.1): {sizes} a state, {masses} % of pi_old.\n\n",
        "![Learning curves](policies-curves.svg)\n\n",
        "### The paper's orderings\n\n",
        count_verdicts([claim[-1] for claim in claims]),
        ". Paired by seed; `appears` and `does not appear` mean that the "
        "difference's 95% interval over seeds is on one side of 0. Beside: a two-level bootstrap over seeds x problems where the "
        "figure is one of problems, which with so few seeds is too narrow.\n\n",
        table(
            ["paper", "claim", "difference", "seeds x problems", "here"],
            claims,
        ),
    ]
    _curves(by_name, folder / "policies-curves.svg")
    return "".join(parts).rstrip("\n") + "\n"


def _searched(settings: dict[str, Any]) -> str:
    return LABELS[f"{settings['method']} {settings['objective']}" if settings["objective"] else settings["method"]]


def _figures(rows: list[Row]) -> list[str]:
    ratio = [last_third(r, "advantage/gae") / last_third(r, "advantage/outcome") for r in rows]
    return [
        with_interval([average(r) for r in rows]),
        with_interval([outcome(r) for r in rows]),
        with_interval([rm_accuracy(r) for r in rows]),
        with_interval([rm_pairs(r) for r in rows]),
        with_interval([rm_score(r) for r in rows], 3),
        with_interval([last_third(r, "entropy") for r in rows], 3),
        with_interval(ratio, 2),
        with_interval([100 * last_third(r, "clip_share/sampled") for r in rows], 2),
    ]


def _claim(by_name: dict[str, list[Row]], claim: Claim) -> tuple[str, str, str, str, Verdict]:
    judged = judge(claim, {Run("policy", name): rows for name, rows in by_name.items()})
    assert judged is not None
    nested = ""
    if claim.larger[1] is average:
        pairs = zip(by_name[claim.larger[0].name], by_name[claim.smaller[0].name], strict=True)
        items = [100 * (np.array(x["right"]) - np.array(y["right"])) / x["n"] for x, y in pairs]
        _, low, high = nested_interval(items, 2_000, np.random.default_rng(0))
        nested = f"[{low:+.1f}, {high:+.1f}]"
    return claim.where, claim.text, judged.shown, nested, judged.verdict


def _curves(by_name: dict[str, list[Row]], path: Path) -> None:
    """Rollout accuracy of Table 5's methods; Fig. 6's two panels. Means over seeds, five steps smoothed."""
    panels: list[tuple[str, str, list[str]]] = [
        (
            "Rollout accuracy",
            "rollouts/accuracy",
            ["grpo", "prime", "spro", "reinforce q_rm", "grpo dpo", "grpo ipvrm", BEST],
        ),
        ("Rollout accuracy by online update", "rollouts/accuracy", _updates()),
        ("Reward-model pair accuracy by online update", "reward_model/pair_accuracy", _updates()),
    ]
    plt.rcParams["svg.hashsalt"] = "prmbench"
    figure, axes = plt.subplots(1, 3, figsize=(15, 4), constrained_layout=True)
    for axis, (title, name, runs) in zip(axes, panels, strict=True):
        for run in runs:
            curves = np.array([[row[name] for row in r["history"]] for r in by_name[run]]).mean(axis=0)
            smooth = np.convolve(curves, np.ones(5) / 5, mode="valid")
            axis.plot(np.arange(len(smooth)) + 3, 100 * smooth, label=LABELS[run], linewidth=2 if run == BEST else 1.2)
        axis.set(title=title, xlabel="step", ylabel="%")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _updates() -> list[str]:
    return [*(f"distrl ipvrm {update}" for update in ("frozen", "naive", "dlw", "adb")), BEST]
