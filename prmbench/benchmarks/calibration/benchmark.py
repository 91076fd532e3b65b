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
    from prmbench.benchmarks.calibration.schema import CalibrationMetrics, RolloutValues, StateValues
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
    sizes = imported("prmbench.benchmarks.calibration.run:truths_by_set")
    plan = imported("prmbench.benchmarks.calibration.run:plan_calibration")
    section = imported("prmbench.benchmarks.calibration.table:section")
    picture = imported("prmbench.benchmarks.calibration.plot:draw_calibration")
    load = imported("prmbench.benchmarks.calibration.run:find_truth")
    check_items = imported("prmbench.benchmarks.calibration.states:check_states")
    render = imported("prmbench.benchmarks.calibration.table:render")

    @property
    def item_types(self) -> tuple[type[Any], ...]:
        """Items of rollouts, and of solutions with labels by rollouts."""
        from prmbench.benchmarks.calibration.schema import RolloutValues, StateValues

        return RolloutValues, StateValues

    def parse(self, place: str, fields: Any) -> RolloutValues | StateValues:
        """Make an item: of a rollout, or where it has ``trials`` of a solution with labels by rollouts.

        Args:
            place: Where the value stands, for errors.
            fields: The JSON value.
        """
        from prmbench.benchmarks.calibration.schema import RolloutValues, StateValues
        from prmbench.results.items import make_item

        labelled = isinstance(fields, dict) and "trials" in fields
        return make_item(StateValues, place, fields) if labelled else make_item(RolloutValues, place, fields)

    def compute(
        self,
        items: Sequence[RolloutValues | StateValues],
        subject: Subject,
        options: Any,
        *,
        n_resamples: int,
        seed: int,
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

    def counts(self, items: Sequence[RolloutValues | StateValues]) -> dict[str, int]:
        """Rollouts or labelled solutions, and their tokens.

        Args:
            items: The items of one set.
        """
        tokens = sum(int(item.t[-1]) for item in items)
        if hasattr(items[0], "trials"):
            continuations = sum(int(item.trials.sum()) for item in items if hasattr(item, "trials"))
            return {"solutions": len(items), "continuations": continuations, "tokens": tokens}
        return {"rollouts": len(items), "tokens": tokens}

    def sources(self, items: Sequence[RolloutValues | StateValues]) -> list[str]:
        """Digests of the rollouts, or of the labelled solutions.

        Args:
            items: The items of one set.
        """
        return [item.digest for item in items]


CALIBRATION = Calibration()
