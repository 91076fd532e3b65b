"""What is measured of held-out steps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from prmbench.stats.auc import ranking_auc
from prmbench.stats.calibration import brier, reliability, sigmoid
from prmbench.training.prm.losses import beta_binomial_losses, pair_losses, step_losses

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def step_metrics(logits: Floats, targets: Floats) -> dict[str, float]:
    """Measure step logits against their targets.

    Args:
        logits: Logits. float64, shape [n].
        targets: Probability that each step is right. float64, shape [n].

    Returns:
        ``loss``: mean cross-entropy. ``accuracy``: share of steps whose logit is on the side of 0.5 that the target is on.
        ``auc``: of the logit against targets above 0.5; NaN where all are on one side. ``brier`` and ``ece`` of the probability.
    """
    losses = step_losses(torch.from_numpy(logits), torch.from_numpy(targets))
    right, probability = targets > 0.5, sigmoid(logits)
    return {
        "loss": float(losses.mean()),
        "accuracy": float(np.mean((logits > 0) == right)),
        "auc": ranking_auc(logits, right),
        "brier": brier(probability, targets),
        "ece": reliability(probability, targets).ece(),
    }


def count_metrics(logits: Floats, concentrations: Floats, successes: Floats, trials: Floats) -> dict[str, float]:
    """Measure means and concentrations against counts of right continuations.

    Args:
        logits: Logits of the means. float64, shape [n].
        concentrations: Concentrations. float64, shape [n].
        successes: Right continuations. float64, shape [n].
        trials: All continuations, at least 1. float64, shape [n].

    Returns:
        What `step_metrics` gives of the means against the shares of right continuations; but ``loss`` is the mean negative
        log-likelihood of the counts, without the penalty of the training. ``concentration``: their mean.
    """
    losses = beta_binomial_losses(*map(torch.from_numpy, (logits, concentrations, successes, trials)))
    shares = step_metrics(logits, successes / trials)
    return {**shares, "loss": float(losses.mean()), "concentration": float(concentrations.mean())}


def pair_metrics(values: Floats, better: Indices, worse: Indices) -> dict[str, float]:
    """Measure values of prefixes by the pairs that they put in order.

    Args:
        values: Values. float64, shape [n].
        better: Index of the prefix of a pair with the larger gain. int64, shape [n_pairs].
        worse: Index of the other. int64, shape [n_pairs].

    Returns:
        ``loss``: mean loss of the pairs. ``pair_accuracy``: share of pairs in the right order; a tie counts half.
    """
    losses = pair_losses(*map(torch.from_numpy, (values, better, worse)))
    difference = values[better] - values[worse]
    return {"loss": float(losses.mean()), "pair_accuracy": float(np.mean((difference > 0) + 0.5 * (difference == 0)))}
