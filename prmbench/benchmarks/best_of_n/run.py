"""Best-of-N reranking: how often the candidate that a reward model scores highest is right (DESIGN 4.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.best_of_n.metrics import (
    BestOfNMetrics,
    CandidateItem,
    Convention,
    checked_sizes,
    compute_best_of_n,
    parse_candidate,
    read_candidates,
)
from prmbench.benchmarks.missing import run_missing
from prmbench.benchmarks.precision import precision_warning, tell
from prmbench.data.completions import StoredCompletion
from prmbench.data.prompts import PromptTemplate
from prmbench.data.tokens import EncodedTrace, TraceEncoder, ids_hash, split_response
from prmbench.data.traces import data_hash
from prmbench.data.verdicts import Verdict
from prmbench.engines.batching import default_batch_tokens, plan_batches
from prmbench.errors import UserError
from prmbench.progress import progress
from prmbench.results.items import recompute_entry
from prmbench.results.provenance import run_provenance
from prmbench.results.schema import (
    Benchmark,
    Entry,
    make_benchmark,
)
from prmbench.results.store import RunFolder, default_folder
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.subject import describe
from prmbench.verify import Verifier, verifier_version
from prmbench.verify.classes import answer_classes

NAME = "best-of-n"
VERSION = 1

BestOfNEntry = Entry[BestOfNMetrics]


@dataclass(frozen=True)
class Judged:
    """Candidates with their verdicts and answer classes, in one order."""

    candidates: list[StoredCompletion]
    correct: list[bool]
    answers: list[int]


def judge(candidates: Sequence[StoredCompletion], prompt: PromptTemplate) -> Judged:
    """Verify every candidate's answer and find which answers are the same. A truncated candidate is wrong and has no answer."""
    with Verifier() as verifier, progress("verifying", len(candidates), "candidates") as advance:
        verdicts = verifier.verify(
            [c.text for c in candidates], [c.answer for c in candidates], style=prompt.style, on_done=advance
        )
    correct = [v == Verdict.CORRECT and not c.truncated for v, c in zip(verdicts, candidates, strict=True)]
    groups: dict[tuple[str, str], list[int]] = {}
    for i, one in enumerate(candidates):
        groups.setdefault((one.subset, one.id), []).append(i)
    answers = [-1] * len(candidates)
    for group in groups.values():
        found = answer_classes([candidates[i].text for i in group], [correct[i] for i in group], prompt.style)
        for i, answer in zip(group, found, strict=True):
            answers[i] = -1 if candidates[i].truncated else answer
    return Judged(list(candidates), correct, answers)


def check_positions(
    model: RewardModel, candidates: Sequence[StoredCompletion], encoded: Sequence[EncodedTrace]
) -> None:
    """Raise UserError when a candidate is longer than the model allows."""
    if model.max_length is None or not encoded:
        return
    longest = max(range(len(encoded)), key=lambda i: len(encoded[i]))
    if len(encoded[longest]) > model.max_length:
        raise UserError(
            f"candidate {candidates[longest].key[1]} of {candidates[longest].subset} has {len(encoded[longest]):,} tokens, "
            f"the model {model.max_length:,} positions; use another model, or sample shorter candidates"
        )


def encode_candidates(
    model: RewardModel, candidates: Sequence[StoredCompletion], prompt: PromptTemplate
) -> list[EncodedTrace]:
    """Token ids of each candidate: as sampled where the model's tokenizer reads the sampled ids the same, else its own.

    A model that scores marked steps sees the bare problem and the response's steps, laid out as its authors do.

    Raises:
        UserError: a model that gives no step scores.
    """
    if model.predicts:
        raise UserError(
            f"--benchmark best-of-n: a {model.kind} names the first wrong step and scores nothing; use another kind"
        )
    encoder = model.encoder
    if model.own_layout or not isinstance(encoder, TraceEncoder):
        separator = encoder.options.separator
        return [model.encode(one.problem, split_response(one.text, separator)) for one in candidates]
    prompts: dict[str, NDArray[np.int64]] = {}
    out = []
    for one in candidates:
        if one.problem not in prompts:
            prompts[one.problem] = encoder.prompt_ids(prompt.render(one.problem))
        ids = one.ids
        if ids is not None and (
            int(ids.max(initial=0)) >= len(encoder.tokenizer)
            or encoder.tokenizer.decode(ids, skip_special_tokens=True) != one.text
        ):
            ids = None
        out.append(encoder.encode_response(prompts[one.problem], one.text, ids, finished=not one.truncated))
    return out


