"""How good a reward model is on pairs that were kept back: accuracy, ranking, and calibration under both links."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.stats.auc import ranking_auc
from prmbench.stats.calibration import brier, margin_logit, reliability, sigmoid
from prmbench.training.objectives import ObjectiveSpec

Floats = NDArray[np.float64]


def final_values(values: Sequence[Floats], spec: ObjectiveSpec, beta: float) -> Floats:
    """Each response's score by its objective's own convention: beta times the sum or the mean of its token values.

    Args:
        values: token values (before beta) of each response, each float64, shape [t].

    Returns:
        float64, shape [n]; 0 for a response without tokens.
    """
    totals = np.array([v.sum() for v in values])
    lengths = np.array([max(len(v), 1) for v in values])
    return beta * (totals if spec.final == "sum" else totals / lengths)


def held_out_metrics(values: Sequence[Floats], spec: ObjectiveSpec, beta: float, margin: float) -> dict[str, float]:
    """Metrics of pairs: rows 2i and 2i + 1 are a correct and an incorrect response.

    Returns:
        ``loss``: the objective's. ``pair_accuracy``: share of pairs whose correct response has the higher final value, ties one
        half. ``auc``: of the final value against the outcome, over all responses.
        For objectives whose value is a logit also ``prefix_accuracy``: share of a response's prefixes whose value is on the
        outcome's side of 0, mean over responses; and over prefixes (each response weighs the same) and for final values:
        ``brier`` and ``ece`` with the margin's link (`prmbench.stats.calibration.margin_logit`), and ``*_naive`` with the plain
        sigmoid. Without a margin the two are equal.
    """
    correct = np.arange(len(values)) % 2 == 0
    final = final_values(values, spec, beta)
    right, wrong = final[0::2], final[1::2]
    metrics = {
        "loss": _loss(values, spec, beta, margin),
        "pair_accuracy": float(np.mean((right > wrong) + 0.5 * (right == wrong))),
        "auc": ranking_auc(final, correct),
    }
    if not spec.logit:
        return metrics
    metrics["prefix_accuracy"] = float(
        np.mean([np.mean((np.cumsum(v) > 0) == c) for v, c in zip(values, correct, strict=True) if len(v)])
    )
    prefixes = [beta * np.cumsum(v) / (1 if spec.final == "sum" else np.arange(1, len(v) + 1)) for v in values]
    logits = np.concatenate(prefixes)
    outcome = np.concatenate([np.full(len(v), float(c)) for v, c in zip(values, correct, strict=True)])
    weight = np.concatenate([np.full(len(v), 1 / max(len(v), 1)) for v in values])
    for link, m in (("", margin), ("_naive", 0.0)):
        over_prefixes = sigmoid(margin_logit(logits, m))
        at_end = sigmoid(margin_logit(final, m))
        metrics |= {
            f"prefix_brier{link}": brier(over_prefixes, outcome, weight),
            f"prefix_ece{link}": reliability(over_prefixes, outcome, weight).ece(),
            f"final_brier{link}": brier(at_end, correct.astype(np.float64)),
            f"final_ece{link}": reliability(at_end, correct.astype(np.float64)).ece(),
        }
    return metrics


def _loss(values: Sequence[Floats], spec: ObjectiveSpec, beta: float, margin: float) -> float:
    width = max(1, *(len(v) for v in values))
    padded = torch.zeros(len(values), width, dtype=torch.float64)
    mask = torch.zeros(len(values), width, dtype=torch.bool)
    for i, v in enumerate(values):
        padded[i, : len(v)] = torch.from_numpy(v)
        mask[i, : len(v)] = True
    correct = torch.arange(len(values)) % 2 == 0
    return float(spec.loss(padded, mask, correct, beta, margin).mean())
