"""Values at the ends of steps against rates of right continuations (docs/protocols.md, "Calibration")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.calibration.schema import (
    N_BINS,
    CalibrationMetrics,
    StateLink,
    StateResult,
    StateValues,
)
from prmbench.benchmarks.clustered import clustered_estimates, numbered
from prmbench.errors import UserError
from prmbench.results.schema import Estimate
from prmbench.reward_models.objectives import Convention
from prmbench.stats.calibration import ece_rows, margin_logit, reliability, sigmoid
from prmbench.stats.rollout_labels import share_intervals
from prmbench.stats.weighted import weighted_auc

Floats = NDArray[np.float64]


def compute_states(
    items: Sequence[StateValues], convention: Convention, margin: float, *, n_resamples: int, seed: int
) -> CalibrationMetrics:
    """Compare values with rates of right continuations. Intervals draw problems with replacement.

    A problem's continuations are drawn with it, so that intervals hold the noise of the rates as well as the choice of problems.

    Args:
        items: The items of one run.
        convention: How the subject's value follows from sums of token values.
        margin: The margin of the link; 0 where the value is a logit itself.
        n_resamples: Bootstrap resamples; 0 gives no intervals.
        seed: Seed of the draws.

    Raises:
        UserError: No state has a token.
    """
    # One state a row. Those without a token before them (blank first steps) have no mean, and are left out.
    owner = np.repeat(numbered([(item.subset, item.problem) for item in items]), [len(item.t) for item in items])
    t, value, right, trials = (
        np.concatenate([np.asarray(getattr(item, name), dtype=np.float64) for item in items])
        for name in ("t", "values", "successes", "trials")
    )
    some = t > 0
    if not some.any():
        raise UserError("no step that was continued has a token before its end; nothing to compare")
    owner, t, value, right, trials = numbered(owner[some].tolist()), t[some], value[some], right[some], trials[some]
    value = convention.beta * value / (t if convention.own == "token_mean" else 1.0)
    rate = right / trials
    links = {"margin": margin, "naive": 0.0} if margin else {"margin": 0.0}
    read = {name: sigmoid(margin_logit(value, m)) for name, m in links.items()}
    low, high = share_intervals(right.astype(np.int64), trials.astype(np.int64))
    # Each figure is a mean over states; the noise of a rate is taken out of its squared error where there are two continuations.
    coin = rate * (1 - rate)
    noise = np.where(trials > 1, coin / np.maximum(trials - 1, 1), np.nan)

    def figures(w: Floats) -> dict[str, Floats]:
        total = w.sum(axis=1)
        found = {"auc": weighted_auc(value, w * right, w * (trials - right)), "rate": w @ rate / total}
        for name, p in read.items():
            square = (p - rate) ** 2
            found[f"{name} predicted"] = w @ p / total
            found[f"{name} brier"] = w @ (square + coin) / total
            found[f"{name} error"] = w @ (square - noise) / total
            found[f"{name} ece"] = ece_rows(p, rate, w, N_BINS)
            found[f"{name} inside"] = w @ ((low <= p) & (p <= high)) / total
        return found

    found = clustered_estimates(owner, figures, n_resamples, seed, frozenset({"rate"}))
    mean = float(rate.mean())
    return CalibrationMetrics(
        n_rollouts=len(items),
        pass_rate=found["rate"],
        brier_constant=mean * (1 - mean),
        parts=[],
        states=StateResult(
            n_states=len(rate),
            n_continuations=int(trials[0]),
            auc=found["auc"],
            error_constant=_defined(float(np.mean((rate - mean) ** 2 - noise))),
            links={
                name: StateLink(
                    **{key: found[f"{name} {key}"] for key in ("predicted", "brier", "error", "ece", "inside")},
                    diagram=_diagram(p, rate, owner, n_resamples, seed),
                )
                for name, p in read.items()
            },
        ),
    )


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value


def _diagram(
    p: Floats, rate: Floats, owner: NDArray[np.int64], n_resamples: int, seed: int
) -> list[tuple[float, Estimate, float]]:
    """Mean prediction, rate with its interval, and share of the states, in each bin that is not empty."""
    bins = reliability(p, rate, n_bins=N_BINS)
    place = np.minimum((p * N_BINS).astype(np.int64), N_BINS - 1)
    inside = (place[:, None] == np.arange(N_BINS)).astype(np.float64)

    def rates(w: Floats) -> dict[str, Floats]:
        with np.errstate(invalid="ignore"):
            of = (w * rate) @ inside / (w @ inside)
        return {str(i): of[:, i] for i in np.flatnonzero(bins.share > 0)}

    found = clustered_estimates(owner, rates, n_resamples, seed)
    return [(float(bins.predicted[i]), found[str(i)], float(bins.share[i])) for i in np.flatnonzero(bins.share > 0)]