def evaluate_best_of_n(
    model: RewardModel,
    candidates: Sequence[StoredCompletion],
    prompt: PromptTemplate,
    *,
    name: str,
    source: str,
    output: Path | None = None,
    sizes: Sequence[int] | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
    batch_tokens: int | None = None,
    limit: int | None = None,
    miniature: bool = False,
) -> tuple[BestOfNEntry, Path]:
    """Score every candidate and measure; the same call goes on where an interrupted one stopped.

    Args:
        prompt: how the problems were put to the policy; also says where answers are.
        sizes: N; None: powers of two up to the number of candidates, and that number.
        limit: recorded when only the first problems are there.
        output: the run's folder; None: ``prmbench-results/best-of-n-NAME-HASH``.

    Returns:
        (entry, path of the entry file).

    Raises:
        UserError: a candidate longer than the model allows, a NaN score, N above the number of candidates, or trouble with
            the folder.
        KeyboardInterrupt: with a message that says what is kept.
    """
    wanted = checked_sizes(Counter((one.subset, one.id) for one in candidates).values(), sizes)
    encoded = encode_candidates(model, candidates, prompt)
    full = [i for i, (one, ids) in enumerate(zip(candidates, encoded, strict=True)) if not has_no_token(one, ids)]
    check_positions(model, [candidates[i] for i in full], [encoded[i] for i in full])
    device, dtype = model.device_and_dtype()
    batch_tokens = batch_tokens or default_batch_tokens(device)
    subject = describe(model, name, source)
    settings = {
        "benchmark": {"name": NAME, "version": VERSION},
        "subject": subject.model_dump(mode="json", exclude={"name", "source", "reference"}),
        "template": model.encoder.template_hash(),
        "numerics": {"device": device.partition(":")[0], "dtype": dtype, "batch_tokens": batch_tokens},
        "data": data_hash(one.digest() for one in candidates),
        "tokens": ids_hash(one.ids for one in encoded),
        "prompt": prompt.name,
        "verifier": verifier_version(),
    }
    folder = output or default_folder(NAME, name, settings)
    judged = judge(candidates, prompt)
    with RunFolder(folder, settings, parse_candidate) as run_folder:
        started = datetime.now(UTC)
        cached_before = model.cached_tokens
        done = run_folder.completed()
        try:
            tokens = _score_missing(model, judged, encoded, full, set(done), run_folder, batch_tokens)
        except KeyboardInterrupt:
            kept = len(run_folder.completed())
            raise KeyboardInterrupt(
                f"stopped; {kept:,} of {len(candidates):,} candidates are kept in {folder}: the same command goes on from there"
            ) from None
        found = run_folder.completed()
        items = [found[one.key] for one in candidates]
        written = run_folder.finish(items)
        risk = precision_warning(dtype, *_within_problems(items)) if subject.kind == "implicit" else None
        warnings = [risk] if risk else []
        tell(warnings)
        provenance = run_provenance(
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
            cached_tokens=model.cached_tokens - cached_before,
            warnings=warnings,
        )
        metrics = compute_best_of_n(items, Convention.of(subject), sizes=wanted, n_resamples=n_resamples, seed=seed)
        rules = {"prompt": prompt.name, "verifier": settings["verifier"]}
        entry = BestOfNEntry(
            subject=subject,
            benchmark=best_of_n_benchmark(items, rules, limit),
            metrics=metrics,
            items=written,
            provenance=provenance,
            miniature=miniature,
        )
        return entry, run_folder.write_entry(entry)


