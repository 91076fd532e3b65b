"""Tables that the paper does not have: what the miniature's exact values say of reward models and of trained policies."""

from __future__ import annotations

from typing import get_args

from prmbench.miniature.decisions import DecisionKind
from prmbench.miniature.solutions import FORMATS
from prmbench.studies import figures
from prmbench.studies.claims import OURS
from prmbench.studies.layout import Layout, rows_of
from prmbench.studies.measure_decisions import TOKEN_KINDS
from prmbench.studies.measure_reward_models import BEST_OF
from prmbench.studies.paper_tables import RIVALS, SHIFTED
from prmbench.studies.settings import BEST

RATIOS = ("endo", "dpo", "implicit_prm", "ipvrm", "ipvrm_late", "ipvrm_early")
"""Reward models whose token values are log-ratios, or log-probs."""
MOVED = (
    "spro",
    "prime",
    "grpo",
    "grpo dpo",
    "grpo implicit_prm",
    "grpo ipvrm",
    "distrl dpo",
    "distrl implicit_prm",
    BEST,
)
"""Policies whose training is looked at decision by decision."""
PLACES = [f"{kind}, better {side}" for kind in get_args(DecisionKind) for side in ("likelier", "rarer")]

OUR_TABLES = [
    Layout(
        OURS,
        "ProcessBench without format tokens",
        "F1 (process), %, crossfit",
        [*FORMATS, SHIFTED],
        rows_of(
            RATIOS, [*(figures.f1(form, part="f1_content") for form in FORMATS), figures.shifted_f1(part="f1_content")]
        ),
        "Sums of steps leave out tokens that carry form and no content: tags, synonyms, separators, the answer's box.",
    ),
    Layout(
        OURS,
        "Candidates at temperature 1: over-optimisation",
        "accuracy, %; Table 1 has candidates at the evaluation preset",
        [f"@{n}" for n in BEST_OF],
        rows_of(RIVALS, [figures.best_of(n, "at_one") for n in BEST_OF]),
    ),
    Layout(
        OURS,
        "Does TD prefer the way with the higher true value?",
        "share of decisions, %; 50 is chance",
        list(get_args(DecisionKind)),
        rows_of(RATIOS, [figures.preferred(kind) for kind in get_args(DecisionKind)]),
        "choice: how a hard operation is done; result: a fact that is stated right more often than wrong; misconception: one "
        "that is stated wrong more often than right.",
    ),
    Layout(
        OURS,
        "Does TD say by how much the better way is better?",
        "Pearson over decisions of the difference of TD between the two ways and that of their true values",
        list(get_args(DecisionKind)),
        rows_of(RATIOS, [figures.by_how_much(kind) for kind in get_args(DecisionKind)]),
        "The better way comes first in each difference, so 0 says nothing against its direction.",
    ),
    Layout(
        OURS,
        "Correlation of TD and true advantage, by token",
        "Pearson, sampled tokens",
        ["choice", "result", "all tokens"],
        rows_of(RATIOS, [figures.credit("pearson", "choice"), figures.credit("pearson", "result"), figures.CREDIT]),
    ),
    Layout(
        OURS,
        "Where TD goes",
        "share of the sum of abs(TD), %",
        list(TOKEN_KINDS),
        rows_of(RATIOS, [figures.credit("share", kind) for kind in TOKEN_KINDS]),
        "True advantages are 0 at synonyms and at all other tokens.",
    ),
    Layout(
        OURS,
        "What training moves, in true value",
        "points of true value a decision, at the SFT policy's own solutions",
        PLACES,
        rows_of(MOVED, [figures.gained(kind) for kind in PLACES]),
        "likelier, rarer: whether the SFT policy preferred the better way or the worse one.",
    ),
    Layout(
        OURS,
        "What training moves, in probability",
        "mean absolute change of a sampled token's probability, points",
        list(TOKEN_KINDS),
        rows_of(MOVED, [figures.moved(kind) for kind in TOKEN_KINDS]),
    ),
]
"""The tables of the miniature that are ours."""
