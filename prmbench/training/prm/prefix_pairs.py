"""Pairs of prefixes of one problem, of which one makes the rest of the solution easier: what `prefix_gain` is trained on.

The gain of a prefix is the share of right continuations from its end, less that from the bare problem (PUM, arXiv 2606.07190). Two
prefixes of one problem have the second term in common, so that their shares alone say which gain is larger.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from prmbench.training.prm.data import LabelledTrace


class PairOptions(BaseModel):
    """Which prefixes make a pair."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    least: float = Field(
        0.25, gt=0, le=1, description="least difference of gain: two prefixes that are closer make no pair"
    )
    traces: int = Field(
        4, ge=1, description="traces of a problem that are compared; a problem with more makes several records"
    )
    across: bool = Field(
        True, description="whether prefixes of different traces are compared, those with equally many steps"
    )


@dataclass(frozen=True)
class PrefixGroup:
    """Some traces of a problem, and the pairs of their prefixes.

    Attributes:
        problem: The problem.
        traces: The traces.
        better: Of each pair, the index of the prefix with the larger gain among the marks of all the traces, in order. int64,
            shape [n_pairs].
        worse: The index of the other. int64, shape [n_pairs].
    """

    problem: str
    traces: tuple[LabelledTrace, ...]
    better: NDArray[np.int64]
    worse: NDArray[np.int64]

    def __len__(self) -> int:
        return max(len(one) for one in self.traces)


Record = LabelledTrace | PrefixGroup
"""What an update is counted in: a trace, or a group of traces whose prefixes are compared."""


def traces_of(record: Record) -> tuple[LabelledTrace, ...]:
    """Return the traces of a record.

    Args:
        record: The record.
    """
    return record.traces if isinstance(record, PrefixGroup) else (record,)


def make_groups(traces: Sequence[LabelledTrace], options: PairOptions) -> list[PrefixGroup]:
    """Put the traces of each problem together, and pair their prefixes.

    Args:
        traces: The traces, whose targets are shares of right continuations.
        options: Which prefixes make a pair.

    Returns:
        The groups that have a pair, problems in the order of their first traces.
    """
    by_problem: dict[str, list[LabelledTrace]] = {}
    for one in traces:
        by_problem.setdefault(one.problem, []).append(one)
    groups = []
    for problem, mine in by_problem.items():
        for start in range(0, len(mine), options.traces):
            some = tuple(mine[start : start + options.traces])
            pairs = np.array(list(_pairs(some, options)), dtype=np.int64).reshape(-1, 2)
            if len(pairs):
                groups.append(PrefixGroup(problem, some, pairs[:, 0], pairs[:, 1]))
    return groups


def _pairs(traces: Sequence[LabelledTrace], options: PairOptions) -> Iterator[tuple[int, int]]:
    """The pairs of some traces: (better, worse), each the index of a mark."""
    marks = [
        (of, number, share)
        for of, one in enumerate(traces)
        for number, share in zip(one.numbers.tolist(), one.targets.tolist(), strict=True)
    ]
    for (i, (a, step, first)), (j, (b, other, second)) in itertools.combinations(enumerate(marks), 2):
        # Shares are float32: 0.75 - 0.5 is exact, and 0.6 - 0.35 must not miss 0.25 by rounding.
        comparable = a == b or (options.across and step == other)
        if comparable and abs(first - second) >= options.least - 1e-6:
            yield (i, j) if first > second else (j, i)
