"""ProcessBench: score every trace, choose thresholds, leave an entry (DESIGN 4.2, 4.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from prmbench.benchmarks.missing import run_missing
from prmbench.benchmarks.precision import precision_warning, tell
from prmbench.benchmarks.processbench.metrics import compute_metrics
from prmbench.benchmarks.processbench.schema import Plan, ProcessBenchMetrics
from prmbench.data.tokens import EncodedTrace, ids_hash
from prmbench.data.traces import Trace, data_hash
from prmbench.engines.batching import BatchRunner, default_batch_tokens, plan_batches
from prmbench.engines.processes import Share
from prmbench.errors import UserError
from prmbench.results.items import TraceItem, parse_item, read_items
from prmbench.results.provenance import run_provenance
from prmbench.results.schema import (
    ENTRY_NAME,
    Entry,
    Items,
    Provenance,
    Run,
    Subject,
    make_benchmark,
    read_entry,
)
from prmbench.results.store import RunFolder, default_folder
from prmbench.reward_models.base import RewardModel, StepScores
from prmbench.reward_models.subject import describe

NAME = "processbench"
VERSION = 1

ProcessBenchEntry = Entry[ProcessBenchMetrics]


@dataclass(frozen=True)
class RunOptions:
    """How to run; nothing here changes what is compared.

    Attributes:
        batch_tokens: padded tokens of a batch; None: 2,048 on CPU, 32,768 on CUDA.
        limit: recorded when the traces are a sample of each subset only.
        skip_overlong: leave out traces longer than the model's positions instead of refusing them.
        miniature: marks the entry as one of the synthetic world.
    """

    plan: Plan = field(default_factory=Plan)
    batch_tokens: int | None = None
    limit: int | None = None
    skip_overlong: bool = False
    miniature: bool = False
    share: Share = field(default_factory=Share)


def evaluate_traces(
    model: RewardModel,
    traces: Sequence[Trace],
    *,
    name: str,
    source: str,
    output: str | Path | None = None,
    options: RunOptions | None = None,
) -> tuple[ProcessBenchEntry, Path] | None:
    """Score traces and write the entry; goes on where an earlier, interrupted run of the same settings stopped.

    Args:
        name: the subject's name. source: the checkpoint as the user named it.
        output: the run's folder; None: ``prmbench-results/processbench-NAME-HASH``, HASH of the settings.

    Returns:
        (entry, path of the entry file); None in processes other than the first.

    Raises:
        KeyboardInterrupt: with a message that says what is kept.
        UserError: no traces, a trace longer than the model allows, a NaN score (the item is named), or trouble with
            the folder (see `RunFolder`).
    """
    options = options or RunOptions()
    if not traces:
        raise UserError("no traces to score; check --limit and --subset")
    encoded = [model.encode(trace.problem, trace.steps) for trace in traces]
    traces, encoded = _fit(model, traces, encoded, skip=options.skip_overlong)
    device, dtype = model.device_and_dtype()
    batch_tokens = options.batch_tokens or model.batch_tokens or default_batch_tokens(device)
    subject = describe(model, name, source)
    settings = {
        "benchmark": {"name": NAME, "version": VERSION, "limit": options.limit},
        "subject": subject.model_dump(mode="json", exclude={"name", "source", "reference"}),  # the hashes say it
        "template": model.encoder.template_hash(),
        "numerics": {"device": device.partition(":")[0], "dtype": dtype, "batch_tokens": batch_tokens},
        "data": {subset: data_hash(t.digest() for t in traces if t.subset == subset) for subset in _subsets(traces)},
        "tokens": ids_hash(one.ids for one in encoded),
    }
    folder = Path(output) if output else default_folder(NAME, name, settings)
    with RunFolder(folder, settings, parse_item, rank=options.share.rank) as run_folder:
        options.share.wait()
        started = datetime.now(UTC)
        cached_before = model.cached_tokens
        resumed = _keep_matching(run_folder.completed(), traces)
        options.share.wait()
        try:
            tokens = _score_missing(model, traces, encoded, set(resumed), run_folder, batch_tokens, options.share)
        except KeyboardInterrupt:
            kept = len(_keep_matching(run_folder.completed(), traces))
            raise KeyboardInterrupt(
                f"stopped; {kept:,} of {len(traces):,} traces are kept in {folder}: the same command goes on from there"
            ) from None
        options.share.wait()
        if not options.share.main:
            return None
        scored = _keep_matching(run_folder.completed(), traces)
        items = [scored[trace.subset, trace.id] for trace in traces]
        written = run_folder.finish(items)
        risk = None
        if subject.kind == "implicit":
            sums = [item.sums for item in items if item.sums is not None]
            risk = precision_warning(dtype, np.concatenate(sums), np.concatenate([item.n_tokens for item in items]))
        warnings = [risk] if risk else []
        tell(warnings)
        warnings = [*model.warnings, *warnings]  # the model's were told when it was loaded
        provenance = run_provenance(
            model.encoder,
            engine=model.engine,
            device=device,
            dtype=dtype,
            batch_tokens=batch_tokens,
            seed=options.plan.seed,
            n_resamples=options.plan.n_resamples,
            started=started,
            tokens=tokens,
            resumed=len(resumed),
            cached_tokens=model.cached_tokens - cached_before,
            processes=options.share.count,
            warnings=warnings,
        )
        if tokens == 0 and (old := run_folder.path / ENTRY_NAME).exists():  # nothing new: the run is still that one
            provenance = provenance.model_copy(update={"run": _old_run(old) or provenance.run})
        entry = build_entry(
            items, subject, options.plan, written, provenance, options.limit, miniature=options.miniature
        )
        return entry, run_folder.write_entry(entry)


def score_traces(model: RewardModel, traces: Sequence[Trace], batch_tokens: int | None = None) -> list[StepScores]:
    """Score traces in memory, without an output folder.

    Returns:
        One `StepScores` a trace, in the order given.

    Raises:
        UserError: a trace longer than the model allows, or a NaN score.
    """
    encoded = [model.encode(trace.problem, trace.steps) for trace in traces]
    _fit(model, traces, encoded, skip=False)
    lengths = [len(one) for one in encoded]
    batch_tokens = batch_tokens or model.batch_tokens or default_batch_tokens(model.device_and_dtype()[0])
    found: dict[int, StepScores] = {}
    runner = BatchRunner(batch_tokens)

    def score(indices: Sequence[int]) -> None:
        for i, one in zip(indices, model.score([encoded[i] for i in indices]), strict=True):
            found[i] = _checked(traces[i], one)

    for batch in plan_batches(lengths, batch_tokens):
        runner.run(batch, lengths, score)
    return [found[i] for i in range(len(traces))]


def build_entry(
    items: Sequence[TraceItem],
    subject: Subject,
    plan: Plan,
    written: Items | None,
    provenance: Provenance | None,
    limit: int | None,
    *,
    miniature: bool = False,
) -> ProcessBenchEntry:
    """Compute every metric from items and put the entry together. Raises UserError on a NaN score, naming the item."""
    try:
        metrics = compute_metrics(items, subject.beta, subject.fixed_thresholds, plan)
    except ValueError as error:
        raise UserError(str(error)) from None
    subsets = {}
    for subset in dict.fromkeys(item.subset for item in items):
        members = [item for item in items if item.subset == subset]
        counts = {
            "error": sum(item.label >= 0 for item in members),
            "correct": sum(item.label < 0 for item in members),
            "steps": sum(len(item.n_tokens) for item in members),
            "tokens": int(sum(item.n_tokens.sum() for item in members)),
            "empty_steps": int(sum((item.n_tokens == 0).sum() for item in members)),
        }
        subsets[subset] = (len(members), counts, data_hash(item.digest for item in members))
    benchmark = make_benchmark(NAME, VERSION, subsets, limit=limit)
    return ProcessBenchEntry(
        subject=subject,
        benchmark=benchmark,
        metrics=metrics,
        items=written,
        provenance=provenance,
        miniature=miniature,
    )


def recompute(path: str | Path, *, n_resamples: int | None = None, seed: int | None = None) -> ProcessBenchEntry:
    """Every metric again from an items file, without a model; the items must be those that the entry beside them describes.

    Args:
        path: an items file, an entry file, or the folder that holds them. What the items do not say (the subject, beta,
            provenance) is read from the entry beside them; without one, beta is 1 and the subject is unknown.
        n_resamples, seed: None: as in the entry beside the items, or the defaults.

    Raises:
        UserError: no such file, or something wrong in it.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    entry_path = path if path.name == ENTRY_NAME else folder / ENTRY_NAME
    old = read_entry(entry_path, ProcessBenchEntry) if entry_path.exists() else None
    items_path = path
    if path.is_dir() or path == entry_path:
        items_path = folder / Path(old.items.file if old and old.items else "items.jsonl").name
    if not items_path.exists():
        raise UserError(f"{items_path}: no such items file; pass the items.jsonl of a run, or the run's folder")
    items = read_items(items_path)
    content = items_path.read_bytes()
    described = Items(file=items_path.name, sha256=hashlib.sha256(content).hexdigest(), n=len(items))
    if old is not None and old.items is not None and old.items != described:
        raise UserError(
            f"{items_path}: is not the file that {entry_path} describes (it has {described.n:,} items and sha256 "
            f"{described.sha256[:12]}..., expected {old.items.n:,} and {old.items.sha256[:12]}...); restore it, or copy it to "
            "a folder of its own to compute figures without the entry"
        )
    provenance = old.provenance if old else None
    before = Plan(provenance.n_resamples, provenance.seed) if provenance else Plan()
    plan = before.changed(n_resamples, seed)
    if old is None:
        subject = Subject(
            name=folder.resolve().name, source=items_path.name, kind="unknown", step_valued=items[0].sums is None
        )
        return build_entry(items, subject, plan, described, None, None)
    if provenance is not None:
        provenance = provenance.model_copy(update={"n_resamples": plan.n_resamples, "seed": plan.seed})
    return build_entry(items, old.subject, plan, described, provenance, old.benchmark.limit, miniature=old.miniature)


