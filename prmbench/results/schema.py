"""The entry: one subject on one data set of one benchmark, as a JSON file with its items beside it.

Documented field by field; `docs/entry.md` is made from these descriptions (`prmbench schema`).
"""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prmbench.data.records import read_whole
from prmbench.errors import ArgumentError, UserError, first_line

ENTRY_NAME = "entry.json"

MAX_RESAMPLES = 100_000
"""The most bootstrap resamples: ten times what an interval needs, and what memory holds."""


class Record(BaseModel):
    """Base of everything that is written: unknown fields are errors, infinities are kept as strings."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Estimate(Record):
    """A figure and its interval."""

    value: float | None = Field(description="the figure, as a fraction (not percent); null: undefined on these items")
    low: float | None = Field(None, description="lower end of the 95% bootstrap interval over items; null: none")
    high: float | None = Field(None, description="upper end of the interval")


class Subject(Record):
    """What was evaluated."""

    name: str = Field(description="name on tables; the checkpoint's last path component unless the user gave one")
    source: str | None = Field(description="the checkpoint: a Hub id, or the name of a local folder (never its path)")
    kind: str = Field(description="how scores are computed (prmbench.json: kind)")
    objective: str | None = Field(None, description="training objective, where known")
    beta: float = Field(1.0, description="scale of token values; multiplies every stored sum")
    margin: float | None = Field(None, description="margin m of the objective, where it has one")
    discount: float | None = Field(None, description="weight of V(s') in the reward of EndoRM; null: 1, no discount")
    reference: str | None = Field(None, description="pi_ref, named as source is")
    weights: dict[str, str] = Field(
        default_factory=dict, description="sha256 of weights and config by role: model, reference"
    )
    facts: dict[str, Any] = Field(
        default_factory=dict, description="architecture, number of parameters, adapter or not"
    )
    step_valued: bool = Field(False, description="true: one score a step, or votes; false: sums of token values")
    preset: str | None = Field(None, description="the preset that fixed how it is scored; null: none")
    unverified: bool | None = Field(
        None,
        description="true: the preset was not checked against numbers of its authors' code, or a setting over it changes how it "
        "scores; null: no preset",
    )
    verified: str | None = Field(
        None,
        description="the authors' code, its commit and the tolerance that the preset was checked against; null: none",
    )
    scoring: dict[str, Any] | None = Field(
        None,
        description="what else decided the scores: layout of the marks, the two tokens, sampling of verdicts, EndoRM's decay, the "
        "prompt template where there is one",
    )
    fixed_thresholds: dict[str, float] = Field(
        default_factory=dict, description="protocols whose logit is a probability's, with the logit of 0.5"
    )


def what_it_is(subject: Subject) -> str:
    """Name kind, objective, preset and discount of a subject in a few words.

    Args:
        subject: The subject.
    """
    preset = f"{subject.preset}{' (unverified)' if subject.unverified else ''}" if subject.preset else None
    discount = None if subject.discount in (None, 1) else f"discount {subject.discount:g}"
    return ", ".join(dict.fromkeys(part for part in (subject.kind, subject.objective, preset, discount) if part))


class SubsetData(Record):
    """One subset of the data set."""

    n_items: int = Field(description="traces; or problems")
    counts: dict[str, int] = Field(
        description="processbench: error and correct (traces with and without an error), steps, tokens (of the steps, in the "
        "subject's tokenizer), empty_steps (that got no token of their own); policy: completions, tokens; "
        "best-of-n: candidates, steps, tokens; step-labels: error, steps by label, tokens, empty_steps"
    )
    data_hash: str = Field(description="sha256 over the content of the items' sources, whatever their order")
    fingerprint: str = Field(description="hash of benchmark, version, settings and data_hash: equal means comparable")


class BenchmarkData(Record):
    """What it was evaluated on."""

    name: str = Field(
        description="processbench, step-labels, policy, best-of-n, search; of a probe td-probe, candidates, calibration"
    )
    version: int = Field(description="raised whenever a change here could change a figure")
    subsets: dict[str, SubsetData] = Field(description="by subset name")
    fingerprint: str = Field(
        description="hash of the subsets' fingerprints: equal means the whole tables are comparable"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="what else must be equal; policy: sampling parameters, completions a problem, prompt template, verifier",
    )
    limit: int | None = Field(None, description="only a sample of this many of each subset was used; null: all")


class Items(Record):
    """The items behind the figures."""

    file: str = Field(description="file name, beside the entry")
    sha256: str = Field(description="of that file")
    n: int = Field(description="lines in it")


class Run(Record):
    """How the figures came about."""

    started: str = Field(description="UTC, ISO 8601")
    scoring_seconds: float = Field(description="wall time of scoring in this process, loading excluded")
    tokens: int = Field(
        description="tokens run through the subject in this process, prompts included; of a policy the sampled ones"
    )
    cached_tokens: int = Field(0, description="of these, tokens whose reference log-probs came from the cache")
    resumed_items: int = Field(description="items found already scored when this process started")
    processes: int = Field(1, description="processes that shared the work")
    service: dict[str, Any] | None = Field(
        None,
        description="engine api: requests, tokens as the server counts them, cost, models that answered; null: no server",
    )


class Provenance(Record):
    """Everything that is not compared but may explain a difference."""

    engine: str = Field(
        description="where tokens were computed: hf, vllm, api; elsewhere: scores or verdicts that were brought"
    )
    device: str = Field(description="device the scores were computed on")
    dtype: str = Field(description="dtype of the weights")
    batch_tokens: int = Field(description="padded tokens of a batch")
    template_hash: str = Field(description="sha256 of the chat template and the token options")
    token_options: dict[str, Any] = Field(
        description="system prompt, separator, step prefix, template arguments, end of turn"
    )
    versions: dict[str, str] = Field(description="of Python, prmbench and the libraries that compute")
    seed: int = Field(ge=0, description="of folds, resamples and the random baseline")
    n_resamples: int = Field(ge=0, le=MAX_RESAMPLES, description="bootstrap resamples")
    warnings: list[str] = Field(default_factory=list, description="what puts the figures at risk, in words")
    revisions: dict[str, str] = Field(
        default_factory=dict,
        description="of what came from the Hub: the commit by role (model, reference, base, policy), and the revision of the data "
        "that was asked for",
    )
    training_overlap: dict[str, dict[str, int]] | None = Field(
        None,
        description="by subset: problems, of these held by the training data word by word (exact) and sharing 13 words in a row "
        "(shared); null: the training data were not named",
    )
    run: Run | None = Field(None, description="null: recomputed from items whose run is not known")


Metrics = TypeVar("Metrics", bound=BaseModel)


class Entry(Record, Generic[Metrics]):
    """One subject on one data set of one benchmark."""

    schema_version: Literal[1] = Field(1, description="version of these fields")
    status: Literal["measured", "reported"] = Field("measured", description="measured here, or reported by a paper")
    miniature: bool = Field(False, description="the synthetic world, not real data")
    subject: Subject = Field(description="what was evaluated")
    benchmark: BenchmarkData = Field(description="what it was evaluated on")
    metrics: Metrics = Field(description="the figures; their shape depends on the benchmark")
    items: Items | None = Field(None, description="null: not kept (reported entries)")
    provenance: Provenance | None = Field(None, description="null: not known (reported entries)")

    def table(self, width: int = 120) -> str:
        """Return the table that the command line prints.

        Args:
            width: Columns of the text.
        """
        return str(_views().table(self, width))

    def to_frame(self) -> Any:
        """Return a frame of pandas with a row for each figure: ``figure`` (its path in the entry), ``value``, ``low``, ``high``.

        Raises:
            UserError: pandas is not installed.
        """
        return _views().entry_frame(self)

    def plot(self) -> Any:
        """Draw the main figures with their intervals, and return the figure of matplotlib."""
        return _views().plot(self)

    def __repr__(self) -> str:
        return str(_views().summary(self))

    __str__ = __repr__


def _views() -> Any:
    """What shows entries: it knows the benchmarks, which this module may not import."""
    return importlib.import_module("prmbench.benchmarks.views")


def check_resamples(n_resamples: int | None) -> None:
    """Check a number of bootstrap resamples.

    Args:
        n_resamples: The number; None: the default.

    Raises:
        ArgumentError: It is below 0 or above `MAX_RESAMPLES`.
    """
    if n_resamples is not None and not 0 <= n_resamples <= MAX_RESAMPLES:
        raise ArgumentError("n_resamples", n_resamples, f"expected 0 to {MAX_RESAMPLES:,}")


def digest(content: object) -> str:
    """Hash anything that JSON can hold, whatever the order of its keys.

    Args:
        content: The content.

    Returns:
        sha256 (hex).
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def fingerprint(benchmark: str, version: int, data_hash: str, settings: dict[str, Any] | None = None) -> str:
    """Hash what must be equal for two results to be compared.

    Args:
        benchmark: The benchmark's name.
        version: The benchmark's version.
        data_hash: Hash of the data.
        settings: What else must be equal, such as sampling parameters; None: nothing.

    Returns:
        sha256 (hex).
    """
    return digest([benchmark, version, data_hash, settings or {}])


