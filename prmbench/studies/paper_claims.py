"""The paper's sentences as claims, one to one, and apart from them the claims that are ours.

Each names the sentence that it is; a few are read from a table, and say so. Most were written before any seed was run. Some were
added or mended when six seeds had been seen, for what the sentences say and not for what came out; docs/replicate.md names them.
Where the paper's shift of format is meant (ProcessBench), the figure is the mean over the shifted formats. Where the paper averages
over training, so does the figure.
"""

from __future__ import annotations

import dataclasses

from prmbench.studies import figures
from prmbench.studies.claims import OURS, Claim, PaperRows
from prmbench.studies.figures import Figure, RunDifference, RunFigure, RunRatio
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
    table = where.partition(",")[0].removeprefix("Table ")
    rows = PaperRows(table, PAPER_NAMES[larger], PAPER_NAMES[smaller])
    return Claim(where, text, figure.of(larger), figure.of(smaller), figure.digits, note, sentence, rows)


def _no_worse(
    where: str, figure: Figure, larger: str, smaller: str, sentence: str, margin: float | None = None
) -> Claim:
    """The same, where the paper says only that the figure is no worse."""
    claim = _above(where, figure, larger, smaller, sentence)
    text = claim.text.replace(" above ", " at least as good as ")
    return dataclasses.replace(claim, text=text, at_least=True, margin=margin)


_BON = "4.2.1: IPVRM generally matches or improves over prior implicit reward models"
_COMPETITIVE = "4.2.1: remaining competitive with the strong explicit baseline Q-RM"
_PB = "4.2.1: IPVRM yields substantially stronger error localization across backbones"
_UNDER = "4.2.1: sequence-level objectives such as DPO-RM and Implicit PRM underperform both Q-RM and IPVRM"
_LATE = "4.2.2: on BoN, IPVRM late performs best"
_EARLY = "4.2.2: on ProcessBench, IPVRM early achieves the best F1"
_BALANCED = "4.2.2: the standard uniform objective remains the most balanced default across both settings"
_MARGIN = (
    "D: moving from m = 5 to m = 10 changes performance only slightly, removing the margin causes a clearer degradation"
)
_READ = "Table 5, read from its rows: the rivals are above SFT"
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
    _above("Table 2", figures.shifted_f1(), "ipvrm", "endo", _PB),
    *(
        _above("Table 2, 14", figures.shifted_f1(), "ipvrm", rm, f"{_PB}; {_BOTH}", "one test for both tables")
        for rm in ("dpo", "implicit_prm")
    ),
    *(_above("Table 2", figures.shifted_f1(), "q_rm", rm, _UNDER) for rm in ("dpo", "implicit_prm")),
    *(
        _above("Table 4", figures.shifted_f1(), larger, smaller, _EARLY)
        for larger, smaller in (("ipvrm_early", "ipvrm"), ("ipvrm_early", "ipvrm_late"))
    ),
    _above("Table 4", figures.shifted_f1(), "ipvrm", "ipvrm_late", _BALANCED),
    *(
        Claim(
            "Table 14",
            f"{figures.shifted_f1('prefix').text}: IPVRM above {LABELS[rm]}",
            figures.shifted_f1("prefix").of("ipvrm"),
            figures.shifted_f1("prefix").of(rm),
            sentence=_BOTH,
            paper=PaperRows("14", "IPVRM, prefix-based", f"{PAPER_NAMES[rm]}, prefix-based"),
        )
        for rm in ("dpo", "implicit_prm")
    ),
    *(
        Claim(
            "Table 14",
            f"{LABELS[rm]}, shifted formats: process F1 above prefix F1",
            figures.shifted_f1("process").of(rm),
            figures.shifted_f1("prefix").of(rm),
            sentence=_PROCESS,
            paper=PaperRows("14", f"{PAPER_NAMES[rm]}, process-level", f"{PAPER_NAMES[rm]}, prefix-based"),
        )
        for rm in ("dpo", "implicit_prm", "ipvrm")
    ),
    *(
        Claim(
            "Table 10",
            f"{figures.shifted_f1().text}: {LABELS[rm]} above {LABELS['ipvrm m=0']}",
            figures.shifted_f1().of(rm),
            figures.shifted_f1().of("ipvrm m=0"),
            sentence=_MARGIN,
            paper=PaperRows("10", title, "m = 0"),
        )
        for rm, title in (("ipvrm", "m = 5"), ("ipvrm m=10", "m = 10"))
    ),
]

BEST_OF_N_CLAIMS = [
    *(_no_worse("Table 1", figures.OVER_SIZES, "ipvrm", rm, _BON) for rm in ("endo", "dpo", "implicit_prm")),
    _no_worse("Table 1", figures.OVER_SIZES, "ipvrm", "q_rm", _COMPETITIVE, margin=1.0),
    Claim(
        "Table 1",
        "IPVRM: Best-of-64 above Best-of-4",
        figures.best_of(64).of("ipvrm"),
        figures.best_of(4).of("ipvrm"),
        sentence="Table 1, read from its columns: accuracy rises with N (MATH-500)",
        paper=PaperRows("1", "IPVRM", "IPVRM", column=2, smaller_column=0),
    ),
    *(
        _above("Table 3", figures.OVER_SIZES, larger, smaller, _LATE)
        for larger, smaller in (("ipvrm_late", "ipvrm"), ("ipvrm_late", "ipvrm_early"))
    ),
    _above("Table 3", figures.OVER_SIZES, "ipvrm", "ipvrm_early", _BALANCED),
    *(
        Claim(
            "Table 10",
            f"{figures.OVER_SIZES.text}: {LABELS[rm]} above {LABELS['ipvrm m=0']}",
            figures.OVER_SIZES.of(rm),
            figures.OVER_SIZES.of("ipvrm m=0"),
            sentence=_MARGIN,
            paper=PaperRows("10", title, "m = 0", column=0),
        )
        for rm, title in (("ipvrm", "m = 5"), ("ipvrm m=10", "m = 10"))
    ),
    Claim(
        "Table 10",
        "what removing the margin costs: in Best-of-N more than in F1 (process), shifted formats",
        figures.OVER_SIZES.minus("ipvrm", "ipvrm m=0"),
        figures.shifted_f1().minus("ipvrm", "ipvrm m=0"),
        note="the paper's own table has 2.0 and 2.1",
        sentence="D: removing the margin causes a clearer degradation, especially on BoN",
        margin=1.0,
    ),
]

