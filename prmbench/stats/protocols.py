"""From per-step sums of token values to step scores: the four protocols of token-valued models (DESIGN 4.2).

All in logit space: a sigmoid saturates, and the ties it makes would corrupt a threshold search.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TOKEN_PROTOCOLS = ("process", "prefix", "process_mean", "prefix_mean")
STEP_PROTOCOL = "step"
DIRECT = "direct"
"""The protocol, and the threshold policy, of what predicts the first wrong step itself: there is no score and no threshold."""


def token_protocol_scores(sums: Floats, counts: NDArray[np.int64], beta: float) -> dict[str, Floats]:
    """Score the steps of one trace under every protocol.

    - ``prefix``: beta times the sum up to the step's end (Eqs. 5, 30).
    - ``process``: beta times the sum over the step's own tokens (Eq. 31).
    - ``prefix_mean``, ``process_mean``: the same divided by the number of tokens summed; ``prefix_mean`` is v_bar, the
      quantity that IPVRM is trained on (Eq. 9).

    Args:
        sums: float64, shape [n_steps]: sum of token values (before beta) of each step.
        counts: int64, shape [n_steps]: tokens of each step; 0 where a tokenizer gave a step no token of its own, whose
            process scores are then 0, no evidence either way.

    Returns:
        Protocol name to float64, shape [n_steps].
    """
    with np.errstate(invalid="ignore"):  # infinities of both signs give NaN, which the caller refuses by name
        prefix = np.cumsum(sums)
    length = np.cumsum(counts)
    return {
        "process": beta * sums,
        "prefix": beta * prefix,
        "process_mean": beta * sums / np.maximum(counts, 1),
        "prefix_mean": beta * prefix / np.maximum(length, 1),
    }
