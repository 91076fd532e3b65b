"""What a benchmark is. One subclass of `Benchmark` says everything about one benchmark; see docs/architecture.md.

This module and the modules that define benchmarks import nothing heavy, so that the command line can list the options of every
benchmark at once. A benchmark's methods import what they need.
"""

from __future__ import annotations

import dataclasses
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from prmbench.benchmarks.differences import Comparison, Outcomes
    from prmbench.benchmarks.parts import Section
    from prmbench.data.traces import Trace
    from prmbench.engines.processes import Share
    from prmbench.engines.sampling import SamplingParams
    from prmbench.policies.policy import Policy
    from prmbench.results.schema import Entry, Estimate, Provenance, Record, Subject
    from prmbench.reward_models.base import RewardModel
    from prmbench.verify.options import VerifierOptions

# Options of the command line that several benchmarks share; a benchmark names those that mean something to it.
REWARD_MODEL = frozenset(
    {
        "rm",
        "reference",
        "kind",
        "preset",
        "objective",
        "beta",
        "margin",
        "discount",
        "decay",
        "decay_floor",
        "plugin",
        "padding_free",
        "reference_cache",
        "reference_revision",
    }
)
POLICY = frozenset({"policy", "policy_revision"})
TOKENS = frozenset({"system", "separator", "step_prefix", "template_arg", "chat_template", "date", "end_of_turn"})
SAMPLING = frozenset({"temperature", "top_p", "top_k", "max_new_tokens"})
PROBLEMS = frozenset({"subset", "limit", "prompt", "data_revision"})
COMPLETIONS = frozenset({"rollouts", "limit", "prompt", "verifier"})


class _Imported:
    """Gives what a place names, and imports it when it is first asked for."""

    def __init__(self, place: str) -> None:
        self.module, _, self.name = place.partition(":")

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:  # the class itself is looked at while it is made, before its other modules can be imported
            return self
        return getattr(importlib.import_module(self.module), self.name)


def imported(place: str) -> Any:
    """A part of a benchmark that is imported when it is first used, so that listing the benchmarks imports nothing heavy.

    Args:
        place: The module and the name in it, ``module:name``: a class, or a function that takes what the method of `Benchmark` of
            the same name takes.
    """
    return _Imported(place)


def option(
    default: Any, text: str, *, flag: str | None = None, low: float | None = None, high: float | None = None
) -> Any:
    """Declare a field of a benchmark's own options.

    Args:
        default: The value where nothing is given.
        text: What the option means, for the command line's help and for readers.
        flag: Its name on the command line, without dashes; None: the field's name.
        low: The smallest value allowed; None: any.
        high: The largest value allowed; None: any.
    """
    return field(default=default, metadata={"help": text, "flag": flag, "low": low, "high": high})


@dataclass(frozen=True)
class NoOptions:
    """A benchmark without options of its own."""


@dataclass(frozen=True)
class DataRequest:
    """The data that a user asks for; a benchmark reads the fields that mean something to it.

    Attributes:
        data: A file or folder of traces; None: where the benchmark finds its data by itself.
        subsets: Names of subsets or of problem sets, or files; None: all of the benchmark's.
        limit: Only this many traces, or the first this many problems, of each subset; None: all.
        rollouts: Files or run folders of completions.
        prompt: The name of a prompt template; None: the one that the completions were sampled with, else ``boxed``.
        verifier: The conventions that verdicts of answers follow; None: the defaults.
        data_revision: Commit, branch or tag of the data's repository on the Hub; None: the newest.
    """

    data: str | Path | None = None
    subsets: Sequence[str] | None = None
    limit: int | None = None
    rollouts: Sequence[str | Path] = ()
    prompt: str | None = None
    verifier: VerifierOptions | None = None
    data_revision: str | None = None


