"""Entries in the formats of others: Every Eval Ever's schema, the evaluation results of the Hugging Face Hub, badges."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import yaml

from prmbench.benchmarks.base import Column, Measured
from prmbench.benchmarks.parts import Cell
from prmbench.benchmarks.tables import shown
from prmbench.data.problem_sets import KNOWN_SETS
from prmbench.data.traces import PROCESSBENCH_HUB, PROCESSBENCH_SUBSETS
from prmbench.errors import UserError
from prmbench.reports.escaping import one_line
from prmbench.results.schema import Estimate

EVERY_EVAL_EVER = "0.3.0"
"""Version of the schema that `to_every_eval_ever` writes."""


def to_every_eval_ever(measured: Measured, *, now: float | None = None) -> str:
    """Write an entry as a record of Every Eval Ever (evaleval/every_eval_ever, ``eval.schema.json``).

    Each column that a leaderboard has of the entry is a result, in percent where it is a share. Items are named by
    their hash. No text of a problem is written.

    Args:
        measured: The entry.
        now: When the record is made, in seconds since 1970; None: now.

    Returns:
        A JSON object.
    """
    # What made the figures.
    entry = measured.entry
    made = datetime.datetime.now(datetime.UTC).timestamp() if now is None else now
    provenance = entry.provenance
    engine = provenance.engine if provenance else "unknown"
    versions = provenance.versions if provenance else {}
    # What is known of the model: the form has no fields of their own for these.
    known = _texts(
        {
            "deployment_type": "self_deployed",
            "model_availability": "unknown",
            "kind": entry.subject.kind,
            "objective": entry.subject.objective,
            "preset": entry.subject.preset,
            "unverified": entry.subject.unverified,
            "verified": entry.subject.verified,
            "reference": entry.subject.reference,
            **{f"sha256 of {role}": value for role, value in entry.subject.weights.items()},
        }
    )
    # The record, in the form's words.
    record: dict[str, Any] = {
        "schema_version": EVERY_EVAL_EVER,
        "evaluation_id": f"{entry.benchmark.name}/{one_line(entry.subject.name)}/{made:.0f}",
        "retrieved_timestamp": f"{made:.0f}",
        "source_metadata": {
            "source_name": "prmbench",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
            "additional_details": _texts(
                {
                    "fingerprint": entry.benchmark.fingerprint,
                    "items": entry.items.n if entry.items else None,
                    "sha256 of items": entry.items.sha256 if entry.items else None,
                }
            ),
        },
        "eval_library": {"name": "prmbench", "version": versions.get("prmbench", metadata.version("prmbench"))},
        "model_info": {
            "name": one_line(entry.subject.name),
            "id": one_line(entry.subject.source or entry.subject.name),
            "inference_engine": {
                "name": engine,
                "version": versions.get("transformers" if engine == "hf" else engine, ""),
            },
            "additional_details": known,
        },
        "evaluation_results": list(_results(measured)),
    }
    if provenance is not None and provenance.run is not None:
        record["evaluation_timestamp"] = provenance.run.started
    return json.dumps(record, indent=2) + "\n"


def to_hub_results(measured: Measured) -> str:
    """Write an entry for the folder ``.eval_results/`` of a model on the Hugging Face Hub.

    There is a result for each subset that is a data set of the Hub, in percent.

    Args:
        measured: The entry.

    Returns:
        A YAML list.

    Raises:
        UserError: A part of the data only, the miniature, or no subset that is a data set of the Hub.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entry = measured.entry
    if entry.benchmark.limit is not None or entry.miniature:
        what = "the miniature" if entry.miniature else f"{entry.benchmark.limit:,} items of each subset"
        raise UserError(f"{measured.path}: is of {what}; the Hub shows results of whole data sets, so evaluate on one")
    figure = measured.benchmark.columns([entry])[0].title
    date = entry.provenance.run.started if entry.provenance and entry.provenance.run else None
    found = []
    for subset, estimate in _by_subset(measured).items():
        hub = _hub_id(entry.benchmark.name, subset)
        if hub is None or estimate.value is None:
            continue
        notes = f"prmbench {entry.benchmark.name} version {entry.benchmark.version}, {figure}"
        if estimate.low is not None and estimate.high is not None:
            notes += f", 95% interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
        notes += f", fingerprint {entry.benchmark.subsets[subset].fingerprint[:12]}"
        found.append(EvalResultEntry(hub, subset, round(100 * estimate.value, 2), date=date, notes=notes))
    if not found:
        names = one_line(", ".join(entry.benchmark.subsets))
        raise UserError(f"{measured.path}: none of its subsets ({names}) is a data set of the Hub that prmbench knows")
    return str(yaml.safe_dump(eval_result_entries_to_yaml(found), sort_keys=False))


