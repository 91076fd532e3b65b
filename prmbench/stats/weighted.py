"""AUC, midranks and correlations under weights, many rows of weights at once: what a bootstrap over clusters needs.

A bootstrap that draws clusters (all branches of a problem, say) with replacement only changes how often each item counts. So every
figure here takes weights, shape [rows, n], and gives one number a row; a row of ones gives the figure itself. SciPy and
scikit-learn take one row of weights at a time or none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Name = TypeVar("Name")

_BLOCK = 1 << 23  # weights held at once


def cluster_weights(cluster: Integers, n_resamples: int, rng: np.random.Generator) -> Floats:
    """Count how often each item is in bootstrap samples that draw whole clusters.

    Args:
        cluster: The cluster of each item, counted from 0 without gaps. Shape [n].
        n_resamples: Number of resamples.
        rng: Source of random numbers.

    Returns:
        The counts. Shape [n_resamples, n].
    """
    n_clusters = int(cluster.max()) + 1
    drawn = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples)
    return drawn[:, cluster].astype(np.float64)


def resample(
    cluster: Integers, figures: Callable[[Floats], dict[Name, Floats]], n_resamples: int, rng: np.random.Generator
) -> dict[Name, Floats]:
    """Compute figures of bootstrap samples that draw clusters, a block of samples at a time.

    Args:
        cluster: The cluster of each item, counted from 0 without gaps. Shape [n].
        figures: Makes figures of shape [rows] from weights of shape [rows, n].
        n_resamples: Number of resamples.
        rng: Source of random numbers.

    Returns:
        Each figure in each resample, shape [n_resamples]; an empty dictionary without resamples.
    """
    block = max(1, _BLOCK // len(cluster))
    sizes = [min(block, n_resamples - start) for start in range(0, n_resamples, block)]
    parts = [figures(cluster_weights(cluster, size, rng)) for size in sizes]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _ties(values: Floats) -> tuple[Integers, Integers, Integers]:
    """Find the order that sorts the values, where each group of ties starts in it, and the group of each sorted value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    new = np.r_[True, ordered[1:] != ordered[:-1]]  # no differences: those of equal infinities are no number
    return order, np.flatnonzero(new), np.cumsum(new) - 1


def weighted_auc(scores: Floats, positive: Floats, negative: Floats) -> Floats:
    """Compute the share of (positive, negative) pairs that the scores order right, where a tie counts one half.

    Args:
        scores: One score an item. Shape [n].
        positive: How much of the positive class each item holds. Shape [rows, n].
        negative: How much of the negative class each item holds. Shape [rows, n].

    Returns:
        The share in each row, between 0 and 1; NaN in a row without one of the classes. Shape [rows].
    """
    order, starts, _ = _ties(scores)
    up = np.add.reduceat(positive[:, order], starts, axis=1)
    down = np.add.reduceat(negative[:, order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    total = up.sum(axis=1) * down.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (up * (below + down / 2)).sum(axis=1) / total, np.nan)


def weighted_midranks(values: Floats, weights: Floats) -> Floats:
    """Rank items that are there several times, where items of equal value share the mean of their ranks.

    Args:
        values: One value an item. Shape [n].
        weights: How often each item is there. Shape [rows, n].

    Returns:
        The rank of each item in each row, from 1. Shape [rows, n].
    """
    order, starts, group = _ties(values)
    mass = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(mass, axis=1) - mass + (mass + 1) / 2
    ranks = np.empty_like(weights)
    ranks[:, order] = middle[:, group]
    return ranks


@dataclass(frozen=True)
class Moments:
    """Weighted sums of squares and of products about the mean, a number a row.

    Attributes:
        xx: Sum of squares of the first variable; 0 where it does not vary beyond rounding. Shape [rows].
        yy: Sum of squares of the second variable; 0 where it does not vary beyond rounding. Shape [rows].
        xy: Sum of products. Shape [rows].
    """

    xx: Floats
    yy: Floats
    xy: Floats


def moments(x: Floats, y: Floats, weights: Floats) -> Moments:
    """Compute the moments of two variables under each row of weights.

    Args:
        x: The first variable. Shape [n] or [rows, n].
        y: The second variable. Shape [n].
        weights: How much each item counts. Shape [rows, n].

    Returns:
        The sums about the weighted means.
    """
    n = weights.sum(axis=1)
    x = x - np.mean(x, axis=-1, keepdims=True)  # against cancellation
    y = y - y.mean()
    wx = weights * x
    sx, sy = wx.sum(axis=1), weights @ y
    xx, xy, yy = (wx * x).sum(axis=1), wx @ y, weights @ (y * y)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Moments(_beyond_rounding(xx - sx**2 / n, xx), _beyond_rounding(yy - sy**2 / n, yy), xy - sx * sy / n)


def _beyond_rounding(square: Floats, raw: Floats) -> Floats:
    """Put 0 where a difference of squares is within the rounding of what it was taken from."""
    return np.where(square > 1e-12 * raw, square, 0.0)


def ratio(product: Floats, square: Floats) -> Floats:
    """Divide a product by the square root of a square, which makes a correlation of moments.

    Args:
        product: Sums of products. Shape [rows].
        square: Products of the two sums of squares. Shape [rows].

    Returns:
        The ratio; NaN where the square is not positive beyond rounding. Shape [rows].
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(square > 1e-24, product / np.sqrt(np.maximum(square, 1e-300)), np.nan)
