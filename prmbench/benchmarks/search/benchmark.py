"""Guided search as a `Benchmark` (docs/search.md)."""

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
    Column,
    Measured,
    imported,
    option,
)

if TYPE_CHECKING:
    from prmbench.benchmarks.differences import Outcomes
    from prmbench.benchmarks.search.schema import SearchItem, SearchMetrics
    from prmbench.results.schema import Entry, Estimate, Subject


@dataclass(frozen=True)
class SearchOptions:
    """Options of guided search alone.

    Attributes:
        methods: The methods; None: all of them.
        budgets: The N; None: 4 and 16.
        width: M, continuations of a path.
        spread: Divides the scores that particles are drawn by.
        score: The score of a path.
        step_ends: Texts that end a step; None: the separator of the policy's steps.
        step_tokens: Most tokens of a step; 0: any number.
    """

    methods: tuple[str, ...] | None = option(
        None, "best-of-n, weighted, beam, dvts or particles; may be repeated; default: all", flag="method"
    )
    budgets: tuple[int, ...] | None = option(
        None, "N, the paths that grow side by side; may be repeated; default: 4 and 16", flag="budget", low=1
    )
    width: int = option(4, "M: continuations of a path (beam, dvts)", low=1)
    spread: float = option(
        1.0, "particles: temperature that scores are divided by", flag="particle-temperature", low=1e-6
    )
    score: str = option("own", "score of a path: own, token_mean, sum, min, last, product or mean", flag="path-score")
    step_ends: tuple[str, ...] | None = option(
        None, "text that ends a step; \\n is a newline; may be repeated; default: a blank line", flag="step-end"
    )
    step_tokens: int = option(0, "most tokens of a step, which is cut there; 0: any number", low=0)


class GuidedSearch(Benchmark):
    """Does a reward model help while the answer is being written? Search methods against Best-of-N at equal compute."""

    name = "search"
    title = "Guided search"
    figure = "accuracy of the first method at its largest budget"
    measures = frozenset({"rm", "policy"})
    options = SearchOptions
    uses = REWARD_MODEL | POLICY | TOKENS | SAMPLING | PROBLEMS | {"data", "verifier"}

    item_type = imported("prmbench.benchmarks.search.schema:SearchItem")
    metrics_type = imported("prmbench.benchmarks.search.schema:SearchMetrics")
    load = imported("prmbench.benchmarks.problem_data:find_problem_sets")
    sizes = imported("prmbench.benchmarks.problem_data:problems_per_set")
    plan = imported("prmbench.benchmarks.search.run:plan_search")
    check_items = imported("prmbench.benchmarks.search.metrics:check_searches")
    section = imported("prmbench.benchmarks.search.table:section")
    render = imported("prmbench.benchmarks.search.table:render")
    picture = imported("prmbench.benchmarks.search.plot:draw_search")

    def compute(
        self, items: Sequence[SearchItem], subject: Subject, options: SearchOptions, *, n_resamples: int, seed: int
    ) -> SearchMetrics:
        """Compute all figures from items alone; see `Benchmark.compute`.

        Args:
            items: The items of one run.
            subject: What was evaluated; says how it scores a whole response.
            options: Which methods and budgets.
            n_resamples: Bootstrap resamples.
            seed: Seed of the resamples, and of the subsets that votes are drawn for.
        """
        from prmbench.benchmarks.search.metrics import compute_search
        from prmbench.reward_models.objectives import Convention

        return compute_search(items, Convention.of(subject), options, n_resamples=n_resamples, seed=seed)

    def options_of(self, entry: Entry[SearchMetrics]) -> SearchOptions:
        """The methods, budgets and score of an entry.

        Args:
            entry: The entry.
        """
        names = [name.rpartition("@") for name in entry.metrics.mean.methods]
        return SearchOptions(
            methods=tuple(dict.fromkeys(method for method, _, _ in names)),
            budgets=tuple(dict.fromkeys(int(budget) for _, _, budget in names)),
            score=entry.metrics.score,
        )

    def counts(self, items: Sequence[SearchItem]) -> dict[str, int]:
        """Searches, candidates, and tokens sampled.

        Args:
            items: The items of one problem set.
        """
        return {
            "searches": len(items),
            "candidates": sum(len(item.correct) for item in items),
            "tokens": sum(int(item.sampled.sum()) for item in items),
        }

    def columns(self, entries: Sequence[Entry[SearchMetrics]]) -> list[Column]:
        """Accuracy of every method at every budget, the largest budget first, and how it differs from Best-of-N at equal compute.

        Args:
            entries: Entries of one fingerprint.
        """
        names = sorted(entries[0].metrics.mean.methods, key=lambda name: -int(name.rpartition("@")[2]))

        def accuracy(name: str) -> Column:
            def estimate(entry: Entry[SearchMetrics]) -> Estimate:
                return entry.metrics.mean.methods[name].accuracy

            return Column(f"accuracy.{name}", name, estimate)

        def difference(name: str) -> Column:
            def estimate(entry: Entry[SearchMetrics]) -> Estimate:
                return entry.metrics.mean.methods[name].difference

            return Column(f"difference.{name}", f"{name} - equal best-of-n", estimate)

        return [
            *map(accuracy, names),
            *(difference(name) for name in names if not name.startswith("best-of-n@")),
            Column("plain", "one sample", lambda entry: entry.metrics.mean.plain),
        ]

    def about(self, entry: Entry[SearchMetrics]) -> str:
        """How paths were sampled and steps ended.

        Args:
            entry: One entry of the table.
        """
        from prmbench.benchmarks.problem_data import sampling_words

        settings = entry.benchmark.settings
        ends = " or ".join(repr(one) for one in settings["step_ends"])
        return f"{sampling_words(settings)}, steps end with {ends}, score '{settings['score']}'"

    def outcomes(self, measured: Measured, **choice: Any) -> dict[str, Outcomes]:
        """Whether each problem's chosen answer is right, by the first method at its largest budget.

        Args:
            measured: The entry and its items.
            choice: Nothing.
        """
        from prmbench.benchmarks.differences import outcomes_by_subset
        from prmbench.benchmarks.search.metrics import chosen_shares

        return outcomes_by_subset(*chosen_shares(measured.items, measured.entry, self.options_of(measured.entry)))


GUIDED_SEARCH = GuidedSearch()