def to_badge(measured: Measured) -> str:
    """Write an entry as the JSON of a badge, in the endpoint schema of shields.io: the first figure of the table.

    Args:
        measured: The entry.

    Returns:
        A JSON object. The colour is always the same one, because no figure is good or bad by itself.

    Raises:
        UserError: The benchmark has no table, or the figure is not defined.
    """
    entry = measured.entry
    columns = measured.benchmark.columns([entry])
    estimate = columns[0].estimate(entry) if columns else None
    if estimate is None or estimate.value is None:
        raise UserError(f"{measured.path}: has no figure of a table, and so none for a badge")
    message = shown(Cell.of(estimate, columns[0].unit))
    parts = []
    if entry.benchmark.name == "processbench" and not set(entry.benchmark.subsets) <= set(PROCESSBENCH_SUBSETS):
        parts.append(f"step errors {columns[0].title} on {', '.join(entry.benchmark.subsets)}")  # data of one's own
    else:
        parts.append(f"{measured.benchmark.title} {columns[0].title}")
    if entry.miniature:
        parts.append("miniature")
    if entry.benchmark.limit is not None:
        parts.append(f"{entry.benchmark.limit:,} items a subset")
    label = ", ".join(parts)
    badge = {"schemaVersion": 1, "label": one_line(label), "message": message, "color": "informational"}
    return json.dumps(badge, indent=1) + "\n"


def _by_subset(measured: Measured) -> dict[str, Estimate]:
    """The figure that ranks, by subset; where there is one subset, the figure of the whole."""
    entry = measured.entry
    columns = measured.benchmark.columns([entry])
    if len(entry.benchmark.subsets) == 1:
        whole = columns[0].estimate(entry)
        return {name: whole for name in entry.benchmark.subsets if whole is not None}
    found = {}
    for name in entry.benchmark.subsets:
        # A ProcessBench table has a column for each subset; figures of others stand by subset in the entry.
        own = next((column.estimate(entry) for column in columns if column.title == name), None)
        own = own or getattr(
            entry.metrics.subsets.get(name) if hasattr(entry.metrics, "subsets") else None, "average", None
        )
        if own is not None:
            found[name] = own
    return found


def _hub_id(benchmark: str, subset: str) -> str | None:
    if benchmark == "processbench":
        return PROCESSBENCH_HUB if subset in PROCESSBENCH_SUBSETS else None
    known = KNOWN_SETS.get(subset) if benchmark == "policy" else None
    return known.hub if known else None


def _results(measured: Measured) -> Iterator[dict[str, Any]]:
    entry = measured.entry
    timestamp = entry.provenance.run.started if entry.provenance and entry.provenance.run else None
    for column in measured.benchmark.columns([entry]):
        cell = Cell.of(column.estimate(entry), column.unit)
        if cell.value is None:
            continue
        details: dict[str, Any] = {"score": cell.value}
        if cell.low is not None and cell.high is not None:
            interval = {
                "lower": cell.low,
                "upper": cell.high,
                "confidence_level": 0.95,
                "method": "percentile bootstrap",
            }
            n_items = sum(data.n_items for data in entry.benchmark.subsets.values())
            details["uncertainty"] = {"confidence_interval": interval, "num_samples": n_items}
            if entry.provenance is not None:
                details["uncertainty"]["num_bootstrap_samples"] = entry.provenance.n_resamples
        result: dict[str, Any] = {
            "evaluation_name": f"{measured.benchmark.title}: {one_line(column.title)}",
            "source_data": _source(measured),
            "metric_config": {
                "metric_id": f"prmbench.{entry.benchmark.name}.{one_line(column.key)}",
                "metric_name": one_line(column.title),
                "lower_is_better": not column.higher_is_better,
                **_range(column),
            },
            "score_details": details,
        }
        if timestamp is not None:
            result["evaluation_timestamp"] = timestamp
        yield result


def _range(column: Column) -> dict[str, Any]:
    """The range of a share in percent; of other figures there is none to say."""
    return {"score_type": "continuous", "min_score": 0.0, "max_score": 100.0} if column.unit == "%" else {}


def _source(measured: Measured) -> dict[str, Any]:
    entry = measured.entry
    subsets = entry.benchmark.subsets
    hub = {_hub_id(entry.benchmark.name, name) for name in subsets}
    more = _texts(
        {
            "fingerprint": entry.benchmark.fingerprint,
            "benchmark version": entry.benchmark.version,
            "limit": entry.benchmark.limit,
            "miniature": entry.miniature or None,
            **{f"items of {name}": data.n_items for name, data in subsets.items()},
            **{f"setting {name}": json.dumps(value) for name, value in entry.benchmark.settings.items()},
        }
    )
    about: dict[str, Any] = {"dataset_name": one_line(", ".join(subsets)), "additional_details": more}
    (only,) = hub if len(hub) == 1 else (None,)
    if only is None:
        return {**about, "source_type": "other"}
    return {
        **about,
        "source_type": "hf_dataset",
        "hf_repo": only,
        "samples_number": sum(d.n_items for d in subsets.values()),
    }


def _texts(fields: Mapping[str, Any]) -> dict[str, str]:
    """What is known of some fields, as texts of one line."""
    return {one_line(name): one_line(str(value)) for name, value in fields.items() if value is not None}
