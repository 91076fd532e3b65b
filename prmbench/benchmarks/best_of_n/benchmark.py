"""Best-of-N as a `Benchmark` (docs/protocols.md, "Best-of-N")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import (
    COMPLETIONS,
    REWARD_MODEL,
    TOKENS,
    Benchmark,
    Column,
    Measured,
    imported,
    option,
)

if TYPE_CHECKING:
    from prmbench.benchmarks.best_of_n.schema import BestOfNMetrics, CompletionScores
    from prmbench.benchmarks.differences import Outcomes
    from prmbench.results.schema import Entry, Subject


@dataclass(frozen=True)
class BestOfNOptions:
    """Options of Best-of-N alone.

    Attributes:
        sizes: The N to compute; None: powers of two up to the number of completions, and that number.
    """

    sizes: tuple[int, ...] | None = option(None, "an N; may be repeated", flag="n")


class BestOfN(Benchmark):
    """How often is the completion right that a reward model scores highest among N?"""

    name = "best-of-n"
    title = "Best-of-N"
    figure = "Best-of-N"
    measures = frozenset({"rm"})
    options = BestOfNOptions
    uses = REWARD_MODEL | TOKENS | COMPLETIONS
    choices = frozenset({"n"})

    item_type = imported("prmbench.benchmarks.best_of_n.schema:CompletionScores")
    metrics_type = imported("prmbench.benchmarks.best_of_n.schema:BestOfNMetrics")
    sizes = imported("prmbench.benchmarks.judged:problems_by_set")
    plan = imported("prmbench.benchmarks.best_of_n.run:plan_best_of_n")
    check_items = imported("prmbench.benchmarks.answers:check_answers")
    load = imported("prmbench.benchmarks.judged:find_completions")
    section = imported("prmbench.benchmarks.best_of_n.table:section")
    render = imported("prmbench.benchmarks.best_of_n.table:render")

    def compute(
        self,
        items: Sequence[CompletionScores],
        subject: Subject,
        options: BestOfNOptions,
        *,
        n_resamples: int,
        seed: int,
    ) -> BestOfNMetrics:
        """Compute all figures from items alone; see `Benchmark.compute`.

        Args:
            items: The items of one run.
            subject: What was evaluated; says how it scores a whole response.
            options: Which N.
            n_resamples: Bootstrap resamples.
            seed: Seed of the resamples, and of the subsets that votes are drawn for.
        """
        from prmbench.benchmarks.best_of_n.metrics import compute_best_of_n
        from prmbench.reward_models.objectives import Convention

        return compute_best_of_n(items, Convention.of(subject), sizes=options.sizes, n_resamples=n_resamples, seed=seed)

    def options_of(self, entry: Entry[BestOfNMetrics]) -> BestOfNOptions:
        """The N of an entry.

        Args:
            entry: The entry.
        """
        return BestOfNOptions(tuple(entry.metrics.sizes))

    def counts(self, items: Sequence[CompletionScores]) -> dict[str, int]:
        """Completions, steps and tokens.

        Args:
            items: The items of one set.
        """
        return {
            "candidates": len(items),
            "steps": sum(len(item.n_tokens) for item in items),
            "tokens": sum(item.length for item in items),
        }

    def sources(self, items: Sequence[CompletionScores]) -> list[str]:
        """Digests of the completions.

        Args:
            items: The items of one set.
        """
        return [item.digest for item in items]

    def columns(self, entries: Sequence[Entry[BestOfNMetrics]]) -> list[Column]:
        """Accuracy at every N, the largest first, beside votes, any right, and a random choice.

        Args:
            entries: Entries of one fingerprint.
        """
        sizes = sorted({n for one in entries for n in one.metrics.sizes}, reverse=True)
        largest = sizes[0]

        def own(n: int) -> Column:
            return Column(
                f"own.{n}",
                f"@{n}",
                lambda entry: entry.metrics.mean.scores[entry.metrics.own].get(str(n), {}).get("expected"),
            )

        def baseline(name: str, title: str) -> Column:
            def estimate(entry: Entry[BestOfNMetrics]) -> Any:
                # A random choice is the same at any N.
                n = max(entry.metrics.sizes) if name == "mean" else largest
                return entry.metrics.mean.baselines[name].get(str(n), {}).get("expected")

            return Column(f"baseline.{name}", title, estimate)

        return [
            *map(own, sizes),
            baseline("majority", f"majority @{largest}"),
            baseline("pass", f"pass @{largest}"),
            baseline("mean", "random choice"),
        ]

    def outcomes(self, measured: Measured, **choice: Any) -> dict[str, Outcomes]:
        """How often each problem's choice is right.

        Args:
            measured: The entry and its items.
            choice: ``n``; None: the largest of the entry.
        """
        from prmbench.benchmarks.best_of_n.metrics import chosen_shares
        from prmbench.benchmarks.differences import outcomes_by_subset
        from prmbench.errors import UserError

        n, there = choice.get("n"), measured.entry.metrics.n
        n = max(measured.entry.metrics.sizes) if n is None else n
        if not 1 <= n <= there:
            raise UserError(f"`n={n}`: {measured.path} has {there} completions a problem")
        return outcomes_by_subset(*chosen_shares(measured.items, measured.entry.subject, n))


BEST_OF_N = BestOfN()