def _score_missing(
    model: RewardModel,
    traces: Sequence[Trace],
    encoded: Sequence[EncodedTrace],
    done: set[tuple[str, str]],
    folder: RunFolder[TraceItem],
    batch_tokens: int,
    share: Share,
) -> int:
    """Score what is missing of this process's batches. Returns tokens run through the model."""
    lengths = [len(one) for one in encoded]
    missing = {i for i, trace in enumerate(traces) if (trace.subset, trace.id) not in done}
    mine = plan_batches(lengths, batch_tokens)[share.rank :: share.count]

    def score(indices: Sequence[int]) -> None:
        scores = model.score([encoded[i] for i in indices])
        folder.append(_item(traces[i], one) for i, one in zip(indices, scores, strict=True) if i in missing)

    return run_missing("scoring", mine, lengths, missing, batch_tokens, score, quiet=not share.main)


def _item(trace: Trace, scores: StepScores) -> TraceItem:
    kept = _checked(trace, scores)
    return TraceItem(
        trace.subset,
        trace.id,
        trace.generator,
        trace.label,
        trace.digest(),
        kept.n_tokens,
        kept.sums,
        kept.scores,
        kept.votes,
    )


def _checked(trace: Trace, scores: StepScores) -> StepScores:
    for values in (scores.sums, scores.scores):
        if values is not None and np.isnan(values).any():
            raise UserError(
                f"{trace.subset}/{trace.id}: the model gives a NaN score; try --dtype float32, and check the checkpoint"
            )
    return scores


