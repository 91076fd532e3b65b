"""The paper's sentences as claims, one to one, and apart from them the claims that are ours.

They were written before the tables they are of were run. Nothing here depends on what came out. Each names the sentence that it is.
Where the paper's shift of format is meant (ProcessBench), the figure is the mean over the shifted formats. Where the paper averages
over training, so does the figure.
"""

from __future__ import annotations

from prmbench.studies import figures
from prmbench.studies.claims import OURS, Claim, PaperRows
from prmbench.studies.figures import Figure, RunFigure
from prmbench.studies.settings import BEST, LABELS, UPDATES

PAPER_NAMES = {
    "q_rm": "Q-RM",
    "endo": "EndoRM",
    "dpo": "DPO-RM",
    "implicit_prm": "Implicit PRM",
    "ipvrm": "IPVRM",
    "ipvrm_late": "IPVRM late",
    "ipvrm_early": "IPVRM early",
    "ipvrm m=0": "m = 0",
    "sft": "SFT",
    "prime": "PRIME",
    "spro": "SPRO",
    "reinforce q_rm": "Reinforce w/ Q-RM",
    "grpo": "GRPO w/ VR",
    **{
        f"{method} {rm}": f"{title} w/ {name}"
        for method, title in (("grpo", "GRPO"), ("distrl", "DistRL"))
        for rm, name in (("dpo", "DPO-RM"), ("implicit_prm", "Implicit PRM"), ("ipvrm", "IPVRM"))
    },
}
"""What the paper's tables call reward models and policies."""


def _above(where: str, figure: Figure, larger: str, smaller: str, sentence: str, note: str = "") -> Claim:
    """The figure of one run above the same figure of another run, as two rows of a table of the paper say."""
    text = f"{figure.text}: {LABELS[larger]} above {LABELS[smaller]}"
    table = where.removeprefix("Table ")
    rows = PaperRows(table, PAPER_NAMES[larger], PAPER_NAMES[smaller])
    return Claim(where, text, figure.of(larger), figure.of(smaller), figure.digits, note, sentence, rows)


_BON = "4.2.1: IPVRM generally matches or improves over prior implicit reward models"
_COMPETITIVE = "4.2.1: remaining competitive with the strong explicit baseline Q-RM"
_PB = "4.2.1: IPVRM yields substantially stronger error localization across backbones"
_UNDER = "4.2.1: sequence-level objectives such as DPO-RM and Implicit PRM underperform both Q-RM and IPVRM"
_LATE = "4.2.2: on BoN, IPVRM late performs best"
_EARLY = "4.2.2: on ProcessBench, IPVRM early achieves the best F1"
_BEST = "4.3.1: DistRL w/ IPVRM achieves the best average performance on all four backbones"
_STRONGEST = "4.3.2: IPVRM is the strongest reward model for downstream RL, under both GRPO and DistRL"
_CONSISTENT = "4.3.2: DistRL consistently improves over trajectory-only updates with the same reward model"
_BOTH = "G: IPVRM consistently outperforms DPO-RM and Implicit PRM under both formulations"
_PROCESS = "G: the process-level formulation yields consistently higher F1 scores across all methods"
_TD = "4.3.3: DistRL consistently achieves higher mean per-step RM scores and higher verifier accuracy than GRPO"
_NAIVE = "4.3.4: naive online updating is unstable, even falling below the frozen-RM baseline"
_STABLE = "4.3.4: both DLW only and ADB only stabilize training and recover meaningful gains"
_FULL = "4.3.4: the full ADB + DLW strategy performs best overall"

