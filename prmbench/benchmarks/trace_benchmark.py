"""What benchmarks of traces share: items of one sort without NaN, data found by the same rules, labels checked against the data."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmbench.benchmarks.base import Benchmark, DataRequest

if TYPE_CHECKING:
    from prmbench.data.traces import Trace


class TraceBenchmark(Benchmark):
    """A benchmark of a reward model's step scores on labelled traces."""

    unit = "traces"
    measures = frozenset({"rm"})
    prompt_is_models = True
    choices = frozenset({"protocol", "thresholds"})

    def parse(self, place: str, fields: Any) -> Any:
        """Make an item of a JSON value, and refuse a NaN score.

        Args:
            place: Where the value stands, for errors.
            fields: The JSON value.
        """
        from prmbench.errors import UserError, printable

        item = super().parse(place, fields)
        if (step := item.first_nan()) is not None:
            raise UserError(
                f"{place}: item '{printable(item.id)}' has a NaN score at step {step}; the model or its items are broken"
            )
        return item

    def check_items(self, path: Path, items: Sequence[Any]) -> None:
        """Refuse items of several sorts (sums, scores, votes).

        Args:
            path: The file, for errors.
            items: Its items.
        """
        from prmbench.errors import UserError

        if len(sorts := {item.sort for item in items}) > 1:
            raise UserError(f"{path}: some items have {' and some '.join(sorted(sorts))}; items of two runs?")

    def load(self, request: DataRequest) -> list[Trace]:
        """Find the traces: ProcessBench itself, or data of the same fields.

        Args:
            request: Its ``data``, ``subsets``, ``limit`` and ``data_revision`` are read; see `prmbench.data.traces.load_traces`.
        """
        from prmbench.data.traces import load_traces

        return load_traces(request.data, request.subsets, request.limit, request.data_revision)

    def sizes(self, data: Sequence[Trace]) -> Mapping[str, int]:
        """Traces by subset.

        Args:
            data: The traces.
        """
        return Counter(trace.subset for trace in data)

    def check_against(self, path: Path, items: Sequence[Any], traces: Sequence[Trace]) -> list[str]:
        """Say which items have another label or another trace than the data.

        Args:
            path: The items file, for the sentences.
            items: The items.
            traces: The data.
        """
        from prmbench.errors import printable

        real = {(trace.subset, trace.id): trace for trace in traces}
        subsets = {subset for subset, _ in real}
        found = []
        for item in items:
            trace = real.get(item.key)
            name = f"{path}: item '{printable(item.id)}' of {printable(item.subset)}"
            if trace is None:
                found += [f"{name} is not in the data"] if item.subset in subsets else []
            elif (difference := self.difference(item, trace)) is not None:
                found.append(f"{name} {difference}")
        return found

    @abstractmethod
    def difference(self, item: Any, trace: Trace) -> str | None:
        """Say how an item differs from its trace.

        Args:
            item: The item.
            trace: The trace of the same subset and id.

        Returns:
            What comes after the item's name in a sentence; None: they agree.
        """