def recompute_best_of_n(path: Path, *, n_resamples: int | None = None, seed: int | None = None) -> BestOfNEntry:
    """Every metric again from the items of a run's folder. See `prmbench.results.items.recompute_entry`."""

    def compute(items: Sequence[CandidateItem], old: BestOfNEntry, **statistics: int) -> BestOfNMetrics:
        return compute_best_of_n(items, Convention.of(old.subject), sizes=old.metrics.sizes, **statistics)

    return recompute_entry(path, BestOfNEntry, read_candidates, compute, n_resamples=n_resamples, seed=seed)


def best_of_n_benchmark(items: Sequence[CandidateItem], rules: dict[str, Any], limit: int | None) -> Benchmark:
    """What an entry on these items was evaluated on. rules: prompt template and verifier."""
    subsets = {}
    for subset in dict.fromkeys(item.subset for item in items):
        mine = [item for item in items if item.subset == subset]
        counts = {
            "candidates": len(mine),
            "steps": sum(len(item.n_tokens) for item in mine),
            "tokens": sum(item.length for item in mine),
        }
        subsets[subset] = (len({item.id for item in mine}), counts, data_hash(item.digest for item in mine))
    return make_benchmark(NAME, VERSION, subsets, rules, limit)


def _within_problems(items: Sequence[CandidateItem]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Each candidate's sum beside the mean of its problem's (float64), and its tokens (int64): what reranking compares."""
    groups: dict[tuple[str, str], list[CandidateItem]] = {}
    for item in items:
        groups.setdefault((item.subset, item.id), []).append(item)
    totals = [np.array([item.total for item in group], dtype=np.float64) for group in groups.values()]
    lengths = [item.length for group in groups.values() for item in group]
    return np.concatenate([one - one.mean() for one in totals]), np.array(lengths, dtype=np.int64)


def has_no_token(one: StoredCompletion, ids: EncodedTrace) -> bool:
    """Whether nothing was sampled, because the prompt left no room: there is nothing to score, and it is never chosen."""
    return len(ids) == ids.n_prompt or (not one.text and one.ids is not None and not len(one.ids))


def _score_missing(
    model: RewardModel,
    judged: Judged,
    encoded: Sequence[EncodedTrace],
    full: Sequence[int],
    done: set[tuple[str, str]],
    folder: RunFolder[CandidateItem],
    batch_tokens: int,
) -> int:
    """Score what is missing. full: candidates that have a token. Returns tokens run through the model."""
    lengths = [len(one) for one in encoded]
    missing = {i for i, one in enumerate(judged.candidates) if one.key not in done}
    if empty := missing - set(full):
        folder.append(_item(judged, i, None, model.step_valued, np.zeros(0)) for i in sorted(empty))

    def score(indices: Sequence[int]) -> None:
        batch = [encoded[i] for i in indices]
        items = []
        if model.step_valued:
            for i, one in zip(indices, model.score(batch), strict=True):
                assert one.scores is not None
                items.append(_item(judged, i, encoded[i], True, one.scores))
        else:
            for i, values in zip(indices, model.token_values(batch), strict=True):
                items.append(_item(judged, i, encoded[i], False, values))
        folder.append(item for i, item in zip(indices, items, strict=True) if i in missing)

    batches = [[full[k] for k in batch] for batch in plan_batches([lengths[i] for i in full], batch_tokens)]
    return run_missing("scoring", batches, lengths, missing & set(full), batch_tokens, score)


def _item(
    judged: Judged, i: int, trace: EncodedTrace | None, stepwise: bool, found: NDArray[np.float64]
) -> CandidateItem:
    """trace: None where there is no token. found: a score a step where `stepwise`, else a value a token."""
    one = judged.candidates[i]
    if np.isnan(found).any():
        raise UserError(f"candidate {one.key[1]} of {one.subset}: the model gives a NaN score; try --dtype float32")
    return CandidateItem(
        subset=one.subset,
        id=one.id,
        sample=one.sample,
        digest=one.digest(),
        correct=judged.correct[i],
        answer=judged.answers[i],
        length=0 if trace is None else len(trace) - trace.n_prompt,
        n_tokens=np.zeros(0, dtype=np.int64) if trace is None else trace.step_counts(),
        sums=None if stepwise else found if trace is None else trace.step_sums(found),
        total=None if stepwise else float(found.sum()),
        scores=found if stepwise else None,
    )
