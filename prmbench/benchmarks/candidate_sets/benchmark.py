"""Candidate sets as a `Benchmark` (docs/protocols.md, "Candidate sets"; Table 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import (
    POLICY,
    PROBLEMS,
    SAMPLING,
    TOKENS,
    Benchmark,
    imported,
    option,
)

if TYPE_CHECKING:
    from prmbench.benchmarks.candidate_sets.schema import CandidateSetsMetrics, RolloutCandidates
    from prmbench.results.schema import Subject

P_MINS = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class CandidateSetsOptions:
    """Options of candidate sets alone.

    Attributes:
        p_mins: The thresholds P_min; None: 0.05, 0.1 and 0.2.
        n: Rollouts of each problem.
        sampling_tokens: Padded tokens of a batch while rollouts are sampled, completions at full length.
    """

    p_mins: tuple[float, ...] | None = option(None, "threshold; may be repeated (0.05, 0.1, 0.2)", flag="p-min")
    n: int = option(1, "rollouts of each problem", low=1)
    sampling_tokens: int = option(65_536, "padded tokens of a batch while rollouts are sampled", low=1)


class CandidateSets(Benchmark):
    """How many tokens does a policy find likely, and what share of its probability do they hold, against P_min?"""

    name = "candidates"
    title = "Candidate sets"
    measures = frozenset({"policy"})
    options = CandidateSetsOptions
    uses = POLICY | TOKENS | SAMPLING | PROBLEMS
    defaults = MappingProxyType({"limit": 1_000})
    resamples = 2_000

    item_type = imported("prmbench.benchmarks.candidate_sets.schema:RolloutCandidates")
    metrics_type = imported("prmbench.benchmarks.candidate_sets.schema:CandidateSetsMetrics")
    plan = imported("prmbench.benchmarks.candidate_sets.run:plan_candidate_sets")
    section = imported("prmbench.benchmarks.candidate_sets.table:section")
    load = imported("prmbench.benchmarks.problem_data:find_named_sets")
    sizes = imported("prmbench.benchmarks.problem_data:problems_per_set")
    render = imported("prmbench.benchmarks.candidate_sets.table:render")

    def check_items(self, path: Path, items: Sequence[RolloutCandidates]) -> None:
        """Refuse items of different P_min.

        Args:
            path: The file, for errors.
            items: Its items.
        """
        from prmbench.errors import UserError

        first = items[0].sets.keys()
        for number, item in enumerate(items, start=1):
            if item.sets.keys() != first:
                raise UserError(
                    f"{path}, line {number}: field 'sets' is of P_min {', '.join(item.sets)}, in the first line of "
                    f"{', '.join(first)}"
                )

    def compute(
        self, items: Sequence[RolloutCandidates], subject: Subject, options: Any, *, n_resamples: int, seed: int
    ) -> CandidateSetsMetrics:
        """Compute all figures from items alone; see `Benchmark.compute`.

        Args:
            items: The items of one run.
            subject: Not used.
            options: Not used.
            n_resamples: Bootstrap resamples.
            seed: Seed of the resamples.
        """
        from prmbench.benchmarks.candidate_sets.metrics import compute_candidate_sets

        return compute_candidate_sets(items, n_resamples=n_resamples, seed=seed)

    def counts(self, items: Sequence[RolloutCandidates]) -> dict[str, int]:
        """Rollouts and their tokens.

        Args:
            items: The items of one problem set.
        """
        return {"rollouts": len(items), "tokens": sum(item.n_tokens for item in items)}


CANDIDATE_SETS = CandidateSets()
