"""Power of paired tests: how many pairs decide a difference, and how large a difference so many pairs decide."""

from __future__ import annotations

import math

POWER = 0.8
LEVEL = 0.95
MOST = 10_000_000
"""More pairs than this are not looked for."""


def power_of(n: int, effect: float, sd: float, level: float = LEVEL) -> float:
    """Compute the probability that a paired t-test decides for a difference of the true mean.

    Args:
        n: Number of pairs, at least 2.
        effect: The true mean difference, in its own direction.
        sd: Standard deviation of the differences between pairs; 0 decides any effect.
        level: Coverage of the interval that must lie on one side of 0.

    Returns:
        The probability that the interval lies wholly on the side of the effect, from the noncentral t distribution.
    """
    if sd <= 0:
        return float(effect != 0)
    from scipy.stats import nct
    from scipy.stats import t as student

    critical = float(student.ppf(0.5 + level / 2, n - 1))
    return float(nct.sf(critical, n - 1, abs(effect) / sd * math.sqrt(n)))


def pairs_needed(effect: float, sd: float, power: float = POWER, level: float = LEVEL) -> int | None:
    """Find the smallest number of pairs that decides a difference with a wanted probability.

    Args:
        effect: The true mean difference.
        sd: Standard deviation of the differences between pairs.
        power: The wanted probability, between 0 and 1.
        level: Coverage of the interval that must lie on one side of 0.

    Returns:
        The number, at least 2; None where there is no effect, where either is no number, or where it takes more than ten million.
    """
    if effect == 0 or math.isnan(effect) or math.isnan(sd):
        return None
    low, high = 2, 2
    while power_of(high, effect, sd, level) < power:
        if high == MOST:
            return None
        low, high = high, min(2 * high, MOST)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle, effect, sd, level) >= power else (middle + 1, high)
    return high


def smallest_effect(n: int, sd: float, power: float = POWER, level: float = LEVEL) -> float:
    """Find the smallest difference that so many pairs decide with a wanted probability.

    Args:
        n: Number of pairs.
        sd: Standard deviation of the differences between pairs.
        power: The wanted probability, between 0 and 1.
        level: Coverage of the interval that must lie on one side of 0.

    Returns:
        The difference, in the unit of `sd`; infinity with fewer than two pairs, 0 where there is no spread, NaN where it is not
        known.
    """
    if n < 2:
        return math.inf
    if math.isnan(sd):
        return math.nan
    if sd <= 0:
        return 0.0
    from scipy.optimize import brentq

    def missing(effect: float) -> float:
        return power_of(n, effect, sd, level) - power

    high = sd
    while missing(high) < 0:
        high *= 2
    return float(brentq(missing, 0.0, high, xtol=1e-9 * sd))
