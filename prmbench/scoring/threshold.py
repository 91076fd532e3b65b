"""The threshold below which a step is taken for wrong: a number, or the one that an entry of the same model chose."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prmbench.benchmarks.processbench.metrics import TRANSFER_SUBSET
from prmbench.benchmarks.processbench.schema import ProcessBenchEntry, RuleResult
from prmbench.benchmarks.registry import find_entry, read_any_entry
from prmbench.errors import ArgumentError, argument, nearest
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.subject import describe
from prmbench.stats.protocols import STEP_PROTOCOL, TOKEN_PROTOCOLS

TRANSFERABLE = ("gsm8k", "fixed", "oracle")
"""Threshold rules that choose one threshold. (crossfit has one for each fold of the traces of the entry.)"""


@dataclass(frozen=True)
class Threshold:
    """A threshold of step scores.

    Attributes:
        value: A step whose score is below it is taken for wrong. In logit space.
        protocol: Name of the score that it is compared with.
        said: Where it is from, in words.
    """

    value: float
    protocol: str
    said: str


def protocols_of(model: RewardModel) -> tuple[str, ...]:
    """Name the scores that a model gives each step.

    Args:
        model: The model.

    Returns:
        The names, the one to read first in front; none for a critic.
    """
    return () if model.predicts else (STEP_PROTOCOL,) if model.step_valued else TOKEN_PROTOCOLS


def check_protocol(protocol: str | None, model: RewardModel) -> None:
    """Check that a model gives a score of this name.

    Args:
        protocol: Name of the score; None is always right.
        model: The model.

    Raises:
        ArgumentError: It gives no such score.
    """
    known = protocols_of(model)
    if protocol is not None and protocol not in known:
        gives = ", ".join(known) or "votes, not scores"
        raise ArgumentError("protocol", protocol, f"this model gives {gives}{nearest(protocol, known)}")


def find_threshold(threshold: str, model: RewardModel, protocol: str | None = None) -> Threshold:
    """Find the threshold that a user asks for.

    Args:
        threshold: A number; or ENTRY, ENTRY:RULE or ENTRY:RULE:PROTOCOL. ENTRY is a ProcessBench entry (file or run folder) of
            this very model. RULE is a threshold rule of it that chose one threshold: gsm8k, which is taken where nothing is said
            and the entry has it, fixed, or oracle of an entry with one subset.
        model: The model whose steps are scored.
        protocol: Name of the score, for a number or an entry without PROTOCOL; None for the first of `protocols_of`.

    Returns:
        The threshold.

    Raises:
        UserError: It is neither a number nor an entry, the entry is of another model, it has no such rule or protocol, or its
            threshold told nothing apart there: it flags no trace, or every one.
    """
    known = protocols_of(model)
    if not known:
        raise ArgumentError("threshold", threshold, f"a {model.kind} names the first wrong step itself; leave it out")
    check_protocol(protocol, model)
    try:
        value = float(threshold)
    except ValueError:
        return _from_entry(threshold, model, protocol)
    if not math.isfinite(value):
        raise ArgumentError("threshold", threshold, "expected a finite number (a logit), or an entry")
    return Threshold(value, protocol or known[0], "as given")


def _from_entry(threshold: str, model: RewardModel, protocol: str | None) -> Threshold:
    # The parts of what was asked for, and the entry.
    place, *wanted = [threshold] if Path(threshold).exists() else threshold.split(":")
    path = find_entry(place)
    entry = read_any_entry(path)
    if entry.benchmark.name != "processbench" or len(wanted) > 2:
        raise ArgumentError(
            "threshold", threshold, "expected a ProcessBench entry as ENTRY, ENTRY:RULE or ENTRY:RULE:PROTOCOL"
        )
    if (field := _difference(entry, model)) is not None:
        raise ArgumentError(
            "threshold",
            threshold,
            f"{path} is of another model, or of other text around its steps (field '{field}' differs); a threshold means "
            "something for the model and the layout it was chosen for only",
        )
    # The protocol.
    used = wanted[1] if len(wanted) > 1 else protocol or next(iter(entry.metrics.protocols))
    if protocol not in (None, used):
        other = argument("protocol", protocol)
        raise ArgumentError("threshold", threshold, f"names the protocol {used}, {other} another; leave one out")
    if used not in entry.metrics.protocols:
        has = ", ".join(entry.metrics.protocols)
        raise ArgumentError("threshold", threshold, f"{path} has no protocol '{used}'; it has {has}")
    # The rules that chose one threshold, and the one wanted.
    found = entry.metrics.protocols[used].subsets
    usable: dict[str, float] = {}
    for rule in TRANSFERABLE:
        chosen = [result.rules[rule].thresholds for result in found.values() if rule in result.rules]
        if len(values := {value for thresholds in chosen for value in thresholds}) == 1:
            usable[rule] = values.pop()
    rule = wanted[0] if wanted else next(iter(usable), "gsm8k")
    if rule not in usable:
        has = ", ".join(usable) or "none that is (crossfit has one a fold; evaluate on gsm8k, or on one subset)"
        raise ArgumentError("threshold", threshold, f"{path} has no single threshold '{rule}' of {used}; it has {has}")
    # Where the threshold was chosen, and what it does there.
    places = [TRANSFER_SUBSET] if rule == TRANSFER_SUBSET else list(found)
    n_error, n_correct = (sum(entry.benchmark.subsets[name].counts[k] for name in places) for k in ("error", "correct"))
    results = {name: found[name].rules[rule] for name in places}
    if (wrong := _useless(results.values())) is not None:
        raise ArgumentError(
            "threshold",
            threshold,
            f"the {rule} threshold of {used} ({usable[rule]:.4g}) {wrong} the {n_error + n_correct:,} traces that {path} has of "
            f"{', '.join(places)}: it tells nothing apart; name a number, or another rule or protocol",
        )
    rests = (
        "chosen on no trace"
        if rule == "fixed"
        else f"chosen on {n_error + n_correct:,} traces of {', '.join(places)}, {n_error:,} of them with an error"
    )
    said = f"{rule} threshold of {used}, from {entry.subject.name}'s entry, {rests}"
    return Threshold(usable[rule], used, said)


def _useless(results: Iterable[RuleResult]) -> str | None:
    """Say in words why a threshold tells nothing apart, of its results by subset; None where it does."""
    known = [(one.acc_error.value, one.acc_correct.value) for one in results]
    errors, corrects = ([value for value in column if value is not None] for column in zip(*known, strict=True))
    if corrects and not any(corrects):
        return "flags every trace without an error among"
    if errors and not any(errors):
        return "flags none of" if all(value == 1 for value in corrects) else "finds no first error in any of"
    return None


def _difference(entry: ProcessBenchEntry, model: RewardModel) -> str | None:
    """Name the first field by which an entry is of another model or layout; None where it is of this very one."""
    mine = describe(model, entry.subject.name, model.source)
    pairs = {
        f"subject.{name}": (getattr(entry.subject, name), getattr(mine, name))
        for name in ("kind", "weights", "beta", "discount", "scoring")
    }
    for name in ("read_state", "plugin"):  # of the facts, what decides scores
        pairs[f"subject.facts.{name}"] = (entry.subject.facts.get(name), mine.facts.get(name))
    if entry.provenance is not None:
        pairs["provenance.template_hash"] = (entry.provenance.template_hash, model.encoder.template_hash())
    return next((name for name, (there, here) in pairs.items() if there != here), None)