def _old_run(path: Path) -> Run | None:
    """How the entry that is there came about; None when it cannot be read (another version wrote it): it is written anew."""
    try:
        provenance = read_entry(path, ProcessBenchEntry).provenance
    except UserError:
        return None
    return provenance.run if provenance else None


def _keep_matching(
    found: dict[tuple[str, str], TraceItem], traces: Sequence[Trace]
) -> dict[tuple[str, str], TraceItem]:
    """Items whose trace is still the one they were computed from."""
    wanted = {(trace.subset, trace.id): trace.digest() for trace in traces}
    return {key: item for key, item in found.items() if wanted.get(key) == item.digest}


def _fit(
    model: RewardModel, traces: Sequence[Trace], encoded: Sequence[EncodedTrace], *, skip: bool
) -> tuple[list[Trace], list[EncodedTrace]]:
    limit = model.max_length
    too_long = [i for i, one in enumerate(encoded) if limit is not None and len(one) > limit]
    if too_long and not skip:
        worst = max(too_long, key=lambda i: len(encoded[i]))
        raise UserError(
            f"{len(too_long)} of {len(traces)} traces are longer than the model's {limit:,} positions (the longest, "
            f"{traces[worst].subset}/{traces[worst].id}, has {len(encoded[worst]):,} tokens); leave them out with "
            "--skip-overlong (the entry then compares only with others on the same traces), or use another model"
        )
    dropped = set(too_long)
    if len(dropped) == len(traces):
        raise UserError(f"every trace is longer than the model's {limit:,} positions; use another model")
    kept = [i for i in range(len(traces)) if i not in dropped]
    return [traces[i] for i in kept], [encoded[i] for i in kept]


def _subsets(traces: Sequence[Trace]) -> list[str]:
    return list(dict.fromkeys(trace.subset for trace in traces))
