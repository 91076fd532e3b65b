"""The page of the study of reward models: tables, claims and figures from the JSON that the study left."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from study_tables import claims_table, table, with_interval

from prmbench.stats.protocols import TOKEN_PROTOCOLS
from prmbench.studies.replicate.claims import REWARD_MODEL_CLAIMS
from prmbench.studies.replicate.figures import FORMS, LABELS, Figure, Row, f1
from prmbench.studies.replicate.runs import REWARD_MODELS, Run

MARK = "<!-- What follows is written by scripts/study_reward_models.py report. -->"


def name_of(row: Row) -> str:
    """The reward model of a row, as `LABELS` has it."""
    margin = row["settings"]["margin"]
    return row["settings"]["objective"] + ("" if margin is None else f" m={margin:g}")


def shown(rows: list[Row], figure: Figure, digits: int = 1) -> str:
    """Mean over seeds with its interval."""
    return with_interval([figure(row) for row in rows], digits)


def report(found: list[Row], searched: list[Row], chosen: dict[str, float], folder: Path) -> str:
    """Everything after the hand-written part, as Markdown; writes the figure beside it."""
    of = {name: sorted((r for r in found if name_of(r) == name), key=lambda r: r["seed"]) for name in REWARD_MODELS}
    of = {name: rows for name, rows in of.items() if rows}
    seeds = sorted({row["seed"] for row in found})
    for rows in of.values():
        if [row["seed"] for row in rows] != seeds:
            raise ValueError("the table is not finished: a reward model lacks a seed")
    some = next(iter(of.values()))
    parts = [
        MARK,
        f"## Figures\n\nSeeds {', '.join(map(str, seeds))}; means over seeds with the 95% Student-t interval of the mean. F1 in %, "
        "crossfit thresholds. Each seed has its own policy, rollouts, reward models, and 400 traces in each format.",
        "### Search\n\n"
        + table(
            ["objective", "learning rate", *(f"process F1, {form}" for form in FORMS), "AUC", ""],
            (
                [
                    LABELS[name_of(row)],
                    f"{row['settings']['learning_rate']:g}",
                    *(f"{f1(form)(row):.1f}" for form in FORMS),
                    f"{row['auc_final']:.3f}",
                    "chosen" if chosen[row["settings"]["objective"]] == row["settings"]["learning_rate"] else "",
                ]
                for row in sorted(searched, key=lambda r: (r["settings"]["objective"], r["settings"]["learning_rate"]))
            ),
        ),
        "### Tables 2, 4 and 10: F1 under the four protocols\n\n"
        + "\n\n".join(
            f"{form.capitalize()} traces:\n\n"
            + table(
                ["", *TOKEN_PROTOCOLS],
                [
                    *(
                        [LABELS[name], *(shown(rows, f1(form, p)) for p in TOKEN_PROTOCOLS)]
                        for name, rows in of.items()
                    ),
                    *(
                        [
                            f"{kind} only" if kind != "random" else "random",
                            shown(some, _baseline(form, kind)),
                            "",
                            "",
                            "",
                        ]
                        for kind in some[0]["baselines"][form]
                    ),
                ],
            )
            for form in FORMS
        ),
        "### The final value, format tokens, true prefix values\n\n"
        + table(
            [
                "",
                "AUC of the final value",
                "share of abs(r) on format tokens, %",
                "their part of the variance of sum r, %",
                "process F1 without them, tagged",
                "plain",
                "rank agreement with true prefix values",
            ],
            (
                [
                    LABELS[name],
                    shown(rows, lambda r: r["auc_final"], 3),
                    shown(rows, lambda r: 100 * r["format_share"]["absolute"]),
                    shown(rows, lambda r: 100 * r["format_share"]["variance"]),
                    *(shown(rows, f1(form, part="f1_content")) for form in FORMS),
                    shown(rows, lambda r: r["truth"]["spearman"], 3),
                ]
                for name, rows in of.items()
            ),
        )
        + f"\n\nFormat tokens are {shown(some, lambda r: 100 * r['format_share']['tokens'])} % of a rollout's tokens. "
        f"Minus the length alone has AUC {shown(some, lambda r: r['auc_length'], 3)}.",
        _truth(of, folder),
        _claims(of),
    ]
    return "\n\n".join(parts) + "\n"


def _baseline(form: str, kind: str) -> Figure:
    return lambda row: 100 * row["baselines"][form][kind]


def _truth(of: dict[str, list[Row]], folder: Path) -> str:
    logit = {name: rows for name, rows in of.items() if "margin" in rows[0]["truth"]}
    first = next(iter(logit.values()))
    truth = first[0]["truth"]
    text = (
        "### Prefix values against the truth\n\n"
        f"{truth['n']} prefixes of {truth['n'] // 4} rollouts a seed, each continued {truth['continuations']} times by the policy "
        f"that sampled it, at temperature 1; mean true value {shown(first, lambda r: r['truth']['mean_share'], 3)}. "
        "Mean squared error with the sampling noise of the shares taken off; a constant at the mean has "
        f"{shown(first, lambda r: r['truth']['mse_constant'], 4)}.\n\n"
    )
    return (
        text
        + table(
            ["", "Brier, margin's link", "Brier, plain sigmoid", "ECE, margin's link", "ECE, plain sigmoid"],
            (
                [
                    LABELS[name],
                    *(
                        shown(rows, lambda r, link=link, m=m: r["truth"][link][m], 4 if m == "mse" else 3)
                        for m in ("mse", "ece")
                        for link in ("margin", "naive")
                    ),
                ]
                for name, rows in logit.items()
            ),
        )
        + f"\n\n![Reliability of prefix values]({_diagram(logit, folder).name})"
    )


def _diagram(logit: dict[str, list[Row]], folder: Path) -> Path:
    names = [name for name in ("implicit_prm", "ipvrm m=0", "ipvrm", "ipvrm m=10") if name in logit]
    figure, axes = plt.subplots(1, len(names), figsize=(3.1 * len(names), 3.7), sharey=True, constrained_layout=True)
    for axis, name in zip(axes, names, strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for link, colour, label in (("margin", "C0", "margin's link"), ("naive", "C1", "plain sigmoid")):
            if link == "naive" and name in ("implicit_prm", "ipvrm m=0"):
                continue  # the same
            bins: dict[int, list[float]] = {}
            for row in logit[name]:
                found = row["truth"][link]
                for i, (p, o, s) in enumerate(zip(found["predicted"], found["observed"], found["share"], strict=True)):
                    if s:
                        old = bins.setdefault(i, [0.0, 0.0, 0.0])
                        bins[i] = [old[0] + s * p, old[1] + s * o, old[2] + s]
            x, y, size = zip(
                *((p / s, o / s, 250 * s / len(logit[name]) + 4) for p, o, s in bins.values()), strict=True
            )
            axis.scatter(x, y, s=size, color=colour, alpha=0.8, label=label)
        axis.set(title=LABELS[name], xlabel="predicted", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.legend(fontsize=7, loc="upper left")
    axes[0].set_ylabel("true value (share of right continuations)")
    path = folder / "reward-models-reliability.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _claims(of: dict[str, list[Row]]) -> str:
    found = {Run("reward model", name): rows for name, rows in of.items()}
    text = (
        "### The paper's orderings\n\nPaired by seed; `appears` and `does not appear` mean that the difference's 95% interval "
        "is on one side of 0.\n\n"
    )
    return text + claims_table(REWARD_MODEL_CLAIMS, found)
