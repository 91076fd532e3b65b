"""A benchmark as a package of somebody else would bring it: how often does a reward model score the last step above the first?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass as item

from prmbench.benchmarks.base import REWARD_MODEL, Benchmark, Column, DataRequest, Job, Plan, Units, option
from prmbench.benchmarks.differences import outcomes_by_subset
from prmbench.data.tokens import ids_hash
from prmbench.data.traces import Trace, data_hash, load_traces
from prmbench.results.items import ITEM_CONFIG, Item
from prmbench.results.schema import Estimate, Record
from prmbench.reward_models.subject import describe
from prmbench.stats.bootstrap import share_interval
from prmbench.stats.repeats import mean_resamples


@dataclass(frozen=True)
class RisingOptions:
    margin_of_rise: float = option(0.0, "how much higher the last step has to score")


@item(frozen=True, config=ITEM_CONFIG)
class Rise(Item):
    subset: str
    id: str
    digest: str
    rise: float


class RisingMetrics(Record):
    rising: Estimate = Field(description="share of traces whose last step scores above the first")
    margin_of_rise: float = Field(description="how much higher it had to score")


class Rising(Benchmark):
    """Does the last step score above the first?"""

    name, title, unit, figure = "rising", "Rising", "traces", "share that rises"
    measures, options, uses = frozenset({"rm"}), RisingOptions, REWARD_MODEL | {"data", "subset", "limit"}
    item_type, metrics_type = Rise, RisingMetrics

    def load(self, request: DataRequest) -> list[Trace]:
        return load_traces(request.data, request.subsets, request.limit)

    def plan(self, job: Job) -> Plan:
        model, traces, device = job.model, job.data, job.model.device_and_dtype()
        encoded = [model.encode(trace.problem, trace.steps) for trace in traces]

        def work(indices: Sequence[int]) -> list[Rise]:
            scores = model.score([encoded[i] for i in indices])
            values = [one.scores if one.sums is None else one.sums for one in scores]
            return [
                Rise(traces[i].subset, traces[i].id, traces[i].digest(), float(v[-1] - v[0]))
                for i, v in zip(indices, values, strict=True)
            ]

        keys = [(trace.subset, trace.id) for trace in traces]
        digests = {key: trace.digest() for key, trace in zip(keys, traces, strict=True)}
        units = Units(digests, [[key] for key in keys], [len(one) for one in encoded], work)
        settings = {"data": data_hash(digests.values()), "tokens": ids_hash(one.ids for one in encoded)}
        subject = describe(model, job.name, job.source)
        batch_tokens = job.batch_tokens or 1024
        return Plan(subject, model.encoder, settings, {}, model.engine, device, batch_tokens, lambda *_: units)

    def compute(self, items, subject, options, *, n_resamples, seed) -> RisingMetrics:
        values = np.array([float(one.rise > options.margin_of_rise) for one in items])
        samples = mean_resamples(values[:, None], n_resamples=n_resamples, rng=np.random.default_rng(seed))
        low, high = share_interval([values], samples[:, 0]) if n_resamples else (None, None)
        rising = Estimate(value=float(values.mean()), low=low, high=high)
        return RisingMetrics(rising=rising, margin_of_rise=options.margin_of_rise)

    def options_of(self, entry) -> RisingOptions:
        return RisingOptions(entry.metrics.margin_of_rise)

    def columns(self, entries) -> list[Column]:
        return [Column("rising", "rising", lambda entry: entry.metrics.rising)]

    def outcomes(self, measured, **choice):
        items, margin = measured.items, measured.entry.metrics.margin_of_rise
        values = {item.key: float(item.rise > margin) for item in items}
        return outcomes_by_subset(values, {item.key: item.digest for item in items})


RISING = Rising()
