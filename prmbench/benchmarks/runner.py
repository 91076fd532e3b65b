"""Run a benchmark: the folder and its lock, what is missing, several processes, provenance, and the entry at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prmbench.benchmarks.base import Benchmark, Job, Plan, Units
from prmbench.benchmarks.groups import grouped
from prmbench.benchmarks.precision import tell, tell_usage
from prmbench.data.revisions import split_revision
from prmbench.engines.missing import run_missing
from prmbench.engines.processes import Share
from prmbench.errors import UserError
from prmbench.results.provenance import run_provenance
from prmbench.results.schema import ENTRY_NAME, BenchmarkData, Entry, Run, check_resamples, make_benchmark, read_entry
from prmbench.results.store import RunFolder, default_folder

Finished = tuple[Entry[Any], Path]
"""An entry and the path of its file."""


def evaluate_job(benchmark: Benchmark, job: Job) -> Finished | None:
    """Evaluate; the same call goes on where an earlier, interrupted one of the same settings stopped.

    Args:
        benchmark: What to evaluate on.
        job: What is evaluated, on which data, and how.

    Returns:
        The entry and the path of its file; None in processes other than the first.

    Raises:
        UserError: A mistake in what was asked for, or trouble with the folder (see `RunFolder`).
        KeyboardInterrupt: With a message that says what is kept.
    """
    if job.options is None:
        job = dataclasses.replace(job, options=benchmark.options())
    return run_plan(benchmark, benchmark.plan(job), job)


def evaluate_alone(benchmark: Benchmark, job: Job) -> Finished:
    """Evaluate in this process alone; see `evaluate_job`.

    Args:
        benchmark: What to evaluate on.
        job: What is evaluated, on which data, and how.
    """
    found = evaluate_job(benchmark, job)
    assert found is not None  # it is, in the first process
    return found


def run_plan(benchmark: Benchmark, plan: Plan, job: Job) -> Finished | None:
    """Carry out a plan; see `evaluate_job`.

    Args:
        benchmark: What to evaluate on.
        plan: What is to be done.
        job: The job that the plan was made of, with the benchmark's own options.
    """
    check_resamples(job.n_resamples)
    share = job.share or Share()
    settings = run_settings(benchmark, plan, asked_revisions(job, plan))
    path = Path(job.output) if job.output else default_folder(benchmark.name, job.name, settings)
    with RunFolder(path, settings, benchmark.parse, rank=share.rank) as folder:
        # The first process has checked or made the folder before any other looks into it.
        share.wait()
        started = datetime.now(UTC)
        cached_before = plan.cached_tokens()
        units = plan.units(folder.path, share)
        done = _fitting(units, folder)
        share.wait()
        tokens = _work(units, plan, folder, share, done)
        share.wait()
        if not share.main:
            return None

        # The items, in the order of the data, whoever made them.
        found = _fitting(units, folder) if units.work else {item.key: item for item in units.ready}
        items = [found[key] for key in units.wanted]
        written = folder.finish(items)

        # What the figures can be traced to.
        risk = plan.warn(items)
        warnings = [*([risk] if risk else []), *_trained_on(job)]
        tell(warnings)
        n_resamples = benchmark.resamples if job.n_resamples is None else job.n_resamples
        statistics = {"n_resamples": n_resamples, "seed": job.seed}
        device, dtype = plan.numerics
        provenance = plan.provenance or run_provenance(
            plan.encoder,
            engine=plan.engine,
            device=device,
            dtype=dtype,
            batch_tokens=plan.batch_tokens,
            started=started,
            tokens=tokens,
            resumed=units.resumed + len(done),
            cached_tokens=plan.cached_tokens() - cached_before,
            processes=share.count,
            service=tell_usage(plan.usage()),
            warnings=[*plan.told, *warnings],
            **statistics,
        )
        # Where nothing new was computed, the entry's run is still the one that computed it.
        old = _old_run(benchmark, folder.path / ENTRY_NAME) if tokens == 0 else None
        known: dict[str, Any] = {"revisions": used_revisions(job)}
        known |= {"training_overlap": job.training_overlap} if job.training_overlap is not None else {}
        provenance = provenance.model_copy(update=statistics | known | ({"run": old} if old else {}))
        entry = benchmark.entry_type(
            subject=plan.subject,
            benchmark=describe_items(benchmark, items, plan.rules, job.limit),
            metrics=benchmark.compute(items, plan.subject, job.options, **statistics),
            items=written,
            provenance=provenance,
            miniature=job.miniature,
        )
        return entry, folder.write_entry(entry)


def _trained_on(job: Job) -> list[str]:
    """A warning for each subset whose problems the training data hold."""
    return [
        f"the training data hold {one['exact']:,} of the {one['problems']:,} problems of {name} word by word, and share 13 "
        f"words in a row with {one['shared']:,}"
        for name, one in (job.training_overlap or {}).items()
        if one["exact"] or one["shared"]
    ]


def asked_revisions(job: Job, plan: Plan) -> dict[str, str]:
    """The revisions that were asked for, by role; they are part of a run's settings.

    Args:
        job: The job.
        plan: Its plan.
    """
    named = {"model": plan.subject.source, "reference": plan.subject.reference} if job.model is not None else {}
    named |= {"policy": job.policy.source} if job.policy is not None else {}
    found = {role: split_revision(source)[1] for role, source in named.items() if source is not None}
    found["data"] = job.data_revision
    return {role: revision for role, revision in found.items() if revision is not None}


def used_revisions(job: Job) -> dict[str, str]:
    """The commits of what came from the Hub, by role; of the data, the revision that was asked for.

    Args:
        job: The job.
    """
    found: dict[str, str] = dict(job.model.commits) if job.model is not None else {}
    if job.policy is not None and job.policy.commit is not None:
        found["policy"] = job.policy.commit
    return found | ({"data": job.data_revision} if job.data_revision is not None else {})


def run_settings(benchmark: Benchmark, plan: Plan, revisions: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides the items of a run; a folder holds one run's.

    Args:
        benchmark: What is evaluated on.
        plan: What is to be done.
        revisions: The revisions that were asked for, by role.
    """
    device, dtype = plan.numerics
    return {
        "benchmark": {"name": benchmark.name, "version": benchmark.version},
        # Names are not the subject: the hashes of its weights say what it is.
        "subject": plan.subject.model_dump(mode="json", exclude={"name", "source", "reference"}),
        "template": plan.encoder.template_hash() if plan.encoder is not None else None,
        "numerics": {
            "engine": plan.engine,
            "device": device.partition(":")[0],
            "dtype": dtype,
            "batch_tokens": plan.batch_tokens,
        },
        "rules": dict(plan.rules),
        **({"revisions": dict(revisions)} if revisions else {}),
        **plan.settings,
    }


