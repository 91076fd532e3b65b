"""Is a prefix value a probability of a right answer? Both ways to read one off it, along the response (DESIGN 4.7)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prmbench.benchmarks.best_of_n.run import Judged, check_positions, encode_candidates, has_no_token, judge
from prmbench.benchmarks.clustered import clustered_estimates, numbered
from prmbench.benchmarks.missing import run_missing
from prmbench.benchmarks.td_probe.metrics import link_margin
from prmbench.data.completions import StoredCompletion
from prmbench.data.prompts import PromptTemplate
from prmbench.data.records import check_fields, check_number, read_records
from prmbench.data.tokens import EncodedTrace, ids_hash
from prmbench.data.traces import data_hash
from prmbench.engines.batching import default_batch_tokens, plan_batches
from prmbench.errors import UserError
from prmbench.results.items import recompute_entry
from prmbench.results.provenance import run_provenance
from prmbench.results.schema import Benchmark, Entry, Estimate, Record, Subject, make_benchmark
from prmbench.results.store import RunFolder, default_folder
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.subject import describe
from prmbench.stats.calibration import ece_rows, margin_logit, reliability, sigmoid
from prmbench.stats.weighted import weighted_auc
from prmbench.verify import verifier_version

NAME = "calibration"
VERSION = 1
PARTS = 5
N_BINS = 10

Floats = NDArray[np.float64]


class LinkResult(Record):
    """Probabilities read off the values of one part of the response by one link."""

    predicted: Estimate = Field(description="mean predicted probability")
    brier: Estimate = Field(description="mean squared difference of prediction and outcome")
    ece: Estimate = Field(description=f"expected calibration error, {N_BINS} bins of equal width")
    diagram: list[tuple[float, float, float]] = Field(
        description="non-empty bins: mean prediction, share right, share of the rollouts"
    )


class PartResult(Record):
    """Prefixes that end at one share of the response."""

    upto: float = Field(description="share of the response's tokens in the prefix; 1: the whole response")
    auc: Estimate = Field(description="AUC of the value against the outcome")
    links: dict[str, LinkResult] = Field(
        description="margin: the objective's own link; naive: the sigmoid of the value (the same where the margin is 0)"
    )


class CalibrationMetrics(Record):
    """Figures of a calibration probe."""

    n_rollouts: int
    pass_rate: Estimate = Field(description="share of right rollouts")
    brier_constant: float = Field(description="Brier score of the pass rate as everyone's prediction")
    parts: list[PartResult]


CalibrationEntry = Entry[CalibrationMetrics]


@dataclass(frozen=True)
class CalibrationItem:
    """One rollout. t: tokens of each of its prefixes. sums: of the token values over them, before beta."""

    subset: str
    id: str
    sample: int
    digest: str
    correct: bool
    t: list[int]
    sums: list[float]

    @property
    def key(self) -> tuple[str, str]:
        """What names it within a run."""
        return self.subset, f"{self.id}/{self.sample}"

    def line(self) -> str:
        """One JSON line."""
        return json.dumps(self.__dict__) + "\n"


def parse_calibration_item(place: str, fields: Any) -> CalibrationItem:
    """Check one item's fields. Raises UserError that names the place and the field."""
    kinds: dict[str, type] = {"subset": str, "id": str, "sample": int, "digest": str, "correct": bool}
    kept = check_fields(place, fields, {**kinds, "t": list, "sums": list}, "an item")
    if {len(kept["t"]), len(kept["sums"])} != {PARTS}:
        raise UserError(f"{place}: fields 't' and 'sums' must hold {PARTS} numbers each")
    for t, total in zip(kept["t"], kept["sums"], strict=True):
        check_number(place, "t", t, low=1, whole=True)
        check_number(place, "sums", total)
    return CalibrationItem(**kept)


def read_calibration_items(path: Path) -> list[CalibrationItem]:
    """Read an items file. Raises UserError for a broken line or a wrong field."""
    return [parse_calibration_item(place, fields) for place, fields in read_records(path)]


