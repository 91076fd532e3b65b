"""When half precision puts an implicit model's scores at risk (docs/speed.md says what was measured)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKEN_NOISE = {"bfloat16": 0.04, "float16": 0.007}
"""Standard deviation of the error of a token's log-ratio against float32 (`scripts/bench_numerics.py`, SmolLM2-135M)."""

LIMIT = 0.2
"""Noise as a share of the scores' spread from which F1 was seen to move by two points."""


def precision_warning(dtype: str, sums: NDArray[np.float64], n_tokens: NDArray[np.int64]) -> str | None:
    """Say in a sentence that rounding is not small beside what the scores differ by.

    Errors of tokens are taken as independent, so a sum over n tokens is off by ``TOKEN_NOISE * sqrt(n)``.

    Args:
        dtype: The type that the model computed in.
        sums: Sums of token log-ratios, before beta, of steps or of whole completions. Shape [n].
        n_tokens: Tokens in each sum. Shape [n].

    Returns:
        The sentence; None where rounding is small, or in float32.
    """
    if dtype not in TOKEN_NOISE or len(sums) < 2:
        return None
    noise = TOKEN_NOISE[dtype] * float(np.sqrt(np.median(n_tokens)))
    low, high = np.quantile(sums, [0.25, 0.75])
    spread = float(high - low) / 1.349  # the standard deviation, were they normal; a few far values do not count
    if noise <= LIMIT * spread:
        return None
    return (
        f"{dtype} rounds the log-ratio of {np.median(n_tokens):.0f} tokens by about {noise:.2f}, and half of these scores lie "
        f"within {high - low:.2f} of each other: figures may move by points; score again in float32"
    )


def tell(warnings: list[str]) -> None:
    """Print warnings on stderr, one a line.

    Args:
        warnings: The warnings.
    """
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def tell_usage(usage: dict[str, Any] | None) -> dict[str, Any] | None:
    """Print on stderr what a server was asked for.

    Args:
        usage: What `prmbench.engines.api.engine.ApiEngine.usage` counts; None: there is no server.

    Returns:
        The same.
    """
    if usage is not None:
        cost = f", cost {usage['cost']:g}" if "cost" in usage else ""
        print(
            f"server: {usage['requests']:,} requests answered, {usage['found']:,} more found from before; "
            f"{usage['prompt_tokens']:,} tokens of prompts and {usage['completion_tokens']:,} of replies{cost}; "
            f"{usage['cut']:,} replies cut, {usage['refused']:,} refused",
            file=sys.stderr,
        )
    return usage
