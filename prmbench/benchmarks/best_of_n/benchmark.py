"""Best-of-N as a `Benchmark` (docs/protocols.md, "Best-of-N")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import (
    COMPLETIONS,
    REWARD_MODEL,
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
    from rich.console import RenderableType

    from prmbench.benchmarks.best_of_n.schema import BestOfNMetrics, CompletionScores
    from prmbench.benchmarks.judged import Completions
    from prmbench.benchmarks.paired import Outcomes
    from prmbench.benchmarks.parts import Section
    from prmbench.data.traces import Trace
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

    @property
    def item_type(self) -> type[CompletionScores]:
        """The item: the scores of one completion."""
        from prmbench.benchmarks.best_of_n.schema import CompletionScores

        return CompletionScores

    @property
    def metrics_type(self) -> type[BestOfNMetrics]:
        """The figures."""
        from prmbench.benchmarks.best_of_n.schema import BestOfNMetrics

        return BestOfNMetrics

    def check_items(self, path: Path, items: Sequence[CompletionScores]) -> None:
        """Refuse answer classes that a problem cannot have.

        Args:
            path: The file, for errors.
            items: Its items.
        """
        from prmbench.benchmarks.answers import check_answers

        check_answers(path, items)

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

    def load(self, request: Request) -> Completions:
        """Find the completions.

        Args:
            request: Its ``rollouts``, ``prompt`` and ``limit`` are read.
        """
        from prmbench.benchmarks.judged import find_completions

        return find_completions(request.rollouts, request.prompt, request.limit)

    def sizes(self, data: Completions) -> Mapping[str, int]:
        """Problems by set.

        Args:
            data: The completions.
        """
        from prmbench.benchmarks.judged import problems_by_set

        return problems_by_set(data)

    def plan(self, job: Job) -> Plan:
        """Say which completions are scored.

        Args:
            job: The evaluation; ``data`` are `Completions`.
        """
        from prmbench.benchmarks.best_of_n.run import plan_best_of_n

        return plan_best_of_n(job)

    def render(self, entry: Entry[BestOfNMetrics]) -> RenderableType:
        """The entry on the screen: a row a score, a column an N.

        Args:
            entry: The entry.
        """
        from prmbench.benchmarks.best_of_n.table import render

        return render(entry)

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
            baseline("mean", "mean"),
        ]

    def section(self, measured: Measured, traces: Sequence[Trace] | None) -> Section:
        """The report's part: accuracy at every N, and a picture of it.

        Args:
            measured: The entry and its items.
            traces: Not used.
        """
        from prmbench.benchmarks.best_of_n.plot import draw_best_of_n
        from prmbench.benchmarks.parts import Cell, Picture, Section, ShownTable, about, to_svg

        entry, metrics = measured.entry, measured.entry.metrics
        sizes = [str(n) for n in metrics.sizes]
        scores = [*metrics.mean.scores.items(), *((f"baseline: {n}", at) for n, at in metrics.mean.baselines.items())]
        rows = [(name, [Cell.of(at.get(n, {}).get("expected")) for n in sizes]) for name, at in scores]
        picture = Picture(
            to_svg(draw_best_of_n([entry]), "Best-of-N"),
            f"Accuracy of the completion with the highest {metrics.own} among N, over all subsets of a problem's {metrics.n}.",
        )
        title = "Accuracy in % of the highest-scored completion, over all subsets of N; the model's own score first"
        table = ShownTable(["score", *(f"@{n}" for n in sizes)], rows)
        return Section(self.title, about(entry), [(title, table)], [picture])

    def outcomes(self, measured: Measured, **choice: Any) -> dict[str, Outcomes]:
        """How often each problem's choice is right.

        Args:
            measured: The entry and its items.
            choice: ``n``; None: the largest of the entry.
        """
        from prmbench.benchmarks.best_of_n.metrics import chosen_shares
        from prmbench.benchmarks.paired import outcomes_by_subset
        from prmbench.errors import UserError

        n, there = choice.get("n"), measured.entry.metrics.n
        n = max(measured.entry.metrics.sizes) if n is None else n
        if not 1 <= n <= there:
            raise UserError(f"`n={n}`: {measured.path} has {there} completions a problem")
        return outcomes_by_subset(*chosen_shares(measured.items, measured.entry.subject, n))


BEST_OF_N = BestOfN()