def joint_fingerprint(subsets: dict[str, SubsetData]) -> str:
    """Hash the names and fingerprints of subsets, whatever their order: the fingerprint of a whole benchmark.

    Args:
        subsets: The subsets by name.
    """
    return digest(sorted((name, data.fingerprint) for name, data in subsets.items()))


def make_benchmark(
    name: str,
    version: int,
    subsets: dict[str, tuple[int, dict[str, int], str]],
    settings: dict[str, Any] | None = None,
    limit: int | None = None,
) -> BenchmarkData:
    """Describe what an entry was evaluated on.

    Args:
        name: The benchmark's name.
        version: The benchmark's version.
        subsets: Number of traces or problems, counts and data hash of each subset.
        settings: What else must be equal for two entries to be compared; None: nothing.
        limit: The limit that cut the data; None: they are whole.
    """
    found = {
        subset: SubsetData(
            n_items=n, counts=counts, data_hash=hashed, fingerprint=fingerprint(name, version, hashed, settings)
        )
        for subset, (n, counts, hashed) in subsets.items()
    }
    return BenchmarkData(
        name=name,
        version=version,
        subsets=found,
        fingerprint=joint_fingerprint(found),
        settings=settings or {},
        limit=limit,
    )


EntryType = TypeVar("EntryType", bound=BaseModel)


def read_entry(path: Path, entry_type: type[EntryType]) -> EntryType:
    """Read an entry file.

    Args:
        path: The file.
        entry_type: The pydantic model of the entry.

    Raises:
        UserError: It is no such entry (the file and the field are named), no regular file, or larger than an entry is.
    """
    try:
        return entry_type.model_validate_json(read_whole(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: not an entry of this kind: {where}: {first_line(ValueError(first['msg']))}") from None