class RunKeywords(TypedDict, total=False):
    """How an evaluation is run, the same for all benchmarks. Every key may be left out.

    Attributes:
        output: The run's folder; None: ``prmbench-results/BENCHMARK-NAME-HASH``, HASH of the settings.
        n_resamples: Bootstrap resamples; None: the benchmark's default.
        seed: Seed of everything drawn; 0 by default.
        batch_tokens: Padded tokens of a batch; None: what suits the device.
        limit: Recorded where the data were cut to this many of each subset; None: they are whole.
        miniature: Whether the data are of the synthetic world.
    """

    output: str | Path | None
    n_resamples: int | None
    seed: int
    batch_tokens: int | None
    limit: int | None
    miniature: bool


@dataclass(frozen=True, kw_only=True)
class Job:
    """One evaluation: what is evaluated, on what, and how.

    Attributes:
        data: What the benchmark's `load` returned.
        name: The subject's name on tables.
        source: The checkpoint as the user named it.
        model: The reward model; None where the benchmark needs none.
        policy: The policy; None where the benchmark needs none.
        options: The benchmark's own options, an instance of its `options`; None: their defaults, which stand here before a plan
            is made.
        params: How the policy samples; None: the benchmark's default.
        output: The run's folder, or None.
        n_resamples: Bootstrap resamples, or None.
        seed: Seed of everything drawn.
        batch_tokens: Padded tokens of a batch, or None.
        limit: The limit that the data were cut to, or None.
        miniature: Whether the data are of the synthetic world.
        share: This process among those that share the work, or None.
        training_overlap: By subset, how many problems the training data hold (`prmbench.data.overlap.Overlap.counts`); None: the
            training data are not known.
        data_revision: The revision of the data that was asked for, or None.
    """

    data: Any
    name: str
    source: str
    model: RewardModel | None = None
    policy: Policy | None = None
    options: Any = None
    params: SamplingParams | None = None
    output: str | Path | None = None
    n_resamples: int | None = None
    seed: int = 0
    batch_tokens: int | None = None
    limit: int | None = None
    miniature: bool = False
    share: Share | None = None
    training_overlap: Mapping[str, Mapping[str, int]] | None = None
    data_revision: str | None = None


@dataclass(frozen=True)
class Units:
    """The work of a run, cut into units that a batch cannot split: a trace, a completion, a state with all its branches.

    Attributes:
        wanted: Key and digest of every item of the finished run, in the order of the items file.
        keys: The keys of the items that each unit gives.
        lengths: Tokens of each unit, which batches are planned by.
        work: Makes the items of the units at some positions; None: the items are in `ready`.
        ready: The items, where they are there already.
        fits: Whether an item that an earlier run left is one that this run would make; the digest is checked besides.
        title: What the work is called while it runs.
        progress_unit: What its progress is counted in: tokens, or a name for the units.
        tokens: Tokens that were run before this work, for example sampled.
        resumed: Items that an earlier run had left before this work.
        count: The tokens that the work ran, where they are not the units' lengths; called at the end.
        close: Called when the work is over, whatever its end.
    """

    wanted: Mapping[tuple[str, str], str]
    keys: Sequence[Sequence[tuple[str, str]]] = ()
    lengths: Sequence[int] = ()
    work: Callable[[Sequence[int]], Iterable[Any]] | None = None
    ready: Sequence[Any] = ()
    fits: Callable[[Any], bool] | None = None
    title: str = "scoring"
    progress_unit: str = "tokens"
    tokens: int = 0
    resumed: int = 0
    count: Callable[[], int] | None = None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Plan:
    """A run that is ready to start: what decides its items, and how they are made.

    Attributes:
        subject: What is evaluated.
        encoder: What turned texts into token ids; its template is recorded.
        settings: Everything that decides the items besides the subject; a folder holds items of one such set. JSON-serialisable.
        rules: What must be equal, besides the data, for two entries to be compared. JSON-serialisable.
        engine: The name of the engine that computes.
        numerics: Where it computes and in what type: a device and a dtype.
        batch_tokens: Padded tokens of a batch.
        units: Gives the work, once the folder is held; it may sample into the folder first.
        usage: What a server was asked for in this process, and what it cost; None: there is no server.
        cached_tokens: Tokens whose reference log-probs came from the cache so far.
        warn: Says in words what puts the figures at risk; None: nothing.
        told: Warnings that were printed already, when the model was loaded; they are recorded.
        provenance: Where the items come from, if this run does not make them; None: it makes them.
    """

    subject: Subject
    encoder: Any
    settings: Mapping[str, Any]
    rules: Mapping[str, Any]
    engine: str
    numerics: tuple[str, str]
    batch_tokens: int
    units: Callable[[Path, Share], Units]
    cached_tokens: Callable[[], int] = lambda: 0
    usage: Callable[[], dict[str, Any] | None] = lambda: None
    warn: Callable[[Sequence[Any]], str | None] = lambda _: None
    told: Sequence[str] = ()
    provenance: Provenance | None = None