def describe_items(
    benchmark: Benchmark, items: Sequence[Any], rules: Mapping[str, Any], limit: int | None
) -> BenchmarkData:
    """What an entry with these items was evaluated on.

    Args:
        benchmark: The benchmark.
        items: All items of a run.
        rules: What must be equal, besides the data, for two entries to be compared.
        limit: The limit that cut the data; None: nothing was cut.
    """
    subsets = {
        name: (len({item.id for item in mine}), benchmark.counts(mine), benchmark.data_hash(mine))
        for name, mine in grouped(items, lambda item: item.subset).items()
    }
    return make_benchmark(benchmark.name, benchmark.version, subsets, dict(rules), limit)


def _fitting(units: Units, folder: RunFolder[Any]) -> dict[tuple[str, str], Any]:
    """Items in the folder that are still of the source that the run has now."""
    return {
        key: item
        for key, item in folder.completed().items()
        if units.wanted.get(key) == item.digest and (units.fits is None or units.fits(item))
    }


def _work(units: Units, plan: Plan, folder: RunFolder[Any], share: Share, done: dict[tuple[str, str], Any]) -> int:
    """Do what is missing of this process's part. Returns the tokens that were run."""
    if units.work is None:
        return units.tokens
    missing = {i for i, keys in enumerate(units.keys) if any(key not in done for key in keys)}

    def work(indices: Sequence[int]) -> None:
        assert units.work is not None
        folder.append(item for item in units.work(indices) if item.key not in done)

    try:
        with folder.saying_what_is_kept(len(units.wanted), "items", lambda: len(_fitting(units, folder))):
            tokens = run_missing(
                units.title, units.lengths, missing, plan.batch_tokens, work, share=share, unit=units.progress_unit
            )
    finally:
        units.close()
    return units.tokens + (tokens if units.count is None else units.count())


def _old_run(benchmark: Benchmark, path: Path) -> Run | None:
    """How the entry that is there came about; None when there is none, or another version wrote it."""
    try:
        provenance = read_entry(path, benchmark.entry_type).provenance if path.exists() else None
    except UserError:
        return None
    return provenance.run if provenance else None
