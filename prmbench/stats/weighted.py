"""AUC, midranks and correlations under weights, many rows of weights at once: what a bootstrap over clusters needs.

A bootstrap that draws clusters (all branches of a problem, say) with replacement only changes how often each item counts. So every
figure here takes weights, float64, shape [rows, n], and gives one number a row; a row of ones is the figure itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK = 1 << 23  # weights held at once


def cluster_weights(cluster: NDArray[np.int64], n_resamples: int, rng: np.random.Generator) -> Floats:
    """How often each item is in bootstrap samples that draw whole clusters.

    Args:
        cluster: int64, shape [n], from 0 without gaps.

    Returns:
        float64, shape [n_resamples, n].
    """
    n_clusters = int(cluster.max()) + 1
    drawn = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples)
    return drawn[:, cluster].astype(np.float64)


def resample(
    cluster: NDArray[np.int64],
    figures: Callable[[Floats], dict[str, Floats]],
    n_resamples: int,
    rng: np.random.Generator,
) -> dict[str, Floats]:
    """Figures of bootstrap samples that draw clusters, a block of samples at a time.

    Args:
        cluster: as in `cluster_weights`. figures: of weights, float64, shape [rows, n]; a number a row each.

    Returns:
        Each float64, shape [n_resamples]; empty without resamples.
    """
    block = max(1, _BLOCK // len(cluster))
    parts: list[dict[str, Floats]] = []
    for start in range(0, n_resamples, block):
        parts.append(figures(cluster_weights(cluster, min(block, n_resamples - start), rng)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _ties(values: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(order that sorts values, start of each group of ties in it, group of each sorted value)."""
    order = np.argsort(values, kind="stable")
    new = np.r_[True, np.diff(values[order]) != 0]
    return order, np.flatnonzero(new), np.cumsum(new) - 1


def weighted_auc(scores: Floats, positive: Floats, negative: Floats) -> Floats:
    """Share of (positive, negative) pairs that the scores order right, ties counting one half.

    Args:
        scores: float64, shape [n]. positive, negative: float64, shape [rows, n]: how much of each class every item holds.

    Returns:
        float64, shape [rows]; NaN in a row without one of the classes.
    """
    order, starts, _ = _ties(scores)
    up = np.add.reduceat(positive[:, order], starts, axis=1)
    down = np.add.reduceat(negative[:, order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    total = up.sum(axis=1) * down.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (up * (below + down / 2)).sum(axis=1) / total, np.nan)


def weighted_midranks(values: Floats, weights: Floats) -> Floats:
    """Midranks when item i is there weights[:, i] times. values: shape [n]. Returns float64, shape [rows, n]."""
    order, starts, group = _ties(values)
    mass = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(mass, axis=1) - mass + (mass + 1) / 2
    ranks = np.empty_like(weights)
    ranks[:, order] = middle[:, group]
    return ranks


@dataclass(frozen=True)
class Moments:
    """Weighted sums of squares and products about the mean, a number a row.

    Attributes:
        n: sum of the weights. xx, yy, xy: float64, shape [rows].
    """

    n: Floats
    xx: Floats
    yy: Floats
    xy: Floats


def moments(x: Floats, y: Floats, weights: Floats) -> Moments:
    """Of two variables; one that does not vary in a row (beyond rounding) has squares of 0 there.

    Args:
        x: float64, shape [n] or [rows, n]. y: float64, shape [n]. weights: float64, shape [rows, n].
    """
    n = weights.sum(axis=1)
    x = x - np.mean(x, axis=-1, keepdims=True)  # against cancellation
    y = y - y.mean()
    wx = weights * x
    sx, sy = wx.sum(axis=1), weights @ y
    xx, xy, yy = (wx * x).sum(axis=1), wx @ y, weights @ (y * y)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Moments(n, _beyond_rounding(xx - sx**2 / n, xx), _beyond_rounding(yy - sy**2 / n, yy), xy - sx * sy / n)


def _beyond_rounding(square: Floats, raw: Floats) -> Floats:
    """0 where a difference of squares is within the rounding of what it was taken from."""
    return np.where(square > 1e-12 * raw, square, 0.0)


def ratio(product: Floats, square: Floats) -> Floats:
    """product / sqrt(square): a correlation; NaN where the square is not positive (beyond rounding)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(square > 1e-24, product / np.sqrt(np.maximum(square, 1e-300)), np.nan)