POLICY_CLAIMS = [
    *(
        _above("Table 5", figures.AVERAGE, BEST, other, _BEST)
        for other in ("sft", "prime", "spro", "reinforce q_rm", "grpo", "grpo dpo")
    ),
    *(_above("Table 5", figures.AVERAGE, other, "sft", _READ) for other in ("prime", "spro", "reinforce q_rm", "grpo")),
    *(_above("Table 6", figures.AVERAGE, f"distrl {rm}", f"grpo {rm}", _CONSISTENT) for rm in ("dpo", "implicit_prm")),
    _above("Table 6, 5", figures.AVERAGE, BEST, "grpo ipvrm", f"{_CONSISTENT}; {_BEST}", "one test for both tables"),
    *(
        _above("Table 6", figures.AVERAGE, f"{method} ipvrm", f"{method} {rm}", _STRONGEST)
        for method in ("grpo", "distrl")
        for rm in ("dpo", "implicit_prm")
    ),
    _above(
        "Table 6", figures.AVERAGE, BEST, "grpo implicit_prm", "4.3.2: the strongest combination remains IPVRM + DistRL"
    ),
    *(
        Claim(
            "Table 6",
            f"avg@8: what DistRL adds to GRPO is larger with IPVRM than with {LABELS[rm]}",
            figures.AVERAGE.minus(BEST, "grpo ipvrm"),
            figures.AVERAGE.minus(f"distrl {rm}", f"grpo {rm}"),
            note=f"in the paper +0.4 against {first}, and +0.1 against +0.2",
            sentence="5: distribution-level updates are most effective when supported by reliable prefix values",
            margin=0.1 / 3,
        )
        for rm, first in (("dpo", "+0.1"), ("implicit_prm", "+1.4"))
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
        note="how quickly is not tested; the start is one batch",
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
    Claim(
        "Fig. 6, right",
        f"{figures.RM_ACCURACY.text}: {LABELS['distrl ipvrm dlw']} above {LABELS['distrl ipvrm naive']}",
        figures.RM_ACCURACY.of("distrl ipvrm dlw"),
        figures.RM_ACCURACY.of("distrl ipvrm naive"),
        sentence=_STABLE,
        margin=1.0,
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
        for larger in ("distrl ipvrm adb", BEST)
    ),
]


def _td(name: str, figure: str) -> RunFigure:
    return figures.signal(name, figure).of("ipvrm")


def _mass(p_min: float) -> RunFigure:
    """The mass of the candidates at a threshold."""
    return figures.candidate_set(p_min, "mass").of("sft")


PROBE_CLAIMS = [
    Claim(
        "Section 4.3.3",
        "AUC of abs(V) against single rollouts' outcomes above one half",
        _td("abs_value", "auc"),
        0.5,
        3,
        "the paper: 0.64; of V itself see ours",
        "4.3.3: the absolute prefix value achieves an AUC-ROC of 0.64",
        margin=0.14 / 3,
    ),
    Claim(
        "Section 4.3.3",
        "Pearson of TD with single rollouts' outcomes below 0.1",
        0.1,
        _td("td", "pearson"),
        3,
        "the paper: 0.0226; the bound is ours",
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
        _mass(0.1),
        0.9,
        3,
        "the paper: 96.11%",
        "D: while still retaining most of the policy mass",
        margin=0.02,
    ),
    Claim(
        "Table 11",
        "more mass is lost from P_min 0.1 to 0.2 than is gained from 0.1 to 0.05",
        RunDifference(_mass(0.1), _mass(0.2)),
        RunDifference(_mass(0.05), _mass(0.1)),
        3,
        "the paper: 2.53% and 1.46%",
        "D: lower thresholds yield only limited additional coverage, larger ones discard nontrivial policy mass",
        margin=0.01 / 3,
    ),
    *(
        Claim(
            "Table 13",
            f"{figure.text}: DistRL takes at most a tenth more than GRPO",
            1.1,
            RunRatio(figure.of(BEST), figure.of("grpo ipvrm")),
            2,
            "the tenth is ours",
            "F: DistRL incurs only a modest increase in memory, while maintaining comparable computational cost",
            margin=0.05,
        )
        for figure in (figures.STEP_SECONDS, figures.PEAK_MEMORY)
    ),
]

OUR_CLAIMS = [
    Claim(
        OURS,
        f"{figures.shifted_f1().text}: IPVRM above Q-RM",
        figures.shifted_f1().of("ipvrm"),
        figures.shifted_f1().of("q_rm"),
        margin=1.0,
    ),
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
        "AUC of V against single rollouts' outcomes above one half",
        _td("value", "auc"),
        0.5,
        3,
        margin=0.02,
    ),
    Claim(
        OURS,
        f"{figures.RM_ACCURACY.text}: {LABELS['distrl ipvrm naive']} above {LABELS['distrl ipvrm frozen']}",
        figures.RM_ACCURACY.of("distrl ipvrm naive"),
        figures.RM_ACCURACY.of("distrl ipvrm frozen"),
        margin=1.0,
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
