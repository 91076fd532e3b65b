"""Step scores of a user's own solutions, without labels, and predicted first errors; written as they come, resumable."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prmbench.benchmarks.processbench.run import ProcessBenchEntry
from prmbench.data.records import check_fields
from prmbench.data.solutions import Solution
from prmbench.data.tokens import EncodedTrace, ids_hash
from prmbench.engines.batching import BatchRunner, default_batch_tokens, plan_batches
from prmbench.errors import UserError, nearest
from prmbench.progress import progress
from prmbench.reports.compare import find_entry, read_any_entry
from prmbench.results.schema import digest
from prmbench.results.store import RunFolder
from prmbench.reward_models.base import RewardModel, StepScores
from prmbench.reward_models.subject import describe
from prmbench.stats.protocols import STEP_PROTOCOL, TOKEN_PROTOCOLS, token_protocol_scores
from prmbench.stats.thresholds import first_below
from prmbench.stats.votes import vote

FILE_STEM = "scores"
TRANSFERABLE = ("gsm8k", "fixed", "oracle")


@dataclass(frozen=True)
class Threshold:
    """A step whose score under `protocol` is below `value` (logit space) is taken for wrong. said: where it is from, in words."""

    value: float
    protocol: str
    said: str


@dataclass(frozen=True)
class Scored:
    """The scores of one solution.

    Attributes:
        id, digest: the solution's. n_tokens: tokens of each step. scores: by protocol, in logit space, float64, shape [n_steps].
        votes: of a critic, instead of scores. first_error: index of the first step taken for wrong, -1: none; None: no
            threshold, or no vote holds a verdict.
    """

    id: str
    digest: str
    n_tokens: list[int]
    scores: dict[str, list[float]]
    votes: list[int | None] | None = None
    first_error: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What names it within a run."""
        return "", self.id

    def line(self) -> str:
        """One JSON line, numbers exact."""
        return json.dumps(self.fields()) + "\n"

    def fields(self) -> dict[str, Any]:
        """What is written of it."""
        return {name: value for name, value in self.__dict__.items() if name != "votes" or value is not None}


def parse_scored(place: str, fields: Any) -> Scored:
    """Check one line. Raises UserError that names the place and the field."""
    kept = check_fields(
        place, fields, {"id": str, "digest": str, "n_tokens": list, "scores": dict}, "a scored solution"
    )
    return Scored(**kept, votes=fields.get("votes"), first_error=fields.get("first_error"))


def protocols_of(model: RewardModel) -> tuple[str, ...]:
    """The scores that a model gives a step, the one to read first first; none for a critic."""
    return () if model.predicts else (STEP_PROTOCOL,) if model.step_valued else TOKEN_PROTOCOLS


def check_protocol(protocol: str | None, model: RewardModel) -> None:
    """Raise UserError when a model gives no such score."""
    known = protocols_of(model)
    if protocol is not None and protocol not in known:
        gives = ", ".join(known) or "votes, not scores"
        raise UserError(f"--protocol {protocol}: this model gives {gives}{nearest(protocol, known)}")


def find_threshold(text: str, model: RewardModel, protocol: str | None = None) -> Threshold:
    """What ``--threshold`` asks for.

    Args:
        text: a number; or ENTRY, ENTRY:POLICY or ENTRY:POLICY:PROTOCOL, ENTRY a ProcessBench entry (file or run folder) of this
            very model. POLICY: gsm8k (the default where the entry has it), fixed, or oracle of an entry with one subset: these are
            one threshold. (crossfit has one a fold, for the entry's own traces.)
        protocol: of a number, or of an entry without PROTOCOL; None: the first of `protocols_of`.

    Raises:
        UserError: neither a number nor an entry, an entry of another model, a policy or protocol it does not have.
    """
    known = protocols_of(model)
    if not known:
        raise UserError(f"--threshold: a {model.kind} names the first wrong step itself; leave it out")
    check_protocol(protocol, model)
    try:
        value = float(text)
    except ValueError:
        return _from_entry(text, model, protocol)
    if not math.isfinite(value):
        raise UserError(f"--threshold {text}: expected a finite number (a logit), or an entry")
    return Threshold(value, protocol or known[0], "as given")


def _from_entry(text: str, model: RewardModel, protocol: str | None) -> Threshold:
    parts = [text] if Path(text).exists() else text.split(":")
    path = find_entry(parts[0])
    entry = read_any_entry(path)
    if entry.benchmark.name != "processbench" or len(parts) > 3:
        raise UserError(
            f"--threshold {text}: expected a ProcessBench entry as ENTRY, ENTRY:POLICY or ENTRY:POLICY:PROTOCOL"
        )
    _same_model(path, entry, model)
    used = parts[2] if len(parts) > 2 else protocol or next(iter(entry.metrics.protocols))
    if protocol not in (None, used):
        raise UserError(f"--threshold {text}: names the protocol {used}, --protocol {protocol} another; leave one out")
    if used not in entry.metrics.protocols:
        raise UserError(
            f"--threshold {text}: {path} has no protocol '{used}'; it has {', '.join(entry.metrics.protocols)}"
        )
    found = entry.metrics.protocols[used].subsets
    usable: dict[str, float] = {}
    for policy in TRANSFERABLE:
        values = {
            t for result in found.values() if policy in result.policies for t in result.policies[policy].thresholds
        }
        if len(values) == 1:
            usable[policy] = values.pop()
    wanted = parts[1] if len(parts) > 1 else next(iter(usable), "gsm8k")
    if wanted not in usable:
        has = ", ".join(usable) or "none that is (crossfit has one a fold; evaluate on gsm8k, or on one subset)"
        raise UserError(f"--threshold {text}: {path} has no single threshold '{wanted}' of {used}; it has {has}")
    said = f"{wanted} threshold of {used} on {', '.join(found)}, from {entry.subject.name}'s entry"
    return Threshold(usable[wanted], used, said)


