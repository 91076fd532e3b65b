"""Is a prefix value a probability of a right answer? Both ways to read one off it (docs/protocols.md, "Calibration")."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.calibration.schema import (
    N_BINS,
    PARTS,
    CalibrationMetrics,
    LinkResult,
    PartResult,
    RolloutValues,
    StateValues,
)
from prmbench.benchmarks.calibration.state_metrics import compute_states
from prmbench.benchmarks.clustered import clustered_estimates, numbered
from prmbench.errors import UserError
from prmbench.results.schema import Subject
from prmbench.reward_models.objectives import Convention
from prmbench.stats.calibration import ece_rows, margin_logit, reliability, sigmoid
from prmbench.stats.weighted import weighted_auc

Floats = NDArray[np.float64]


def compute_calibration(
    items: Sequence[RolloutValues | StateValues], subject: Subject, *, n_resamples: int, seed: int
) -> CalibrationMetrics:
    """Compute all figures, from items and the subject. Intervals draw problems with replacement.

    Args:
        items: The items of one run.
        subject: What was evaluated; gives beta and the link from values to probabilities.
        n_resamples: Bootstrap resamples; 0 gives no intervals.
        seed: Seed of the draws.

    Raises:
        UserError: The subject's values are not known to be logits.
    """
    convention = Convention.of(subject)
    margin = convention.margin
    labelled = [item for item in items if isinstance(item, StateValues)]
    if labelled and subject.step_valued and subject.fixed_thresholds:
        margin = 0.0  # its scores are logits
    if margin is None:
        raise UserError(
            f"'{subject.name}': objective {json.dumps(subject.objective)} with margin {json.dumps(subject.margin)} has no link "
            "from values to probabilities"
        )
    if labelled:
        return compute_states(labelled, convention, margin, n_resamples=n_resamples, seed=seed)
    # The rollouts of a problem are drawn together, as one cluster.
    rollouts = [item for item in items if isinstance(item, RolloutValues)]
    cluster = numbered([(item.subset, item.id) for item in rollouts])
    outcome = np.array([float(item.correct) for item in rollouts])
    # At each part of a response: how well its value ranks outcomes, and how near each link comes to their rates.
    parts = []
    for i in range(PARTS):
        value = subject.beta * np.array([item.sums[i] for item in rollouts])
        if convention.own == "token_mean":
            value = value / np.array([item.t[i] for item in rollouts])
        read = {name: sigmoid(margin_logit(value, m)) for name, m in (("margin", margin), ("naive", 0.0))}

        def figures(w: Floats, value: Floats = value, read: dict[str, Floats] = read) -> dict[str, Floats]:
            total = w.sum(axis=1)
            found = {"auc": weighted_auc(value, w * outcome, w * (1 - outcome))}
            for name, p in read.items():
                found[f"{name} predicted"] = w @ p / total
                found[f"{name} brier"] = w @ (p - outcome) ** 2 / total
                found[f"{name} ece"] = ece_rows(p, outcome, w, N_BINS)
            return found

        found = clustered_estimates(cluster, figures, n_resamples, seed)
        links = {
            name: LinkResult(
                predicted=found[f"{name} predicted"],
                brier=found[f"{name} brier"],
                ece=found[f"{name} ece"],
                diagram=_diagram(p, outcome),
            )
            for name, p in read.items()
        }
        parts.append(PartResult(upto=(i + 1) / PARTS, auc=found["auc"], links=links))
    # What a constant would reach, to compare with.
    rate = float(outcome.mean())
    passed = clustered_estimates(
        cluster, lambda w: {"rate": w @ outcome / w.sum(axis=1)}, n_resamples, seed, frozenset({"rate"})
    )
    return CalibrationMetrics(
        n_rollouts=len(rollouts), pass_rate=passed["rate"], brier_constant=rate * (1 - rate), parts=parts
    )


def _diagram(p: Floats, outcome: Floats) -> list[tuple[float, float, float]]:
    bins = reliability(p, outcome, n_bins=N_BINS)
    some = bins.share > 0
    return list(
        zip(bins.predicted[some].tolist(), bins.observed[some].tolist(), bins.share[some].tolist(), strict=True)
    )
