"""Thresholds that were chosen elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from prmbench.benchmarks.registry import find_entry, read_any_entry
from prmbench.benchmarks.step_labels.schema import StepLabelsEntry
from prmbench.errors import ArgumentError, nearest
from prmbench.results.schema import Subject
from prmbench.stats.protocols import STEP_PROTOCOL, TOKEN_PROTOCOLS


def protocols_of(step_valued: bool) -> tuple[str, ...]:
    """Name the scores of steps, the first one to read first.

    Args:
        step_valued: Whether a model gives one score a step.
    """
    return (STEP_PROTOCOL,) if step_valued else TOKEN_PROTOCOLS


def given_thresholds(threshold: str | None, subject: Subject) -> dict[str, float]:
    """Read the thresholds that a user gives.

    Args:
        threshold: A number, for the first step score; PROTOCOL=NUMBER, several separated by commas; or a step-labels entry (file or
            run folder) of this model with one subset, whose oracle thresholds are taken. None gives none.
        subject: The model.

    Returns:
        Thresholds by protocol.

    Raises:
        ArgumentError: It is none of these, or the entry is of another model.
    """
    if threshold is None:
        return {}
    known = protocols_of(subject.step_valued)
    number = _number(threshold)
    if number is not None:
        return {known[0]: number}
    if Path(threshold).exists():
        return _of_entry(threshold, subject, known)
    found = {}
    for part in threshold.split(","):
        name, _, value = part.partition("=")
        number = _number(value)
        if number is None:
            raise ArgumentError(
                "threshold",
                threshold,
                "expected a number, PROTOCOL=NUMBER, or the file or folder of a step-labels entry",
            )
        if name not in known:
            raise ArgumentError(
                "threshold", threshold, f"these scores have {', '.join(known)}, not '{name}'{nearest(name, known)}"
            )
        found[name] = number
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _of_entry(threshold: str, subject: Subject, known: Sequence[str]) -> dict[str, float]:
    path = find_entry(threshold)
    entry: StepLabelsEntry = read_any_entry(path)
    if entry.benchmark.name != "step-labels" or len(entry.benchmark.subsets) != 1:
        raise ArgumentError("threshold", threshold, "expected a step-labels entry with one subset")
    same = (entry.subject.weights, entry.subject.beta, entry.subject.scoring)
    if same != (subject.weights, subject.beta, subject.scoring):
        raise ArgumentError(
            "threshold",
            threshold,
            f"{path} is of another model or layout; a threshold means something for its own only",
        )
    results = {name: next(iter(one.subsets.values())).rules for name, one in entry.metrics.protocols.items()}
    found = {
        name: rules["oracle"].thresholds[0] for name, rules in results.items() if "oracle" in rules and name in known
    }
    if not found:
        raise ArgumentError("threshold", threshold, f"{path} chose no threshold; its data lack right or wrong steps")
    return found
