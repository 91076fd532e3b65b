"""The TD probe as a `Benchmark` (docs/protocols.md, "TD probe"; Section 4.3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import (
    POLICY,
    PROBLEMS,
    REWARD_MODEL,
    SAMPLING,
    TOKENS,
    Benchmark,
    Column,
    Job,
    Measured,
    Plan,
    Request,
    option,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from prmbench.benchmarks.paired import Comparison
    from prmbench.benchmarks.parts import Section
    from prmbench.benchmarks.problems import Problems
    from prmbench.benchmarks.td_probe.schema import BranchItem, TDProbeMetrics
    from prmbench.data.traces import Trace
    from prmbench.results.schema import Entry, Subject


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
    uses = REWARD_MODEL | POLICY | TOKENS | SAMPLING | PROBLEMS
    resamples = 2_000

    @property
    def item_type(self) -> type[BranchItem]:
        """The item: one branch."""
        from prmbench.benchmarks.td_probe.schema import BranchItem

        return BranchItem

    @property
    def metrics_type(self) -> type[TDProbeMetrics]:
        """The figures."""
        from prmbench.benchmarks.td_probe.schema import TDProbeMetrics

        return TDProbeMetrics

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

    def load(self, request: Request) -> Problems:
        """Find the problems.

        Args:
            request: Its ``subsets``, ``limit`` and ``prompt`` are read.
        """
        from prmbench.benchmarks.problems import find_problem_sets

        return find_problem_sets(request, default=None)

    def sizes(self, data: Problems) -> Mapping[str, int]:
        """Problems by set.

        Args:
            data: The problem sets.
        """
        return {name: len(problems) for name, problems in data.sets.items()}

    def plan(self, job: Job) -> Plan:
        """Say which states are branched.

        Args:
            job: The evaluation; ``data`` are `Problems`.
        """
        from prmbench.benchmarks.td_probe.run import plan_td_probe

        return plan_td_probe(job)

    def render(self, entry: Entry[TDProbeMetrics]) -> RenderableType:
        """The entry on the screen: a row a signal, a column a figure.

        Args:
            entry: The entry.
        """
        from prmbench.benchmarks.td_probe.table import render

        return render(entry)

    def columns(self, entries: Sequence[Entry[TDProbeMetrics]]) -> list[Column]:
        """None: probes are compared, not ranked.

        Args:
            entries: Entries of one fingerprint.
        """
        return []

    def section(self, measured: Measured, traces: Sequence[Trace] | None) -> Section:
        """The report's part: signals of all branches and of candidates, and along the response.

        Args:
            measured: The entry and its items.
            traces: Not used.
        """
        from prmbench.benchmarks.td_probe.table import section

        return section(measured)

    def picture(self, measured: Measured) -> Figure:
        """How often branches end right against their TD and their value.

        Args:
            measured: The entry and its items.
        """
        from prmbench.benchmarks.td_probe.plot import draw_td_probe

        return draw_td_probe(measured.entry, measured.items)

    def compare(self, measured: Sequence[Measured], *, n_resamples: int, seed: int, **choice: Any) -> Comparison:
        """Compare every figure of every signal on the same branches.

        Args:
            measured: Two entries or more.
            n_resamples: Bootstrap resamples.
            seed: Seed of the resamples.
            choice: Nothing.
        """
        from prmbench.benchmarks.td_probe.compare import compare_probes

        return compare_probes(measured, n_resamples=n_resamples, seed=seed)


TD_PROBE = TDProbe()
