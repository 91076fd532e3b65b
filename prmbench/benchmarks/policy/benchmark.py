"""Policies on problem sets as a `Benchmark` (docs/protocols.md, "Policy evaluation")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import (
    POLICY,
    PROBLEMS,
    SAMPLING,
    TOKENS,
    Benchmark,
    Column,
    Measured,
    imported,
    option,
)

if TYPE_CHECKING:
    from pathlib import Path

    from prmbench.benchmarks.differences import Outcomes
    from prmbench.benchmarks.policy.schema import CompletionOutcome, PolicyMetrics
    from prmbench.results.schema import Entry, Estimate, Subject


@dataclass(frozen=True)
class PolicyOptions:
    """Options of a policy's evaluation alone.

    Attributes:
        n: Completions of each problem.
    """

    n: int = option(8, "completions of each problem", low=1)


class PolicyBenchmark(Benchmark):
    """How often are a policy's completions right? avg@n, pass@k and maj@n from one sampling run."""

    name = "policy"
    title = "Policies"
    figure = "avg@n"
    measures = frozenset({"policy"})
    options = PolicyOptions
    uses = POLICY | TOKENS | SAMPLING | PROBLEMS | {"data", "preset", "verifier"}

    item_type = imported("prmbench.benchmarks.policy.schema:CompletionOutcome")
    metrics_type = imported("prmbench.benchmarks.policy.schema:PolicyMetrics")
    load = imported("prmbench.benchmarks.problem_data:find_problem_sets")
    plan = imported("prmbench.benchmarks.policy.run:plan_policy")
    sizes = imported("prmbench.benchmarks.problem_data:problems_per_set")
    check_items = imported("prmbench.benchmarks.answers:check_answers")
    section = imported("prmbench.benchmarks.policy.table:section")
    render = imported("prmbench.benchmarks.policy.table:render")

    def compute(
        self, items: Sequence[CompletionOutcome], subject: Subject, options: Any, *, n_resamples: int, seed: int
    ) -> PolicyMetrics:
        """Compute all figures from items alone; see `Benchmark.compute`.

        Args:
            items: The items of one run.
            subject: Not used.
            options: Not used: the items say how many completions there are.
            n_resamples: Bootstrap resamples.
            seed: Seed of the resamples.
        """
        from prmbench.benchmarks.policy.metrics import compute_policy_metrics

        return compute_policy_metrics(items, n_resamples, seed)

    def counts(self, items: Sequence[CompletionOutcome]) -> dict[str, int]:
        """Completions and their tokens.

        Args:
            items: The items of one problem set.
        """
        return {"completions": len(items), "tokens": sum(item.n_tokens for item in items)}

    def data_hash(self, items: Sequence[CompletionOutcome]) -> str:
        """Hash of the problems.

        Args:
            items: The items of one problem set.
        """
        from prmbench.results.schema import digest

        return digest(sorted({item.digest for item in items}))

    def columns(self, entries: Sequence[Entry[PolicyMetrics]]) -> list[Column]:
        """avg@n of all sets and of each, maj@n, pass@n, and the share of truncated completions.

        Args:
            entries: Entries of one fingerprint.
        """
        n, subsets = entries[0].metrics.n, list(entries[0].benchmark.subsets)

        def mean(key: str, title: str, *, higher_is_better: bool = True) -> Column:
            return Column(key, title, lambda entry: entry.metrics.mean.get(key), higher_is_better=higher_is_better)

        def average(subset: str) -> Column:
            def estimate(entry: Entry[PolicyMetrics]) -> Estimate:
                return entry.metrics.subsets[subset].average

            return Column(f"average.{subset}", subset, estimate)

        return [
            mean("average", f"avg@{n}"),
            *(map(average, subsets) if len(subsets) > 1 else ()),
            mean("majority", f"maj@{n}"),
            mean(f"pass@{n}", f"pass@{n}"),
            mean("truncated", "truncated", higher_is_better=False),
        ]

    def check_entry(self, path: Path, entry: Entry[PolicyMetrics]) -> None:
        """Check that an entry says how its completions were sampled.

        Args:
            path: The entry's file, for errors.
            entry: The entry.
        """
        from prmbench.data.records import check_fields
        from prmbench.engines.sampling import recorded_params

        place = f"{path}: field 'benchmark.settings'"
        settings = check_fields(place, entry.benchmark.settings, {"sampling": dict, "prompt": str}, "settings")
        recorded_params(f"{place}: field 'sampling'", settings["sampling"])

    def about(self, entry: Entry[PolicyMetrics]) -> str:
        """How the completions were sampled.

        Args:
            entry: One entry of the table.
        """
        from prmbench.benchmarks.problem_data import sampling_words

        settings = entry.benchmark.settings
        return f"{sampling_words(settings)}, prompt template '{settings['prompt']}'"

    def outcomes(self, measured: Measured, **choice: Any) -> dict[str, Outcomes]:
        """The share of each problem's completions that are right.

        Args:
            measured: The entry and its items.
            choice: Nothing.
        """
        from prmbench.benchmarks.differences import outcomes_by_subset
        from prmbench.benchmarks.groups import grouped, problem_of

        groups = grouped(measured.items, problem_of)
        shares = {key: sum(one.verdict == "correct" for one in group) / len(group) for key, group in groups.items()}
        return outcomes_by_subset(shares, {key: group[0].digest for key, group in groups.items()})


POLICY_BENCHMARK = PolicyBenchmark()