REWARD_MODEL_CLAIMS = [
    *(_above("Table 2", figures.shifted_f1(), "ipvrm", rm, _PB) for rm in ("q_rm", "endo", "dpo", "implicit_prm")),
    *(_above("Table 2", figures.shifted_f1(), "q_rm", rm, _UNDER) for rm in ("dpo", "implicit_prm")),
    *(
        _above("Table 4", figures.shifted_f1(), larger, smaller, _EARLY)
        for larger, smaller in (("ipvrm_early", "ipvrm"), ("ipvrm_early", "ipvrm_late"))
    ),
    *(
        Claim(
            "Table 14",
            f"F1 ({protocol}): IPVRM above {LABELS[rm]}",
            figures.shifted_f1(protocol).of("ipvrm"),
            figures.shifted_f1(protocol).of(rm),
            sentence=_BOTH,
            paper=PaperRows("14", f"IPVRM, {title}", f"{PAPER_NAMES[rm]}, {title}"),
        )
        for protocol, title in (("prefix", "prefix-based"), ("process", "process-level"))
        for rm in ("dpo", "implicit_prm")
    ),
    *(
        Claim(
            "Table 14",
            f"{LABELS[rm]}: process F1 above prefix F1",
            figures.shifted_f1("process").of(rm),
            figures.shifted_f1("prefix").of(rm),
            sentence=_PROCESS,
            paper=PaperRows("14", f"{PAPER_NAMES[rm]}, process-level", f"{PAPER_NAMES[rm]}, prefix-based"),
        )
        for rm in ("dpo", "implicit_prm", "ipvrm")
    ),
    Claim(
        "Table 10",
        "F1 (process): IPVRM above IPVRM, m = 0",
        figures.shifted_f1().of("ipvrm"),
        figures.shifted_f1().of("ipvrm m=0"),
        sentence="D: removing the margin (m = 0) causes a clearer degradation",
        paper=PaperRows("10", "m = 5", "m = 0"),
    ),
]

BEST_OF_N_CLAIMS = [
    *(_above("Table 1", figures.OVER_SIZES, "ipvrm", rm, _BON) for rm in ("endo", "dpo", "implicit_prm")),
    _above(
        "Table 1",
        figures.OVER_SIZES,
        "ipvrm",
        "q_rm",
        _COMPETITIVE,
        "competitive: practically equal is as the paper says, too",
    ),
    Claim(
        "Table 1",
        "IPVRM: Best-of-64 above Best-of-4",
        figures.best_of(64).of("ipvrm"),
        figures.best_of(4).of("ipvrm"),
        sentence="Table 1: accuracy rises with N (MATH-500)",
        paper=PaperRows("1", "IPVRM", "IPVRM", column=2, smaller_column=0),
    ),
    *(
        _above("Table 3", figures.OVER_SIZES, larger, smaller, _LATE)
        for larger, smaller in (("ipvrm_late", "ipvrm"), ("ipvrm_late", "ipvrm_early"))
    ),
    Claim(
        "Table 10",
        "mean over N: IPVRM above IPVRM, m = 0",
        figures.OVER_SIZES.of("ipvrm"),
        figures.OVER_SIZES.of("ipvrm m=0"),
        sentence="D: removing the margin (m = 0) causes a clearer degradation, especially on BoN",
        paper=PaperRows("10", "m = 5", "m = 0", column=0),
    ),
]

