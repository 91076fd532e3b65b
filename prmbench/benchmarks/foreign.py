"""Scores of steps that another tool made, as an entry."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from prmbench.benchmarks.base import Job, Plan, Units
from prmbench.benchmarks.groups import grouped
from prmbench.benchmarks.precision import tell
from prmbench.data.records import check_object, find_file, read_records, shown
from prmbench.data.traces import Trace, data_hash
from prmbench.errors import UserError, printable
from prmbench.results.provenance import versions
from prmbench.results.schema import Provenance, Subject
from prmbench.reward_models.base import StepScores

EXPECTED = "an object with id and scores, one number a step"
ELSEWHERE = "elsewhere"
"""What stands for engine, device and number type of scores that were not computed here."""


MakeItem = Callable[[Trace, StepScores], Any]
"""Makes a benchmark's item of a trace and the scores of its steps."""


def plan_foreign(scores: Path, job: Job, make_item: MakeItem, check: Callable[[Subject], object]) -> Plan:
    """Plan an entry of scores that another tool made. The higher a score, the better the step; they are kept as they are.

    Args:
        scores: A file of records ``{id, scores}``, one number a step, with ``subset`` where an id is in several.
        job: The evaluation; ``data`` is a list of traces. There is no model.
        make_item: Makes the items.
        check: Raises UserError where the benchmark's options do not fit the subject.

    Raises:
        UserError: No trace has this id, the scores are not one number a step, an id is there twice, or no trace has scores.
    """
    file = find_file(scores, "a file of step scores")
    found = _read(file, job.data, make_item)
    items = [found[key] for key in ((trace.subset, trace.id) for trace in job.data) if key in found]
    missing = len(job.data) - len(items)
    remarks = (
        [f"{missing:,} of {len(job.data):,} traces have no scores in {file.name} and are left out"] if missing else []
    )
    tell(remarks)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    subject = Subject(name=job.name, source=file.name, kind="scores", weights={"scores": digest}, step_valued=True)
    check(subject)
    units = Units(wanted={item.key: item.digest for item in items}, ready=items)
    return Plan(
        subject=subject,
        encoder=None,
        settings={"limit": job.limit, "data": data_hash(item.digest for item in items)},
        rules={},
        engine=ELSEWHERE,
        numerics=(ELSEWHERE, ELSEWHERE),
        batch_tokens=0,
        units=lambda folder, share: units,
        provenance=Provenance(
            engine=ELSEWHERE,
            device=ELSEWHERE,
            dtype=ELSEWHERE,
            batch_tokens=0,
            template_hash="",
            token_options={},
            versions=versions(),
            seed=job.seed,
            n_resamples=0,
            warnings=remarks,
        ),
    )


def _read(file: Path, traces: list[Trace], make_item: MakeItem) -> dict[tuple[str, str], Any]:
    """The items by key. Raises UserError where the file does not fit the traces."""
    by_id = grouped(traces, lambda trace: trace.id)
    found: dict[tuple[str, str], Any] = {}
    for place, record in read_records(file):
        check_object(place, record, ("id", "scores"), EXPECTED)
        trace = _trace(place, record, by_id)
        if (trace.subset, trace.id) in found:
            raise UserError(f"{place}: trace '{printable(trace.id)}' has scores already; keep one record of it")
        scores = record["scores"]
        if not isinstance(scores, list) or not all(map(_is_score, scores)):
            raise UserError(f"{place}: field 'scores' is {shown(scores)}; expected a list of numbers, one a step")
        if len(scores) != len(trace.steps):
            raise UserError(
                f"{place}: has {len(scores)} scores, trace '{printable(trace.id)}' has {len(trace.steps)} steps"
            )
        values = np.array(scores, dtype=np.float64)
        none = np.zeros(len(scores), dtype=np.int64)
        found[trace.subset, trace.id] = make_item(trace, StepScores(none, scores=values))
    return found


def _is_score(value: Any) -> bool:
    """Whether a JSON value is a number that a float holds, and not NaN."""
    if type(value) not in (int, float):
        return False
    try:
        return not math.isnan(float(value))
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _trace(place: str, record: dict[str, Any], by_id: dict[str, list[Trace]]) -> Trace:
    name, subset = str(record["id"]), record.get("subset")
    several = [one for one in by_id.get(name, []) if subset in (None, one.subset)]
    if len(several) != 1:
        where = "" if subset is None else f" in subset {shown(subset)}"
        why = (
            "no trace of the data has it" if not several else "it is in several subsets; name one in the field 'subset'"
        )
        raise UserError(f"{place}: field 'id' is {shown(record['id'])}{where}: {why}")
    return several[0]
