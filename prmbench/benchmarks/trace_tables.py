"""What the tables and sentences of entries on labelled traces share: ProcessBench and step labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prmbench.benchmarks.tables import listed, standing
from prmbench.results.schema import Entry, Estimate

BASELINE_TITLES = {"random": "random score", "position": "position only", "length": "length only"}


def main_protocol(entry: Entry[Any]) -> str:
    """The protocol to read first: process where there is one (the paper's), else the only one.

    Args:
        entry: The entry.
    """
    first: str = next(iter(entry.metrics.protocols))
    return first


def protocol_rows(entry: Entry[Any]) -> list[tuple[str, Any, bool]]:
    """The rows of a table by step score, those of scores that know nothing last.

    Args:
        entry: The entry.

    Returns:
        The title of each row, the result of its protocol, and whether a section of the table ends after it.
    """
    protocols = list(entry.metrics.protocols.items())
    rows = [(name, result, i == len(protocols) - 1) for i, (name, result) in enumerate(protocols)]
    return [*rows, *((BASELINE_TITLES[name], result, False) for name, result in entry.metrics.baselines.items())]


def oracle_gap(entry: Entry[Any]) -> list[str]:
    """Say what choosing thresholds on the test items adds to the main figure, in a sentence; none where it is not known.

    Args:
        entry: The entry.
    """
    main = main_protocol(entry)
    mean = entry.metrics.protocols[main].mean
    crossfit, oracle = _value(mean.get("crossfit")), _value(mean.get("oracle"))
    if crossfit is None or oracle is None:
        return []
    return [
        f"Oracle thresholds are chosen on the very traces they are scored on: {100 * (oracle - crossfit):+.1f} points "
        f"for {main} here. Quote crossfit."
    ]


def against_baselines(entry: Entry[Any], quoted: Callable[[Mapping[str, Estimate]], Estimate | None]) -> list[str]:
    """Say which protocols are above the best score that knows nothing of the text, one sentence for each outcome.

    Args:
        entry: The entry.
        quoted: Chooses the figure to quote of those by threshold rule.
    """
    found, blind = (
        {name: quoted(result.mean) for name, result in results.items()}
        for results in (entry.metrics.protocols, entry.metrics.baselines)
    )
    return against_blind(found, blind)


def against_blind(found: Mapping[str, Estimate | None], blind: Mapping[str, Estimate | None]) -> list[str]:
    """Say which step scores are above the best score that knows nothing of the text, one sentence for each outcome.

    Args:
        found: The figure of each step score; None: it is not defined.
        blind: The same figure of scores that know nothing of the text, by their names in `BASELINE_TITLES`.
    """
    rivals = {name: value for name, one in blind.items() if (value := _value(one)) is not None}
    if not rivals:
        return []
    best = max(rivals, key=lambda name: rivals[name])
    rival = rivals[best]
    groups: dict[str, list[str]] = {}
    for name, one in found.items():
        if one is not None and one.value is not None:
            groups.setdefault(standing(one, rival), []).append(f"{name} ({100 * one.value:.1f})")
    reaches = ", which lies in the 95% interval"
    return [
        f"{listed(names)} {'is' if len(names) == 1 else 'are'} {outcome} the best score that knows nothing of the text "
        f"({BASELINE_TITLES[best]}: {100 * rival:.1f}){reaches if outcome == 'not clearly above' else ''}."
        for outcome, names in groups.items()
    ]


def unverified(entry: Entry[Any]) -> list[str]:
    """Say that an entry's preset was not checked, in a sentence; none where it was.

    Args:
        entry: The entry.
    """
    if not entry.subject.unverified:
        return []
    return [f"unverified: the preset {entry.subject.preset} was not checked against numbers of its authors' code."]


def undefined_rules(entry: Entry[Any]) -> list[str]:
    """Say which threshold rules have no figures of the main protocol and why, a sentence each.

    Args:
        entry: The entry.
    """
    return [
        f"n/a: {subset}, {rule} threshold: {reason}."
        for subset, result in entry.metrics.protocols[main_protocol(entry)].subsets.items()
        for rule, reason in result.undefined.items()
    ]


def empty_steps(entry: Entry[Any], why: str) -> list[str]:
    """Say how many steps got no token, in a sentence; none where all have some.

    Args:
        entry: The entry.
        why: How a step comes to have none, in words.
    """
    counts = [data.counts for data in entry.benchmark.subsets.values()]
    empty = sum(one["empty_steps"] for one in counts)
    if not empty or not any(one["tokens"] for one in counts):  # scores made elsewhere come without tokens
        return []
    return [f"{empty:,} steps got no token of their own ({why}); their process score is 0."]


def _value(estimate: Estimate | None) -> float | None:
    return estimate.value if estimate else None