def _same_model(path: Path, entry: ProcessBenchEntry, model: RewardModel) -> None:
    mine = describe(model, entry.subject.name, model.source)
    pairs = {
        f"subject.{name}": (getattr(entry.subject, name), getattr(mine, name))
        for name in ("kind", "weights", "beta", "discount", "scoring")
    }
    for name in ("read_state", "plugin"):  # of the facts, what decides scores
        pairs[f"subject.facts.{name}"] = (entry.subject.facts.get(name), mine.facts.get(name))
    if entry.provenance is not None:
        pairs["provenance.template_hash"] = (entry.provenance.template_hash, model.encoder.template_hash())
    for name, (there, here) in pairs.items():
        if there != here:
            raise UserError(
                f"--threshold: {path} is of another model, or of other text around its steps (field '{name}' differs); a "
                "threshold means something for the model and the layout it was chosen for only"
            )


def score_solutions(
    model: RewardModel,
    solutions: Sequence[Solution],
    *,
    output: Path | None = None,
    threshold: Threshold | None = None,
    batch_tokens: int | None = None,
) -> list[Scored]:
    """Score solutions, in the order given; with an output folder, into its ``scores.jsonl``, where an interrupted call goes on.

    Raises:
        UserError: a solution longer than the model's positions, a NaN score (it is named), or trouble with the folder.
        KeyboardInterrupt: with a message that says what is kept.
    """
    encoded = [model.encode(one.problem, one.steps) for one in solutions]
    for one, trace in zip(solutions, encoded, strict=True):
        if model.max_length is not None and len(trace) > model.max_length:
            raise UserError(
                f"solution '{one.id}' needs {len(trace):,} tokens, the model has {model.max_length:,} positions; take it out, "
                "or use another model"
            )
    device, dtype = model.device_and_dtype()
    budget = batch_tokens or model.batch_tokens or default_batch_tokens(device)
    if output is None:
        found: dict[str, Scored] = {}
        _score(model, solutions, encoded, threshold, budget, set(), lambda done: found.update({s.id: s for s in done}))
        return [found[one.id] for one in solutions]
    subject = describe(model, "", model.source)
    settings = {
        "subject": subject.model_dump(mode="json", exclude={"name", "source", "reference"}),
        "template": model.encoder.template_hash(),
        "numerics": {"device": device.partition(":")[0], "dtype": dtype, "batch_tokens": budget},
        "threshold": None if threshold is None else [threshold.value, threshold.protocol],
        "data": digest([one.digest() for one in solutions]),
        "tokens": ids_hash(one.ids for one in encoded),
    }
    with RunFolder(output, settings, parse_scored, stem=FILE_STEM) as folder:
        have = {one.id for one in folder.completed().values()}
        try:
            _score(model, solutions, encoded, threshold, budget, have, folder.append)
        except KeyboardInterrupt:
            kept = len(folder.completed())
            raise KeyboardInterrupt(
                f"stopped; {kept:,} of {len(solutions):,} solutions are kept in {output}: the same command goes on from there"
            ) from None
        written = folder.completed()
        ordered = [written["", one.id] for one in solutions]
        folder.finish(ordered)
    return ordered


def _score(
    model: RewardModel,
    solutions: Sequence[Solution],
    encoded: Sequence[EncodedTrace],
    threshold: Threshold | None,
    budget: int,
    have: set[str],
    keep: Any,
) -> None:
    """Score batches with anything missing, whole, so that the numbers stay the same; `keep` gets what is new."""
    lengths = [len(one) for one in encoded]
    missing = {i for i, one in enumerate(solutions) if one.id not in have}
    todo = [batch for batch in plan_batches(lengths, budget) if missing & set(batch)]
    runner = BatchRunner(budget)

    def score(indices: Sequence[int]) -> None:
        found = model.score([encoded[i] for i in indices])
        new = [
            _scored(model, solutions[i], one, threshold) for i, one in zip(indices, found, strict=True) if i in missing
        ]
        keep(new)
        advance(len(new))

    with progress("scoring", len(solutions), "solutions", done=len(solutions) - len(missing)) as advance:
        for batch in todo:
            runner.run(batch, lengths, score)


def _scored(model: RewardModel, solution: Solution, found: StepScores, threshold: Threshold | None) -> Scored:
    n_tokens = found.n_tokens.tolist()
    if found.votes is not None:
        return Scored(solution.id, solution.digest(), n_tokens, {}, list(found.votes), vote(found.votes))
    if found.scores is not None:
        scores = {STEP_PROTOCOL: found.scores}
    else:
        assert found.sums is not None
        scores = token_protocol_scores(found.sums, found.n_tokens, model.card.scale())
    if any(np.isnan(values).any() for values in scores.values()):
        raise UserError(
            f"solution '{solution.id}': the model gives a NaN score; try --dtype float32, and check the checkpoint"
        )
    return Scored(
        solution.id,
        solution.digest(),
        n_tokens,
        {name: values.tolist() for name, values in scores.items()},
        first_error=None if threshold is None else first_below(scores[threshold.protocol], threshold.value),
    )