@dataclass(frozen=True)
class Column:
    """A column of a leaderboard's table.

    Attributes:
        key: Its name for programs, unique within the benchmark.
        title: Its heading.
        estimate: The figure of an entry; None: the entry has no such figure.
        unit: ``%`` for a fraction, which is shown in percent; empty for a plain number.
        higher_is_better: Whether a larger figure ranks first.
    """

    key: str
    title: str
    estimate: Callable[[Entry[Any]], Estimate | None]
    unit: str = "%"
    higher_is_better: bool = True


@dataclass(frozen=True)
class Measured:
    """An entry with its items.

    Attributes:
        path: The entry's file.
        entry: The entry.
        items: Its items, in the order of the file.
        benchmark: What it was evaluated on.
    """

    path: Path
    entry: Entry[Any]
    items: Sequence[Any]
    benchmark: Benchmark

    @property
    def name(self) -> str:
        """The subject's name."""
        return self.entry.subject.name


class Benchmark(ABC):
    """A benchmark: its data, how they are scored, its figures, and how these are shown and compared.

    A subclass needs `name`, `title`, `measures`, `item_type`, `metrics_type`, `load`, `plan`, `compute` and `columns`. Everything
    else has a default. What is long stands in other modules and is named by `imported`. Register an instance under the entry-point
    group ``prmbench.benchmarks`` or with `prmbench.benchmarks.registry.register_benchmark`.

    Attributes:
        name: Its name in entries and on the command line.
        title: Its name in headings.
        version: Raised whenever a change could change a figure; it is part of the fingerprint.
        measures: What it takes: ``rm`` (a reward model), ``policy``, or both. The reward model is the subject where there are both.
        unit: What the data consist of.
        figure: The figure that ranks and is compared, in words.
        options: The dataclass of its own options, whose fields are made by `option`.
        uses: The shared options of the command line that mean something to it.
        defaults: Shared options whose default differs from the command line's.
        prompt_is_models: Whether the option ``prompt`` says how the reward model sees a problem, not how a policy saw it.
        choices: Options of `compare` that mean something to it.
        resamples: Bootstrap resamples where nothing is given.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1
    measures: ClassVar[frozenset[str]]
    unit: ClassVar[str] = "problems"
    figure: ClassVar[str] = "the first column"
    options: ClassVar[type[Any]] = NoOptions
    uses: ClassVar[frozenset[str]] = frozenset()
    defaults: ClassVar[Mapping[str, Any]] = {}
    prompt_is_models: ClassVar[bool] = False
    choices: ClassVar[frozenset[str]] = frozenset()
    resamples: ClassVar[int] = 10_000

    # Items and figures

    @property
    @abstractmethod
    def item_type(self) -> type[Any]:
        """The pydantic dataclass of an item; a subclass of `prmbench.results.items.Item`."""

    @property
    def item_types(self) -> tuple[type[Any], ...]:
        """The kinds of item that a run may have, each run one; the default is `item_type` alone."""
        return (self.item_type,)

    @property
    @abstractmethod
    def metrics_type(self) -> type[Record]:
        """The pydantic model of the figures."""

    @property
    def entry_type(self) -> type[Entry[Any]]:
        """The pydantic model of an entry."""
        from prmbench.results.schema import Entry

        return Entry[self.metrics_type]  # type: ignore[name-defined]

    def parse(self, place: str, fields: Any) -> Any:
        """Make an item of a JSON value.

        Args:
            place: Where the value stands, for errors.
            fields: The JSON value.

        Raises:
            UserError: A missing or wrong field; the place and the field are named.
        """
        from prmbench.results.items import make_item

        return make_item(self.item_type, place, fields)

    def check_items(self, path: Path, items: Sequence[Any]) -> None:  # noqa: B027 (nothing to check is a fine default)
        """Check a whole file of items; the default finds nothing to check.

        Args:
            path: The file, for errors.
            items: Its items.

        Raises:
            UserError: Items that do not belong together.
        """

    def check_entry(self, path: Path, entry: Entry[Any]) -> None:  # noqa: B027 (nothing to check is a fine default)
        """Check the parts of an entry whose form its type leaves open; the default finds nothing to check.

        Args:
            path: The entry's file, for errors.
            entry: The entry.

        Raises:
            UserError: A part that tables need is missing or wrong.
        """

    def read_items(self, path: Path) -> list[Any]:
        """Read an items file.

        Args:
            path: The file, one JSON object a line.

        Raises:
            UserError: A broken line, a wrong field, the same item twice, or items that do not belong together.
        """
        from prmbench.data.records import read_records
        from prmbench.errors import UserError, printable

        found: dict[tuple[str, str], Any] = {}
        for place, fields in read_records(path):
            item = self.parse(place, fields)
            if item.key in found:
                subset, name = map(printable, item.key)
                raise UserError(f"{place}: item '{name}' of {subset} is there twice; delete one of the lines")
            found[item.key] = item
        items = list(found.values())
        self.check_items(path, items)
        return items

    @abstractmethod
    def compute(self, items: Sequence[Any], subject: Subject, options: Any, *, n_resamples: int, seed: int) -> Any:
        """Compute all figures from items alone.

        Args:
            items: The items of one run; at least one.
            subject: What was evaluated.
            options: The benchmark's own options.
            n_resamples: Bootstrap resamples; 0 gives no intervals.
            seed: Seed of everything drawn.

        Returns:
            An instance of `metrics_type`.

        Raises:
            UserError: Items that the figures are not defined for.
        """

    def options_of(self, entry: Entry[Any]) -> Any:
        """The options that `compute` needs to compute an entry's figures again.

        Args:
            entry: An entry of this benchmark.
        """
        return self.options()

    def counts(self, items: Sequence[Any]) -> dict[str, int]:
        """What is counted of the items of one subset, for the entry.

        Args:
            items: The items of the subset.
        """
        return {}

    def sources(self, items: Sequence[Any]) -> Iterable[str]:
        """Digests of what the items of one subset come from; the default takes each id's once.

        Args:
            items: The items of the subset.
        """
        return {item.id: item.digest for item in items}.values()

    def data_hash(self, items: Sequence[Any]) -> str:
        """Hash of what the items of one subset come from; equal hashes mean the same data.

        Args:
            items: The items of the subset.
        """
        from prmbench.data.traces import data_hash

        return data_hash(self.sources(items))

    # A run

    @abstractmethod
    def load(self, request: DataRequest) -> Any:
        """Find the data. This comes before any model is loaded, so that a mistake shows at once.

        Args:
            request: What the user asked for.

        Raises:
            UserError: Data that are not there, or are broken.
        """

    def sizes(self, data: Any) -> Mapping[str, int]:
        """How many traces or problems each subset of the loaded data has, to tell whether a limit cut any.

        Args:
            data: What `load` returned.
        """
        return {}

    @abstractmethod
    def plan(self, job: Job) -> Plan:
        """Say what is to be done. Nothing is run yet.

        Args:
            job: The evaluation.

        Raises:
            UserError: A subject or data that do not fit the benchmark.
        """

    def plan_scores(self, scores: Path, job: Job) -> Plan:
        """Plan an entry of scores that another tool made; the default takes none.

        Args:
            scores: The file of scores.
            job: The evaluation: its ``data`` and ``name`` are read; there is no model.

        Raises:
            UserError: The benchmark takes no such scores, or the file does not fit the data.
        """
        from prmbench.errors import UserError

        raise UserError(f"{scores}: {self.name} takes no scores that were made elsewhere")

    # Views

    def render(self, entry: Entry[Any]) -> RenderableType:
        """The entry on the screen: a table, and what it means in words.

        Args:
            entry: An entry of this benchmark.
        """
        from prmbench.benchmarks.tables import render_columns

        return render_columns(self, entry)

    def columns(self, entries: Sequence[Entry[Any]]) -> list[Column]:
        """The columns of a leaderboard's table; the first one ranks. The default has none: entries are not ranked then.

        Args:
            entries: Entries of one fingerprint.
        """
        return []

    def baselines(self, entry: Entry[Any], columns: Sequence[Column]) -> list[tuple[str, list[Estimate | None]]]:
        """Rows of a leaderboard's table that are no subject's.

        Args:
            entry: One entry of the table.
            columns: The table's columns.

        Returns:
            A name, and a figure for each column (None: not defined), for each row.
        """
        return []

    def about(self, entry: Entry[Any]) -> str:
        """What else a table's heading says of the data and settings; empty: nothing.

        Args:
            entry: One entry of the table.
        """
        return ""

    def notes(self, measured: Sequence[Measured]) -> list[str]:
        """Sentences below a leaderboard's table.

        Args:
            measured: The entries of the table.
        """
        return ["In %, 95% intervals over problems."]

    def section(self, measured: Measured, traces: Sequence[Trace] | None) -> Section:
        """The benchmark's part of a report's page.

        Args:
            measured: The entry and its items.
            traces: Problems and solutions, where they are at hand.
        """
        from prmbench.benchmarks.parts import section_of_columns

        return section_of_columns(self, measured)

    def picture(self, measured: Measured) -> Figure | None:
        """A picture that is kept beside the entry; None: there is none.

        Args:
            measured: The entry and its items.
        """
        return None

    # Comparison

    def outcomes(self, measured: Measured, **choice: Any) -> dict[str, Outcomes]:
        """What each item came to, by subset, for paired comparisons.

        Args:
            measured: The entry and its items.
            choice: Options of `compare`, of those in `choices`.

        Raises:
            UserError: Entries of this benchmark are not compared item by item, or the choice does not fit.
        """
        from prmbench.errors import UserError

        raise UserError(f"{measured.path}: entries of {self.name} are not compared item by item")

    def compare(self, measured: Sequence[Measured], *, n_resamples: int, seed: int, **choice: Any) -> Comparison:
        """Compare every two entries.

        Args:
            measured: Two entries or more, in the order of the table.
            n_resamples: Bootstrap resamples.
            seed: Seed of the resamples.
            choice: Options of `compare`, of those in `choices`.

        Raises:
            UserError: Entries that are not of the same items; what differs is named.
        """
        from prmbench.benchmarks.differences import compare_outcomes

        return compare_outcomes(measured, n_resamples=n_resamples, seed=seed, **choice)

    def check_against(self, path: Path, items: Sequence[Any], traces: Sequence[Trace]) -> list[str]:
        """Say in what the items differ from the data; the default knows no data.

        Args:
            path: The items file, for the sentences.
            items: The items.
            traces: The data.
        """
        return []

    def changed(self, options: Mapping[str, Any]) -> Any:
        """The benchmark's own options with some of them given.

        Args:
            options: Values by the field's name.
        """
        return dataclasses.replace(self.options(), **options)