POLICY_CLAIMS = [
    *(
        _above("Table 5", figures.AVERAGE, BEST, other, _BEST)
        for other in ("sft", "prime", "spro", "reinforce q_rm", "grpo", "grpo dpo", "grpo ipvrm")
    ),
    *(
        _above("Table 5", figures.AVERAGE, other, "sft", "Table 5: the rivals are above SFT")
        for other in ("prime", "spro", "reinforce q_rm", "grpo")
    ),
    *(
        _above("Table 6", figures.AVERAGE, f"distrl {rm}", f"grpo {rm}", _CONSISTENT)
        for rm in ("dpo", "implicit_prm", "ipvrm")
    ),
    *(
        _above("Table 6", figures.AVERAGE, f"{method} ipvrm", f"{method} {rm}", _STRONGEST)
        for method in ("grpo", "distrl")
        for rm in ("dpo", "implicit_prm")
    ),
    Claim(
        "Table 6",
        "avg@8: what DistRL adds to GRPO is larger with IPVRM than with DPO-RM",
        figures.AVERAGE.minus(BEST, "grpo ipvrm"),
        figures.AVERAGE.minus("distrl dpo", "grpo dpo"),
        note="the paper's own backbones disagree: +0.4 against +0.1, and +0.1 against +0.2",
        sentence="5: distribution-level updates are most effective when supported by reliable prefix values",
        margin=0.1 / 3,
    ),
    Claim(
        "Table 7",
        f"{figures.RM_SCORE_MEAN.text}: DistRL above GRPO",
        figures.RM_SCORE_MEAN.of(BEST),
        figures.RM_SCORE_MEAN.of("grpo ipvrm"),
        3,
        sentence=_TD,
        paper=PaperRows("7", "DistRL", "GRPO", column=0),
    ),
    Claim(
        "Table 7",
        f"{figures.OUTCOME_MEAN.text}: DistRL above GRPO",
        figures.OUTCOME_MEAN.of(BEST),
        figures.OUTCOME_MEAN.of("grpo ipvrm"),
        sentence=_TD,
        paper=PaperRows("7", "DistRL", "GRPO", column=1),
    ),
    Claim(
        "Table 8",
        "avg@8: IPVRM above Implicit PRM, both without ADB and DLW",
        figures.AVERAGE.of("distrl ipvrm naive"),
        figures.AVERAGE.of("distrl implicit_prm"),
        sentence="4.3.4: replacing Implicit PRM with IPVRM improves the average score even without ADB/DLW",
        paper=PaperRows("8", "IPVRM w/o ADB/DLW", "Implicit PRM w/o ADB/DLW"),
    ),
    Claim(
        "Table 8",
        "avg@8: IPVRM with ADB and DLW above IPVRM without",
        figures.AVERAGE.of(BEST),
        figures.AVERAGE.of("distrl ipvrm naive"),
        sentence="4.3.4: adding ADB/DLW further raises it",
        paper=PaperRows("8", "IPVRM w/ ADB/DLW", "IPVRM w/o ADB/DLW"),
    ),
    Claim(
        "Table 9",
        "avg@8: the behaviour policy as reference above the SFT policy",
        figures.AVERAGE.of(BEST),
        figures.AVERAGE.of("distrl ipvrm start"),
        sentence="B: the behavior policy reference consistently outperforms the SFT model",
        paper=PaperRows("9", "Behavior Policy", "SFT Model"),
    ),
    Claim(
        "Fig. 6, right",
        "accuracy of the reward model under naive updates: more than halfway from its start to chance at the end",
        figures.HALFWAY_TO_CHANCE.of("distrl ipvrm naive"),
        figures.RM_ACCURACY.of("distrl ipvrm naive"),
        sentence="4.3.4: RM accuracy quickly collapses toward chance level",
        margin=1.0,
    ),
    *(
        Claim(
            "Fig. 6, left",
            f"{figures.OUTCOME.text}: {LABELS[larger]} above {LABELS[smaller]}",
            figures.OUTCOME.of(larger),
            figures.OUTCOME.of(smaller),
            sentence=sentence,
            margin=0.5,
        )
        for larger, smaller, sentence in (
            ("distrl ipvrm frozen", "distrl ipvrm naive", _NAIVE),
            ("distrl ipvrm dlw", "distrl ipvrm frozen", _STABLE),
            ("distrl ipvrm adb", "distrl ipvrm frozen", _STABLE),
            *((BEST, f"distrl ipvrm {update}", _FULL) for update in UPDATES),
        )
    ),
    *(
        Claim(
            "Fig. 6, right",
            f"{figures.RM_PAIRS.text}: {LABELS[larger]} above {LABELS['distrl ipvrm naive']}",
            figures.RM_PAIRS.of(larger),
            figures.RM_PAIRS.of("distrl ipvrm naive"),
            note="pair accuracy: ADB's boundary knows the prompt's accuracy, this figure does not",
            sentence=_STABLE if larger != BEST else _FULL,
            margin=1.0,
        )
        for larger in ("distrl ipvrm dlw", "distrl ipvrm adb", BEST)
    ),
]


def _td(name: str, figure: str) -> RunFigure:
    return figures.signal(name, figure).of("ipvrm")


PROBE_CLAIMS = [
    Claim(
        "Section 4.3.3",
        "AUC of abs(V) against single rollouts' outcomes above one half",
        _td("abs_value", "auc"),
        0.5,
        3,
        "the paper: 0.64",
        "4.3.3: the absolute prefix value achieves an AUC-ROC of 0.64",
        margin=0.14 / 3,
    ),
    Claim(
        "Section 4.3.3",
        "Pearson of TD with single rollouts' outcomes below 0.1",
        0.1,
        _td("td", "pearson"),
        3,
        "the paper: 0.0226",
        "4.3.3: the correlation between one-step TD and single-rollout binary outcomes is very weak",
        margin=0.0226,
    ),
    Claim(
        "Table 11",
        "candidate sets stay small: average size at P_min 0.1 below 2",
        2.0,
        figures.candidate_set(0.1, "size").of("sft"),
        2,
        "the world was tuned to the paper's 1.33",
        "D: it keeps the candidate set very small in practice",
        margin=0.1,
    ),
    Claim(
        "Table 11",
        "candidate sets keep most of the mass: above 90% at P_min 0.1",
        figures.candidate_set(0.1, "mass").of("sft"),
        0.9,
        3,
        "the paper: 96.11%",
        "D: while still retaining most of the policy mass",
        margin=0.02,
    ),
    Claim(
        "Table 13",
        "a step of DistRL takes at most a tenth longer than one of GRPO",
        figures.STEP_SECONDS_AND_A_TENTH.of("grpo ipvrm"),
        figures.STEP_SECONDS.of(BEST),
        2,
        "seconds as training logs them, with whatever else the machine did; scripts/bench_rl_step.py compares the two properly",
        "F: DistRL incurs only a modest increase in memory, while maintaining comparable computational cost",
        margin=0.05,
    ),
]