def prefix_lengths(n: int) -> list[int]:
    """Tokens in the prefixes that end at each fifth of n tokens, rounded up."""
    return [-(-n * i // PARTS) for i in range(1, PARTS + 1)]


def compute_calibration(
    items: Sequence[CalibrationItem], subject: Subject, *, n_resamples: int, seed: int
) -> CalibrationMetrics:
    """All figures, from items and the subject; intervals draw problems with replacement.

    Raises:
        UserError: the subject's values are not known to be logits.
    """
    link = link_margin(subject)
    if link is None:
        raise UserError(
            f"'{subject.name}': objective {json.dumps(subject.objective)} with margin {json.dumps(subject.margin)} has no link "
            "from values to probabilities"
        )
    which, margin = link
    cluster = numbered([(item.subset, item.id) for item in items])
    outcome = np.array([float(item.correct) for item in items])
    parts = []
    for i in range(PARTS):
        value = subject.beta * np.array([item.sums[i] for item in items])
        if which == "mean":
            value = value / np.array([item.t[i] for item in items])
        read = {name: sigmoid(margin_logit(value, m)) for name, m in (("margin", margin), ("naive", 0.0))}

        def figures(w: Floats, value: Floats = value, read: dict[str, Floats] = read) -> dict[str, Floats]:
            total = w.sum(axis=1)
            found = {"auc": weighted_auc(value, w * outcome, w * (1 - outcome))}
            for name, p in read.items():
                found[f"{name} predicted"] = w @ p / total
                found[f"{name} brier"] = w @ (p - outcome) ** 2 / total
                found[f"{name} ece"] = ece_rows(p, outcome, w, N_BINS)
            return found

        found = clustered_estimates(cluster, figures, n_resamples, seed)
        links = {
            name: LinkResult(
                predicted=found[f"{name} predicted"],
                brier=found[f"{name} brier"],
                ece=found[f"{name} ece"],
                diagram=_diagram(p, outcome),
            )
            for name, p in read.items()
        }
        parts.append(PartResult(upto=(i + 1) / PARTS, auc=found["auc"], links=links))
    rate = float(outcome.mean())
    passed = clustered_estimates(
        cluster, lambda w: {"rate": w @ outcome / w.sum(axis=1)}, n_resamples, seed, frozenset({"rate"})
    )
    return CalibrationMetrics(
        n_rollouts=len(items), pass_rate=passed["rate"], brier_constant=rate * (1 - rate), parts=parts
    )


def _diagram(p: Floats, outcome: Floats) -> list[tuple[float, float, float]]:
    bins = reliability(p, outcome, n_bins=N_BINS)
    some = bins.share > 0
    return list(
        zip(bins.predicted[some].tolist(), bins.observed[some].tolist(), bins.share[some].tolist(), strict=True)
    )


def evaluate_calibration(
    model: RewardModel,
    candidates: Sequence[StoredCompletion],
    prompt: PromptTemplate,
    *,
    name: str,
    source: str,
    output: Path | None = None,
    n_resamples: int = 2_000,
    seed: int = 0,
    batch_tokens: int | None = None,
    miniature: bool = False,
) -> tuple[CalibrationEntry, Path]:
    """Value every rollout at five prefixes and compare with its verdict; the same call goes on where an interrupted one stopped.
    Rollouts without a token (their prompt left no room) have no prefix, and are left out.

    Raises:
        UserError: an objective whose values are no logits, an IPVRM of unknown margin, a rollout longer than the model allows, or
            trouble with the folder.
    """
    subject = describe(model, name, source)
    if link_margin(subject) is None:
        if (subject.objective or "").startswith("ipvrm"):
            raise UserError(f"{model.source}: nothing says its margin, which the link needs; pass --margin (0: none)")
        gives = (
            f"objective '{subject.objective}' gives" if subject.objective else "nothing says its objective; most give"
        )
        raise UserError(
            f"{model.source}: {gives} values that are no probability's logit; calibration is defined for ipvrm and implicit_prm "
            "(pass --objective where the card does not say)"
        )
    pairs = zip(candidates, encode_candidates(model, candidates, prompt), strict=True)
    valued = [(rollout, ids) for rollout, ids in pairs if not has_no_token(rollout, ids)]  # the others have no prefix
    if not valued:
        raise UserError("no rollout has a token; nothing to value")
    candidates, encoded = [rollout for rollout, _ in valued], [ids for _, ids in valued]
    check_positions(model, candidates, encoded)
    device, dtype = model.device_and_dtype()
    batch_tokens = batch_tokens or default_batch_tokens(device)
    rules = {"prompt": prompt.name, "verifier": verifier_version()}
    settings = {
        "benchmark": {"name": NAME, "version": VERSION},
        "subject": subject.model_dump(mode="json", exclude={"name", "source", "reference"}),
        "template": model.encoder.template_hash(),
        "numerics": {"device": device.partition(":")[0], "dtype": dtype, "batch_tokens": batch_tokens},
        "data": data_hash(one.digest() for one in candidates),
        "tokens": ids_hash(one.ids for one in encoded),
        "rules": rules,
    }
    folder = output or default_folder(NAME, name, settings)
    judged = judge(candidates, prompt)
    with RunFolder(folder, settings, parse_calibration_item) as run_folder:
        started, done = datetime.now(UTC), run_folder.completed()
        tokens = _value_missing(model, judged, encoded, set(done), run_folder, batch_tokens)
        found = run_folder.completed()
        items = [found[one.key] for one in candidates]
        written = run_folder.finish(items)
        entry = CalibrationEntry(
            subject=subject,
            benchmark=calibration_benchmark(items, rules),
            metrics=compute_calibration(items, subject, n_resamples=n_resamples, seed=seed),
            items=written,
            provenance=run_provenance(
                model.encoder,
                engine=model.engine,
                device=device,
                dtype=dtype,
                batch_tokens=batch_tokens,
                seed=seed,
                n_resamples=n_resamples,
                started=started,
                tokens=tokens,
                resumed=len(done),
            ),
            miniature=miniature,
        )
        return entry, run_folder.write_entry(entry)


def calibration_benchmark(items: Sequence[CalibrationItem], rules: dict[str, Any]) -> Benchmark:
    """What an entry on these items was evaluated on."""
    subsets = {}
    for subset in dict.fromkeys(item.subset for item in items):
        mine = [item for item in items if item.subset == subset]
        counts = {"rollouts": len(mine), "tokens": sum(item.t[-1] for item in mine)}
        subsets[subset] = (len({item.id for item in mine}), counts, data_hash(item.digest for item in mine))
    return make_benchmark(NAME, VERSION, subsets, rules)


def recompute_calibration(path: Path, *, n_resamples: int | None = None, seed: int | None = None) -> CalibrationEntry:
    """Every metric again from the items of a run's folder. See `prmbench.results.items.recompute_entry`."""

    def compute(items: Sequence[CalibrationItem], old: CalibrationEntry, **statistics: int) -> CalibrationMetrics:
        return compute_calibration(items, old.subject, **statistics)

    return recompute_entry(path, CalibrationEntry, read_calibration_items, compute, n_resamples=n_resamples, seed=seed)


def _value_missing(
    model: RewardModel,
    judged: Judged,
    encoded: Sequence[EncodedTrace],
    done: set[tuple[str, str]],
    folder: RunFolder[CalibrationItem],
    batch_tokens: int,
) -> int:
    """Value what is missing. Returns tokens run through the model."""
    lengths = [len(one) for one in encoded]
    missing = {i for i, one in enumerate(judged.candidates) if one.key not in done}

    def score(indices: Sequence[int]) -> None:
        items = []
        for i, values in zip(indices, model.token_values([encoded[i] for i in indices]), strict=True):
            one, t = judged.candidates[i], prefix_lengths(len(values))
            upto = np.cumsum(values)
            sums = [float(upto[k - 1]) for k in t]
            items.append(CalibrationItem(one.subset, one.id, one.sample, one.digest(), judged.correct[i], t, sums))
        folder.append(item for item in items if item.key not in done)

    return run_missing("valuing", plan_batches(lengths, batch_tokens), lengths, missing, batch_tokens, score)
