"""How good a reward model is on pairs that were kept back: accuracy, ranking, and calibration under both links."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.reward_models.objectives import Objective
from prmbench.stats.auc import ranking_auc
from prmbench.stats.calibration import brier, margin_logit, reliability, sigmoid
from prmbench.training.rm.losses import find_loss

Floats = NDArray[np.float64]


def final_values(values: Sequence[Floats], objective: Objective, beta: float) -> Floats:
    """Score each response by its objective's own convention: beta times the sum or the mean of its token values.

    Args:
        values: Token values, before beta, of each response. Each float64, shape [t].
        objective: The objective.
        beta: Scale of the token values.

    Returns:
        Scores; 0 for a response without tokens. float64, shape [n].
    """
    totals = np.array([v.sum() for v in values])
    lengths = np.array([max(len(v), 1) for v in values])
    return beta * (totals if objective.final == "sum" else totals / lengths)


def held_out_metrics(values: Sequence[Floats], objective: Objective, beta: float, margin: float) -> dict[str, float]:
    """Measure a reward model on pairs.

    Args:
        values: Token values, before beta, of each response. Rows 2i and 2i + 1 are a correct and an incorrect response. Each
            float64, shape [t].
        objective: The objective.
        beta: Scale of the token values.
        margin: Margin m.

    Returns:
        ``loss``: the objective's. ``pair_accuracy``: share of pairs whose correct response has the higher final value; a tie
        counts one half. ``auc``: of the final value against the outcome, over all responses.
        For objectives whose value is a logit also ``prefix_accuracy``: share of a response's prefixes whose value is on the
        outcome's side of 0, mean over responses. And ``brier`` and ``ece`` of prefixes (each response weighs the same) and of
        final values, with the margin's link (`prmbench.stats.calibration.margin_logit`), and ``*_naive`` with the plain
        sigmoid. Without a margin the two are equal.
    """
    correct = np.arange(len(values)) % 2 == 0
    final = final_values(values, objective, beta)
    right, wrong = final[0::2], final[1::2]
    metrics = {
        "loss": _loss(values, objective, beta, margin),
        "pair_accuracy": float(np.mean((right > wrong) + 0.5 * (right == wrong))),
        "auc": ranking_auc(final, correct),
    }
    if not objective.is_logit:
        return metrics
    metrics["prefix_accuracy"] = float(
        np.mean([np.mean((np.cumsum(v) > 0) == c) for v, c in zip(values, correct, strict=True) if len(v)])
    )
    lengths = [len(v) for v in values]
    means = objective.final == "token_mean"
    logits = beta * np.concatenate([np.cumsum(v) / (np.arange(1, len(v) + 1) if means else 1) for v in values])
    outcome = np.repeat(correct.astype(np.float64), lengths)
    weight = np.repeat(1 / np.maximum(lengths, 1), lengths)
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


def _loss(values: Sequence[Floats], objective: Objective, beta: float, margin: float) -> float:
    width = max(1, *(len(v) for v in values))
    padded = torch.from_numpy(np.array([np.pad(v, (0, width - len(v))) for v in values]))
    mask = torch.arange(width)[None, :] < torch.tensor([len(v) for v in values])[:, None]
    correct = torch.arange(len(values)) % 2 == 0
    return float(find_loss(objective)(padded, mask, correct, beta, margin).mean())
