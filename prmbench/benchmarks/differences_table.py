"""A paired comparison on the screen."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from prmbench.benchmarks.differences import ComparedPair, Difference, PairedComparison
from prmbench.benchmarks.parts import MINIATURE
from prmbench.benchmarks.tables import paired_table, safe
from prmbench.stats.paired import McNemar

SHOWN_FLIPS = 5
SIGNIFICANT = 0.05
FEW = 30
"""With fewer items in a subset, the intervals and p of a bootstrap are too narrow to trust: false alarms are well above 5%."""


def render(comparison: PairedComparison, *, groups: bool) -> RenderableType:
    """Every pair as a table of differences in points with 95% intervals, and what they mean in words.

    Args:
        comparison: The comparison.
        groups: Whether parts of the subsets are shown too.
    """
    parts: list[RenderableType] = []
    for pair in comparison.pairs:
        parts.append(_pair(pair, comparison.sides[0].measured.benchmark.figure))
        if groups and any(d.groups for d in pair.subsets.values()):
            parts.append(_groups(pair))
        parts += [safe(line) for line in _sentences(pair, many=len(comparison.pairs) > 1)]
    return Group(*(safe(line) for line in _heading(comparison)), *parts)


def _heading(comparison: PairedComparison) -> list[str]:
    entries = [side.measured.entry for side in comparison.sides]
    data = entries[0].benchmark
    n = sum(one.n_items for one in data.subsets.values())
    protocols = {side.protocol for side in comparison.sides if side.protocol}
    what = f", step scores: {' and '.join(sorted(protocols))}" if protocols else ""
    lines = [f"{data.name}: {len(entries)} subjects on the same {n:,} items{what}"]
    for entry in entries:
        if entry.subject.unverified:
            lines.append(
                f"{entry.subject.name}: preset {entry.subject.preset}, unverified against its authors' numbers"
            )
    if any(entry.miniature for entry in entries):
        lines.append(MINIATURE)
    if (fewest := min(comparison.sizes)) < FEW:
        lines.append(
            f"A subset has only {fewest:,} item{'s' * (fewest != 1)}: intervals are too narrow and p too small below about {FEW}."
        )
    if data.limit is not None:
        lines.append(f"Only {data.limit:,} items of each subset: a try, not a result to quote.")
    return lines


def _pair(pair: ComparedPair, figure: str) -> Table:
    has_tests = any(d.mcnemar for d in pair.subsets.values())
    tests = ["only\nfirst", "only\nsecond", "McNemar\np"] if has_tests else []
    title = f"{pair.first} minus {pair.second}: {figure} in points [95% interval, items paired]"
    table = paired_table(title, "", pair.first, pair.second, ["difference", "p", *tests])
    for name, difference in pair.subsets.items():
        table.add_row(safe(name), *_cells(difference), *(_test(difference.mcnemar) if has_tests else []))
    if len(pair.subsets) > 1:
        table.add_section()
        table.add_row("mean", *_cells(pair.mean), *([""] * 3 if has_tests else []))
    return table


def _cells(d: Difference) -> list[str]:
    return [
        f"{100 * d.first:.1f}",
        f"{100 * d.second:.1f}",
        f"{100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]",
        shown_p(d.p),
    ]


def _test(found: McNemar | None) -> list[str]:
    return ["", "", ""] if found is None else [f"{found.only_first:,}", f"{found.only_second:,}", shown_p(found.p)]


def shown_p(p: float) -> str:
    """A p as it is printed.

    Args:
        p: The probability, from 0 to 1.
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_in_words(p: float) -> str:
    """A p within a sentence: ``p = 0.012``, or ``p < 0.001``.

    Args:
        p: The probability, from 0 to 1.
    """
    return f"p {shown_p(p)}" if p < 0.001 else f"p = {shown_p(p)}"


def _groups(pair: ComparedPair) -> Table:
    divisions = dict.fromkeys(name for difference in pair.subsets.values() for name in difference.groups)
    title = f"Share predicted right, in %, by {' and by '.join(divisions)}"
    table = paired_table(title, "", pair.first, pair.second, ["traces", "only\nfirst", "only\nsecond", "McNemar\np"])
    for name, difference in pair.subsets.items():
        for group in (group for groups in difference.groups.values() for group in groups):
            row = [f"{name}: {group.name}", f"{100 * group.first:.1f}", f"{100 * group.second:.1f}", f"{group.n:,}"]
            table.add_row(*map(safe, row), *_test(group.mcnemar))
        table.add_section()
    return table


def _sentences(pair: ComparedPair, *, many: bool) -> list[str]:
    mean = pair.mean
    corrected = f" ({shown_p(pair.p_holm)} corrected for all pairs, Holm)" if many else ""
    higher, lower = (pair.first, pair.second) if mean.value > 0 else (pair.second, pair.first)
    p = pair.p_holm if many else mean.p
    test = f"{p_in_words(mean.p)}{corrected}"
    if all(one.low == one.high == 0 for one in pair.subsets.values()):
        said = "No difference: both come to the same on every item. An interval of width 0 is no proof that they always will."
    elif p < SIGNIFICANT:
        said = f"{higher} is above {lower} by {100 * abs(mean.value):.1f} points, {test}."
    else:
        said = f"No significant difference: {pair.first} minus {pair.second} is {100 * mean.value:+.1f} points, {test}."
    lines = [said]
    for name, difference in pair.subsets.items():
        for subject, ids in zip((pair.first, pair.second), difference.flips, strict=True):
            if ids:
                more = f" and {len(ids) - SHOWN_FLIPS:,} more" if len(ids) > SHOWN_FLIPS else ""
                lines.append(f"{name}: right only by {subject}: {', '.join(ids[:SHOWN_FLIPS])}{more}")
    return lines
