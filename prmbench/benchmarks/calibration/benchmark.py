"""The calibration probe as a `Benchmark` (docs/protocols.md, "Calibration")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import (
    COMPLETIONS,
    REWARD_MODEL,
    TOKENS,
    Benchmark,
    imported,
)

if TYPE_CHECKING:
    from prmbench.benchmarks.calibration.schema import CalibrationMetrics, RolloutValues
    from prmbench.results.schema import Subject


class Calibration(Benchmark):
    """Are prefix values probabilities of a right answer?"""

    name = "calibration"
    title = "Calibration"
    measures = frozenset({"rm"})
    uses = REWARD_MODEL | TOKENS | COMPLETIONS
    resamples = 2_000

    item_type = imported("prmbench.benchmarks.calibration.schema:RolloutValues")
    metrics_type = imported("prmbench.benchmarks.calibration.schema:CalibrationMetrics")
    sizes = imported("prmbench.benchmarks.judged:problems_by_set")
    plan = imported("prmbench.benchmarks.calibration.run:plan_calibration")
    section = imported("prmbench.benchmarks.calibration.table:section")
    picture = imported("prmbench.benchmarks.calibration.plot:draw_calibration")
    load = imported("prmbench.benchmarks.judged:find_completions")
    render = imported("prmbench.benchmarks.calibration.table:render")

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


CALIBRATION = Calibration()
