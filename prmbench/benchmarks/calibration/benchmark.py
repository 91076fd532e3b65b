"""The calibration probe as a `Benchmark` (docs/protocols.md, "Calibration")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import COMPLETIONS, REWARD_MODEL, TOKENS, Benchmark, Column, Job, Measured, Plan, Request

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from prmbench.benchmarks.calibration.schema import CalibrationMetrics, RolloutValues
    from prmbench.benchmarks.judged import Completions
    from prmbench.benchmarks.parts import Section
    from prmbench.data.traces import Trace
    from prmbench.results.schema import Entry, Subject


class Calibration(Benchmark):
    """Are prefix values probabilities of a right answer?"""

    name = "calibration"
    title = "Calibration"
    measures = frozenset({"rm"})
    uses = REWARD_MODEL | TOKENS | COMPLETIONS
    resamples = 2_000

    @property
    def item_type(self) -> type[RolloutValues]:
        """The item: the values of one rollout."""
        from prmbench.benchmarks.calibration.schema import RolloutValues

        return RolloutValues

    @property
    def metrics_type(self) -> type[CalibrationMetrics]:
        """The figures."""
        from prmbench.benchmarks.calibration.schema import CalibrationMetrics

        return CalibrationMetrics

    def compute(
        self, items: Sequence[RolloutValues], subject: Subject, options: Any, *, n_resamples: int, seed: int
    ) -> CalibrationMetrics:
        """Compute all figures from items alone; see `Benchmark.compute`.

        Args:
            items: The items of one run.
            subject: What was evaluated; gives beta and the link from values to probabilities.
            options: Not used.
            n_resamples: Bootstrap resamples.
            seed: Seed of the resamples.
        """
        from prmbench.benchmarks.calibration.metrics import compute_calibration

        return compute_calibration(items, subject, n_resamples=n_resamples, seed=seed)

    def counts(self, items: Sequence[RolloutValues]) -> dict[str, int]:
        """Rollouts and their tokens.

        Args:
            items: The items of one set.
        """
        return {"rollouts": len(items), "tokens": sum(item.t[-1] for item in items)}

    def sources(self, items: Sequence[RolloutValues]) -> list[str]:
        """Digests of the rollouts.

        Args:
            items: The items of one set.
        """
        return [item.digest for item in items]

    def load(self, request: Request) -> Completions:
        """Find the rollouts.

        Args:
            request: Its ``rollouts``, ``prompt`` and ``limit`` are read.
        """
        from prmbench.benchmarks.judged import find_completions

        return find_completions(request.rollouts, request.prompt, request.limit)

    def sizes(self, data: Completions) -> Mapping[str, int]:
        """Problems by set.

        Args:
            data: The rollouts.
        """
        from prmbench.benchmarks.judged import problems_by_set

        return problems_by_set(data)

    def plan(self, job: Job) -> Plan:
        """Say which rollouts are valued.

        Args:
            job: The evaluation; ``data`` are `Completions`.
        """
        from prmbench.benchmarks.calibration.run import plan_calibration

        return plan_calibration(job)

    def render(self, entry: Entry[CalibrationMetrics]) -> RenderableType:
        """The entry on the screen: both links along the response.

        Args:
            entry: The entry.
        """
        from prmbench.benchmarks.calibration.table import render

        return render(entry)

    def columns(self, entries: Sequence[Entry[CalibrationMetrics]]) -> list[Column]:
        """None: probes are not ranked.

        Args:
            entries: Entries of one fingerprint.
        """
        return []

    def section(self, measured: Measured, traces: Sequence[Trace] | None) -> Section:
        """The report's part: both links along the response.

        Args:
            measured: The entry and its items.
            traces: Not used.
        """
        from prmbench.benchmarks.calibration.table import section

        return section(measured)

    def picture(self, measured: Measured) -> Figure:
        """The reliability of the values, and the Brier score along the response.

        Args:
            measured: The entry and its items.
        """
        from prmbench.benchmarks.calibration.plot import draw_calibration

        return draw_calibration(measured.entry)


CALIBRATION = Calibration()
