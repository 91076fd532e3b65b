"""Policy and best-of-n entries on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from prmbench.benchmarks.best_of_n.metrics import BestOfNSubset
from prmbench.benchmarks.best_of_n.run import BestOfNEntry
from prmbench.benchmarks.policy.run import PolicyEntry
from prmbench.results.schema import Estimate, what_it_is

MINIATURE = "Miniature: a synthetic world and a tiny model; it shows how things work, not how good they are."
TABLE_SIZES = (4, 16, 64)
"""N of the paper's tables; the largest N is shown too."""


def render_policy(entry: PolicyEntry) -> RenderableType:
    """A policy entry: a row a problem set, in percent, 95% intervals (over problems) in brackets."""
    metrics, settings = entry.metrics, entry.benchmark.settings
    sampling = settings["sampling"]
    table = _table(f"in %, {metrics.n} completions a problem")
    columns = ["problems", f"avg@{metrics.n}", f"maj@{metrics.n}", f"pass@{metrics.n}", "truncated", "tokens"]
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for name, result in metrics.subsets.items():
        table.add_row(
            escape(name),
            f"{entry.benchmark.subsets[name].n_items:,}",
            with_interval(result.average),
            percent(result.majority),
            percent(result.pass_at[str(metrics.n)]),
            percent(result.truncated),
            f"{result.mean_tokens.value:,.0f}",
        )
    if len(metrics.subsets) > 1:
        table.add_section()
        mean = metrics.mean
        table.add_row(
            "mean",
            "",
            with_interval(mean["average"]),
            percent(mean["majority"]),
            percent(mean[f"pass@{metrics.n}"]),
            percent(mean["truncated"]),
            "",
        )
    lines = [f"Policy: {entry.subject.name}", *([MINIATURE] if entry.miniature else [])]
    if entry.benchmark.limit is not None:
        lines.append(f"Only the first {entry.benchmark.limit:,} problems of each set: a try, not a result to quote.")
    lines.append(
        f"Temperature {sampling['temperature']:g}, top-p {sampling['top_p']:g}, top-k {sampling['top_k'] or 'off'}, up to "
        f"{sampling['max_new_tokens']:,} tokens; prompt template '{settings['prompt']}'."
    )
    after = []
    for name, result in metrics.subsets.items():
        counts = ", ".join(f"{count:,} {verdict}" for verdict, count in result.verdicts.items())
        room = f"; {result.overlong_prompts:,} prompts leave no room" if result.overlong_prompts else ""
        after.append(f"{name}: {counts}{room}.")
    return Group(*map(escape, lines), table, *map(escape, after))


def sizes_shown(sizes: Sequence[int]) -> list[int]:
    """N that the table has a column for."""
    return sorted({*TABLE_SIZES} & {*sizes} | {sizes[-1]})


def render_best_of_n(entry: BestOfNEntry) -> RenderableType:
    """A best-of-n entry: a row a score, a column an N; what needs no reward model below."""
    metrics = entry.metrics
    shown = sizes_shown(metrics.sizes)
    lines = [
        f"Best-of-N: {entry.subject.name} ({what_it_is(entry.subject)}), "
        f"{sum(d.n_items for d in entry.benchmark.subsets.values()):,} problems, {metrics.n} candidates each",
        *([MINIATURE] if entry.miniature else []),
    ]
    if entry.benchmark.limit is not None:
        lines.append(f"Only the first {entry.benchmark.limit:,} problems of each set: a try, not a result to quote.")
    parts: list[RenderableType] = [escape(line) for line in lines]
    several = len(metrics.subsets) > 1
    for title, result in [*metrics.subsets.items(), *([("mean over the sets", metrics.mean)] if several else [])]:
        parts.append(_best_of_n_table(title, result, shown))
    parts.append(
        escape(
            "Accuracy in %, expected over all subsets of N candidates [95% interval over problems]; the model's own score is "
            f"{metrics.own}. The other estimator (the first N) and every N are in the entry."
        )
    )
    return Group(*parts)


def _best_of_n_table(title: str, result: BestOfNSubset, sizes: list[int]) -> Table:
    table = _table(escape(title))
    for size in sizes:
        table.add_column(f"@{size}", justify="right", no_wrap=True)
    rows = [(name, by_size) for name, by_size in result.scores.items()]
    for i, (name, by_size) in enumerate(rows):
        own = " (own)" if i == 0 else ""
        table.add_row(
            name + own,
            *(with_interval(by_size[str(size)]["expected"]) for size in sizes),
            end_section=i == len(rows) - 1,
        )
    for name, by_size in result.baselines.items():
        table.add_row(name.replace("_", " "), *(with_interval(by_size[str(size)]["expected"]) for size in sizes))
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    return table


def percent(estimate: Estimate) -> str:
    """The figure in percent."""
    return "n/a" if estimate.value is None else f"{100 * estimate.value:.1f}"


def with_interval(estimate: Estimate) -> str:
    """The figure in percent, with its interval."""
    if estimate.low is None or estimate.high is None:
        return percent(estimate)
    return f"{percent(estimate)} [dim]\\[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}][/dim]"
