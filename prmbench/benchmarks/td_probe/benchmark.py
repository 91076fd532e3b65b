"""The TD probe as a `Benchmark` (docs/protocols.md, "TD probe"; Section 4.3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import (
    POLICY,
    PROBLEMS,
    REWARD_MODEL,
    SAMPLING,
    TOKENS,
    Benchmark,
    imported,
    option,
)

if TYPE_CHECKING:
    from prmbench.benchmarks.td_probe.schema import BranchItem, TDProbeMetrics
    from prmbench.results.schema import Subject


@dataclass(frozen=True)
class TDProbeOptions:
    """Options of the TD probe alone.

    Attributes:
        branches: Branches in all; ``branches / top`` states (rounded up), one a trajectory.
        top: The likeliest next tokens of each state.
        rollouts_per_branch: K, the rollouts of each branch.
    """

    branches: int = option(2_500, "candidate branches in all", low=1)
    top: int = option(5, "likeliest next tokens of a state", low=2)
    rollouts_per_branch: int = option(1, "K; with more than 1 the rollouts' noise is taken out", low=1)


class TDProbe(Benchmark):
    """Does one-step TD of candidate tokens go with what the policy makes of them?"""

    name = "td-probe"
    title = "TD probe"
    measures = frozenset({"rm", "policy"})
    options = TDProbeOptions
    uses = REWARD_MODEL | POLICY | TOKENS | SAMPLING | PROBLEMS | {"verifier"}
    resamples = 2_000

    item_type = imported("prmbench.benchmarks.td_probe.schema:BranchItem")
    metrics_type = imported("prmbench.benchmarks.td_probe.schema:TDProbeMetrics")
    plan = imported("prmbench.benchmarks.td_probe.run:plan_td_probe")
    section = imported("prmbench.benchmarks.td_probe.table:section")
    picture = imported("prmbench.benchmarks.td_probe.plot:draw_td_probe")
    compare = imported("prmbench.benchmarks.td_probe.differences:compare_probes")
    load = imported("prmbench.benchmarks.problem_data:find_named_sets")
    sizes = imported("prmbench.benchmarks.problem_data:problems_per_set")
    render = imported("prmbench.benchmarks.td_probe.table:render")

    def compute(
        self, items: Sequence[BranchItem], subject: Subject, options: Any, *, n_resamples: int, seed: int
    ) -> TDProbeMetrics:
        """Compute all figures from items alone; see `Benchmark.compute`.

        Args:
            items: The items of one run.
            subject: What was evaluated; gives beta and the link from values to probabilities.
            options: Not used.
            n_resamples: Bootstrap resamples.
            seed: Seed of the resamples.
        """
        from prmbench.benchmarks.td_probe.metrics import compute_td_probe

        return compute_td_probe(items, subject, n_resamples=n_resamples, seed=seed)

    def counts(self, items: Sequence[BranchItem]) -> dict[str, int]:
        """States and branches.

        Args:
            items: The items of one problem set.
        """
        return {"states": len({item.state for item in items}), "branches": len(items)}


TD_PROBE = TDProbe()
