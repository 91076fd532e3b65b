"""From per-step sums of token values to step scores: the four protocols of token-valued models (docs/protocols.md).

All scores are in logit space, because a sigmoid saturates, and the ties that it makes would corrupt a threshold search.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TOKEN_PROTOCOLS = ("process", "prefix", "process_mean", "prefix_mean")
STEP_PROTOCOL = "step"
DIRECT = "direct"
"""The protocol, and the threshold rule, of a subject that predicts the first wrong step itself: it has no score, no threshold."""


def token_protocol_scores(sums: Floats, counts: NDArray[np.int64], beta: float) -> dict[str, Floats]:
    """Score the steps of one trace under every protocol.

    - ``prefix`` is beta times the sum up to the end of the step (Eqs. 5, 30).
    - ``process`` is beta times the sum over the step's own tokens (Eq. 31).
    - ``prefix_mean`` and ``process_mean`` are the same divided by the number of tokens summed. ``prefix_mean`` is v_bar, the
      quantity that IPVRM is trained on (Eq. 9).

    Args:
        sums: Sum of the token values of each step, before beta. Shape [n_steps].
        counts: Number of tokens of each step. It is 0 where the tokenizer gave a step no token of its own; the process scores
            of such a step are 0, which is no evidence either way. Shape [n_steps].
        beta: Scale of the sums.

    Returns:
        For each protocol, the score of each step. Shape [n_steps].
    """
    with np.errstate(invalid="ignore"):  # infinities of both signs give NaN, which the caller refuses by name
        prefix = np.cumsum(sums)
    return {
        "process": beta * sums,
        "prefix": beta * prefix,
        "process_mean": beta * sums / np.maximum(counts, 1),
        "prefix_mean": beta * prefix / np.maximum(np.cumsum(counts), 1),
    }
