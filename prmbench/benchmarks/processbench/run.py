"""Score traces: for a ProcessBench entry, or in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from prmbench.benchmarks.base import Job, Plan, RunKeywords, Units
from prmbench.benchmarks.foreign import plan_foreign
from prmbench.benchmarks.groups import grouped
from prmbench.benchmarks.precision import precision_warning, tell
from prmbench.benchmarks.processbench.benchmark import PROCESSBENCH, ProcessBenchOptions
from prmbench.benchmarks.processbench.schema import TraceItem
from prmbench.benchmarks.runner import Finished, evaluate_alone
from prmbench.data.tokens import EncodedTrace, ids_hash
from prmbench.data.traces import Trace, data_hash
from prmbench.engines.batching import default_batch_tokens
from prmbench.engines.missing import run_missing
from prmbench.errors import UserError, argument, naming_keywords
from prmbench.reward_models.base import RewardModel, StepScores
from prmbench.reward_models.subject import describe


def plan_traces(job: Job) -> Plan:
    """Plan an evaluation on traces.

    Args:
        job: The evaluation; ``data`` is a list of traces.

    Raises:
        UserError: No traces, or a trace longer than the model allows.
    """
    return plan_scoring(job, _item, Trace.digest, skip=job.options.skip_overlong)


def plan_scores(scores: Path, job: Job) -> Plan:
    """Plan an entry of scores that another tool made; see `plan_foreign`.

    Args:
        scores: The file of scores.
        job: The evaluation; ``data`` is a list of traces.
    """
    return plan_foreign(scores, job, _item, lambda _: None)


def plan_scoring(
    job: Job, make_item: Callable[[Trace, StepScores], TraceItem], digest: Callable[[Trace], str], *, skip: bool
) -> Plan:
    """Plan the scoring of traces, one item each.

    Args:
        job: The evaluation; ``data`` is a list of traces.
        make_item: Makes the item of a trace and its scores.
        digest: Hashes what decides a trace's item.
        skip: Whether traces longer than the model's positions are left out, and counted in a warning, instead of refused.

    Raises:
        UserError: No traces, or a trace longer than the model allows.
    """
    model, traces = job.model, list(job.data)
    assert model is not None
    if not traces:
        raise UserError(f"no traces to score; check {argument('limit')} and {argument('subsets')}")
    # Traces as the model sees them; what does not fit is left out where that was asked.
    encoded = [model.encode(trace.problem, trace.steps) for trace in traces]
    n_traces = len(traces)
    traces, encoded = _fit(model, traces, encoded, skip=skip)
    remarks = [] if len(traces) == n_traces else [_left_out(n_traces - len(traces), n_traces, model.max_length)]
    tell(remarks)
    device, dtype = model.device_and_dtype()
    by_key = {(trace.subset, trace.id): trace for trace in traces}

    # How missing traces are scored, which items of an earlier run still fit, and what is at risk.
    def work(indices: Sequence[int]) -> list[TraceItem]:
        scores = model.score([encoded[i] for i in indices])
        return [make_item(traces[i], one) for i, one in zip(indices, scores, strict=True)]

    def fits(item: TraceItem) -> bool:
        trace = by_key[item.key]
        return (item.label, item.generator, len(item.n_tokens)) == (trace.label, trace.generator, len(trace.steps))

    def warn(items: Sequence[TraceItem]) -> str | None:
        if model.kind != "implicit":
            return None
        sums = [item.sums for item in items if item.sums is not None]
        return precision_warning(dtype, np.concatenate(sums), np.concatenate([item.n_tokens for item in items]))

    # The plan: one trace is one unit.
    units = Units(
        wanted={key: digest(trace) for key, trace in by_key.items()},
        keys=[[key] for key in by_key],
        lengths=[len(one) for one in encoded],
        work=work,
        fits=fits,
    )
    return Plan(
        subject=describe(model, job.name, job.source),
        encoder=model.encoder,
        settings={
            "limit": job.limit,
            "data": {
                name: data_hash(map(digest, mine)) for name, mine in grouped(traces, lambda one: one.subset).items()
            },
            "tokens": ids_hash(one.ids for one in encoded),
        },
        rules={},
        engine=model.engine,
        numerics=(device, dtype),
        batch_tokens=job.batch_tokens or model.batch_tokens or default_batch_tokens(device),
        units=lambda folder, share: units,
        cached_tokens=lambda: model.cached_tokens,
        usage=model.usage,
        warn=warn,
        told=[*model.warnings, *remarks],
    )


def _left_out(n: int, total: int, limit: int | None) -> str:
    return (
        f"{n:,} of {total:,} traces are longer than the model's {limit:,} positions and are left out; the entry compares only with "
        "others on the same traces"
    )


def evaluate_traces(
    model: RewardModel,
    traces: Sequence[Trace],
    *,
    name: str,
    source: str,
    skip_overlong: bool = False,
    **run: Unpack[RunKeywords],
) -> Finished:
    """Score traces and leave a ProcessBench entry; see `evaluate_alone`.

    Args:
        model: The reward model.
        traces: The traces.
        name: The subject's name on tables.
        source: The checkpoint as the user named it.
        skip_overlong: Whether traces longer than the model's positions are left out instead of refused.
        **run: How it is run; see `RunKeywords`.
    """
    options = ProcessBenchOptions(skip_overlong)
    job = Job(data=list(traces), model=model, name=name, source=source, options=options, **run)
    return evaluate_alone(PROCESSBENCH, job)


@naming_keywords
def score_traces(model: RewardModel, traces: Sequence[Trace], batch_tokens: int | None = None) -> list[StepScores]:
    """Score traces in memory, without an output folder.

    Args:
        model: The reward model.
        traces: The traces; their labels are not read.
        batch_tokens: Padded tokens of a batch; None: what suits the device.

    Returns:
        One `StepScores` a trace, in the order given.

    Raises:
        UserError: A trace longer than the model allows, or a NaN score.

    Examples:
        >>> model = prmbench.load_reward_model("CKPT", reference="SFT")
        >>> traces = prmbench.load_traces("my-traces.jsonl")
        >>> scores = prmbench.score_traces(model, traces)
        >>> len(scores[0].sums) == len(traces[0].steps)
        True
    """
    encoded = [model.encode(trace.problem, trace.steps) for trace in traces]
    _fit(model, traces, encoded, skip=False)
    lengths = [len(one) for one in encoded]
    budget = batch_tokens or model.batch_tokens or default_batch_tokens(model.device_and_dtype()[0])
    found: dict[int, StepScores] = {}

    def work(indices: Sequence[int]) -> None:
        for i, one in zip(indices, model.score([encoded[i] for i in indices]), strict=True):
            _item(traces[i], one)  # which refuses what no entry may hold
            found[i] = one

    run_missing("scoring", lengths, set(range(len(traces))), budget, work, quiet=True)
    return [found[i] for i in range(len(traces))]


def _item(trace: Trace, scores: StepScores) -> TraceItem:
    fields = (trace.subset, trace.id, trace.generator, trace.label, trace.digest(), scores.n_tokens)
    item = TraceItem(*fields, scores.sums, scores.scores, scores.votes)
    refuse_nan(trace, item)
    return item


def refuse_nan(trace: Trace, item: TraceItem) -> None:
    """Refuse a score that is no number.

    Args:
        trace: The trace.
        item: Its item.

    Raises:
        UserError: There is one.
    """
    if item.first_nan() is not None:
        raise UserError(
            f"{trace.subset}/{trace.id}: the model gives a NaN score; try {argument('dtype', 'float32')}, and check the checkpoint"
        )


def _fit(
    model: RewardModel, traces: Sequence[Trace], encoded: Sequence[EncodedTrace], *, skip: bool
) -> tuple[list[Trace], list[EncodedTrace]]:
    """Traces within the model's positions; refuses or drops the others."""
    limit = model.max_length
    kept = [i for i, one in enumerate(encoded) if limit is None or len(one) <= limit]
    if len(kept) < len(traces) and not skip:
        worst = max(range(len(encoded)), key=lambda i: len(encoded[i]))
        raise UserError(
            f"{len(traces) - len(kept)} of {len(traces)} traces are longer than the model's {limit:,} positions (the longest, "
            f"{traces[worst].subset}/{traces[worst].id}, has {len(encoded[worst]):,} tokens); leave them out with "
            f"{argument('skip_overlong')} (the entry then compares only with others on the same traces), or use another model"
        )
    if not kept:
        raise UserError(f"every trace is longer than the model's {limit:,} positions; use another model")
    return [traces[i] for i in kept], [encoded[i] for i in kept]
