"""The scores of a whole response, or of a prefix of one, that follow from what a reward model gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prmbench.reward_models.objectives import Convention
from prmbench.stats.calibration import margin_logit, sigmoid
from prmbench.stats.selection import AGGREGATIONS, aggregate

Floats = NDArray[np.float64]

STEP_NAMES = AGGREGATIONS
TOKEN_NAMES = ("token_mean", "sum", "decayed_sum", *AGGREGATIONS)


def scores_of_steps(scores: Floats) -> dict[str, float]:
    """Make every score of a response from the scores of its steps.

    Args:
        scores: A score a step, in logit space. Shape [n_steps].
    """
    return {how: aggregate(scores, how) for how in AGGREGATIONS}


def scores_of_tokens(
    total: float, length: int, sums: Floats, weighted: float | None, convention: Convention
) -> dict[str, float]:
    """Make every score of a response from the values of its tokens.

    Args:
        total: The sum of all values, before beta.
        length: Number of tokens.
        sums: The sum of each step's values, before beta. Shape [n_steps].
        weighted: The sum with weights that decay with the position, before beta; None where the model has none.
        convention: How the model scores a response; gives beta.
    """
    beta = convention.beta
    found = {"token_mean": beta * total / max(length, 1), "sum": beta * total}
    if weighted is not None:
        found["decayed_sum"] = beta * weighted
    return found | {how: aggregate(beta * sums, how) for how in AGGREGATIONS}


def vote_weights(scores: Floats, how: str, convention: Convention) -> Floats:
    """Make weights of votes from scores: the probabilities that they stand for.

    Args:
        scores: A score a response. Shape [n].
        how: Which score it is. A logarithm of a product of probabilities is no logit: its votes are the probabilities themselves.
        convention: How the model scores a response; gives the margin of the link, which is of its own score alone.

    Returns:
        Weights of at least 0. Shape [n].
    """
    if how == "product":
        return np.exp(scores)
    margin = convention.margin if how == convention.own else None
    return sigmoid(margin_logit(scores, margin or 0.0))