OUR_CLAIMS = [
    *(
        Claim(
            OURS,
            f"F1 (process), tagged: IPVRM above {LABELS[rm]}",
            figures.f1("tagged").of("ipvrm"),
            figures.f1("tagged").of(rm),
            margin=1.0,
        )
        for rm in ("q_rm", "endo", "dpo", "implicit_prm")
    ),
    *(
        Claim(
            OURS,
            f"{figures.DROP.text}: {LABELS[rm]} above IPVRM",
            figures.DROP.of(rm),
            figures.DROP.of("ipvrm"),
            margin=1.0,
        )
        for rm in ("dpo", "implicit_prm")
    ),
    *(
        Claim(
            OURS,
            f"{figure.text}: {LABELS[a]} above {LABELS[b]}",
            figure.of(a),
            figure.of(b),
            figure.digits,
            margin=margin,
        )
        for figure, margin in ((figures.FINAL_AUC, 0.01), (figures.TRUE_RANKS, 0.02))
        for a, b in (("ipvrm", "dpo"), ("ipvrm", "implicit_prm"))
    ),
    *(
        Claim(
            OURS,
            f"{figures.FORMAT_SHARE.text}: {LABELS[rm]} above IPVRM",
            figures.FORMAT_SHARE.of(rm),
            figures.FORMAT_SHARE.of("ipvrm"),
            margin=1.0,
        )
        for rm in ("dpo", "implicit_prm")
    ),
    *(
        Claim(
            OURS,
            f"{figures.OVER_SIZES_AT_ONE.text}: IPVRM above {LABELS[rm]}",
            figures.OVER_SIZES_AT_ONE.of("ipvrm"),
            figures.OVER_SIZES_AT_ONE.of(rm),
            margin=1.0,
        )
        for rm in ("dpo", "implicit_prm")
    ),
    *(
        Claim(
            OURS,
            f"{figures.preferred(kind).text}: IPVRM above {LABELS[rm]}",
            figures.preferred(kind).of("ipvrm"),
            figures.preferred(kind).of(rm),
            margin=2.0,
        )
        for kind in ("choice", "misconception")
        for rm in ("endo", "dpo", "implicit_prm")
    ),
    *(
        Claim(
            OURS,
            f"{figures.CREDIT.text}: IPVRM above {LABELS[rm]}",
            figures.CREDIT.of("ipvrm"),
            figures.CREDIT.of(rm),
            3,
            margin=0.02,
        )
        for rm in ("endo", "dpo", "implicit_prm")
    ),
    *(
        Claim(
            OURS,
            f"{figures.credit('share', 'synonym').text}: {LABELS[rm]} above IPVRM",
            figures.credit("share", "synonym").of(rm),
            figures.credit("share", "synonym").of("ipvrm"),
            margin=1.0,
        )
        for rm in ("endo", "dpo", "implicit_prm")
    ),
    *(
        Claim(
            OURS,
            f"{figures.gained(kind).text}: DistRL w/ IPVRM above GRPO w/ IPVRM",
            figures.gained(kind).of(BEST),
            figures.gained(kind).of("grpo ipvrm"),
            2,
            margin=0.1,
        )
        for kind in ("choice, better rarer", "misconception, better rarer", "result, better likelier")
    ),
    Claim(
        OURS,
        "TD ranks the branches of a state as their shares of right rollouts: tau-b above 0",
        _td("td", "agreement"),
        0.0,
        3,
        margin=0.02,
    ),
    Claim(
        OURS,
        "within a state, correlation with true values: TD above the change of the corrected probability",
        _td("td", "within_corrected"),
        _td("probability", "within_corrected"),
        3,
        margin=0.02,
    ),
]

CLAIMS = [*REWARD_MODEL_CLAIMS, *BEST_OF_N_CLAIMS, *POLICY_CLAIMS, *PROBE_CLAIMS, *OUR_CLAIMS]
