"""Rows of the studies, of the shape that runs leave, drawn at random."""

from __future__ import annotations

import numpy as np

from prmbench.miniature.solutions import FORMATS
from prmbench.results.schema import digest
from prmbench.studies.measure_decisions import TOKEN_KINDS
from prmbench.studies.measure_reward_models import BEST_OF
from prmbench.studies.our_tables import OUR_TABLES, PLACES
from prmbench.studies.paper_tables import TABLES

EVERYTHING = list(dict.fromkeys(run for layout in (*TABLES, *OUR_TABLES) for run in layout.runs))
SIGNALS = ("td", "value", "abs_value", "mean_value", "probability", "policy")
OF_SIGNAL = (
    "auc",
    "pearson",
    "spearman",
    "pearson_mean",
    "corrected",
    "within",
    "within_mean",
    "within_corrected",
    "agreement",
)


def row(run, seed):
    """Figures of the shape that the run leaves, drawn at random."""
    rng = np.random.default_rng(int(digest([run.kind, run.name, seed])[:8], 16))

    def value():
        return float(rng.random())

    if run.kind == "reward model":
        f1, content = ({form: {p: value() for p in ("process", "prefix")} for form in FORMATS} for _ in range(2))
        return {
            "f1": {"crossfit": f1},
            "f1_content": {"crossfit": content},
            "auc_final": value(),
            "format_share": {"absolute": value()},
        } | {
            "truth": {"spearman": value()}
            | {
                link: {part: [value() for _ in range(4)] for part in ("predicted", "observed", "share")}
                for link in ("margin", "naive")
            }
        }
    if run.kind == "best-of-n":
        sizes = {str(n): {"expected": {"value": value()}} for n in BEST_OF}
        baselines = {
            name: {str(n): {"expected": {"value": value()}} for n in BEST_OF} for name in ("pass", "majority", "mean")
        }
        figures = {"scores": {"prefix_mean": sizes}, "baselines": baselines}
        return {"figures": figures, "at_one": figures}
    if run.kind == "policy":
        names = ("rollouts/accuracy", "reward_model/accuracy", "reward_model/pair_accuracy", "reward_model/score")
        history = [{name: value() for name in names} for _ in range(9)]
        moves = {
            "decisions": {place: {"gain": value()} for place in PLACES},
            "tokens": {kind: value() for kind in TOKEN_KINDS},
        }
        return {"right": rng.integers(0, 9, 20).tolist(), "n": 8, "history": history, "moves": moves}
    if run.kind == "step":
        return {"seconds": value(), "peak_gib": value()}
    if run.kind == "credit":
        return {
            "decisions": {
                kind: {"agreement": value(), "pearson": value()} for kind in ("choice", "result", "misconception")
            },
            "tokens": {kind: {"share": value(), "pearson": value()} for kind in TOKEN_KINDS},
            "pearson": value(),
            "rare": [{"n": 1, "td": value(), "advantage": value()} for _ in range(3)]
            + [{"n": 0, "td": None, "advantage": None}],
        }
    if run.kind == "candidates":
        return {
            "metrics": {
                "p_min": {
                    p: {k: {"value": value()} for k in ("size", "mass", "several")} for p in ("0.05", "0.1", "0.2")
                }
            }
        }
    signals = {s: {f: {"value": value()} for f in OF_SIGNAL} for s in SIGNALS}
    return {"metrics": {"branches": {"signals": signals}}}
