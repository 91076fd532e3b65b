"""Policies on problem sets: avg@k, pass@k, maj@k from one sampling run (DESIGN 4.5)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.data.records import check_fields, check_number, read_records
from prmbench.data.rollouts import FINISH_REASONS, Rollout, read_rollouts
from prmbench.data.verdicts import Verdict
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError, shortened
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import problems_digest, rollout, run_settings, sampling_settings, written_before
from prmbench.results.items import check_answers, recompute_entry
from prmbench.results.provenance import run_provenance, versions
from prmbench.results.schema import (
    Entry,
    Estimate,
    Provenance,
    Record,
    Subject,
    digest,
    make_benchmark,
)
from prmbench.results.store import RUN_NAME, RunFolder, default_folder
from prmbench.stats.bootstrap import interval, share_interval
from prmbench.stats.repeats import majority, mean_resamples, pass_at_k
from prmbench.verify import verifier_version
from prmbench.verify.classes import answer_classes

NAME = "policy"
VERSION = 1
ITEMS_NAME = "items.jsonl"

PRESETS = {
    "paper": SamplingParams(temperature=0.6, top_p=0.95),
    "released": SamplingParams(temperature=0.7, top_p=0.8, top_k=20),
}
"""Sampling parameters of avg@8: as the paper writes, and as its released code has them (DESIGN 4.5)."""


class PolicyResult(Record):
    """One problem set."""

    average: Estimate = Field(description="avg@n: mean share of right completions")
    pass_at: dict[str, Estimate] = Field(
        description="by k: unbiased chance that k of the n completions hold a right one"
    )
    majority: Estimate = Field(description="maj@n: the most common answer is right; ties count their share")
    truncated: Estimate = Field(description="share of completions cut at the token limit, which count as wrong")
    mean_tokens: Estimate = Field(description="tokens of a completion, end of turn included")
    verdicts: dict[str, int] = Field(description="completions by verdict: correct, wrong, unparsed, timeout")
    overlong_prompts: int = Field(
        0, description="problems whose prompt leaves no room; all their completions count as wrong"
    )


class PolicyMetrics(Record):
    """Figures of a policy entry."""

    n: int = Field(description="completions of each problem")
    subsets: dict[str, PolicyResult] = Field(description="by problem set")
    mean: dict[str, Estimate] = Field(
        description="plain mean over the problem sets: average, majority, pass@k, truncated"
    )


PolicyEntry = Entry[PolicyMetrics]


@dataclass(frozen=True)
class CompletionItem:
    """What is kept of one completion: no text.

    Attributes:
        subset: the problem set. id: the problem's. sample: 0 to n - 1. digest: sha256 of the problem.
        verdict: of its answer. finish_reason: "stop", "length" or, when there was no room for a prompt, "prompt".
        n_tokens: sampled tokens. answer: class of the answer among the problem's completions, -1 where none was found.
    """

    subset: str
    id: str
    sample: int
    digest: str
    verdict: Verdict
    finish_reason: str
    n_tokens: int
    answer: int

    @property
    def key(self) -> tuple[str, str]:
        """What names an item within a run."""
        return self.subset, f"{self.id}/{self.sample}"

    def line(self) -> str:
        """One JSON line."""
        return json.dumps({**self.__dict__, "verdict": str(self.verdict)}) + "\n"


def parse_completion(place: str, fields: Any) -> CompletionItem:
    """Check one item's fields. Raises UserError that names the place and the field."""
    kinds: dict[str, type] = {"subset": str, "id": str, "sample": int, "digest": str, "verdict": str}
    kinds |= {"finish_reason": str, "n_tokens": int, "answer": int}
    kept = check_fields(place, fields, kinds, "an item")
    if fields["verdict"] not in list(Verdict):
        raise UserError(f"{place}: field 'verdict' is '{fields['verdict']}'; expected {', '.join(Verdict)}")
    if fields["finish_reason"] not in FINISH_REASONS:
        raise UserError(
            f"{place}: field 'finish_reason' is '{shortened(fields['finish_reason'])}'; expected {', '.join(FINISH_REASONS)}"
        )
    for name, low in (("sample", 0), ("n_tokens", 0), ("answer", -1)):
        check_number(place, name, fields[name], low=low, whole=True)
    return CompletionItem(**{**kept, "verdict": Verdict(fields["verdict"])})


def read_completions(path: Path) -> list[CompletionItem]:
    """Read an items file. Raises UserError for a broken line, a wrong field, or the same item twice."""
    seen: dict[tuple[str, str], CompletionItem] = {}
    for place, fields in read_records(path):
        item = parse_completion(place, fields)
        if item.key in seen:
            raise UserError(f"{place}: sample {item.sample} of '{item.id}' is there twice; delete one of the lines")
        seen[item.key] = item
    check_answers(path, seen.values())
    return list(seen.values())


def completion_items(subset: str, rollouts: Sequence[Rollout], style: Any) -> list[CompletionItem]:
    """Items of one problem set's rollouts."""
    by_problem: dict[str, list[Rollout]] = {}
    for one in rollouts:
        by_problem.setdefault(one.id, []).append(one)
    items = []
    for group in by_problem.values():
        problem = Problem(group[0].id, group[0].problem, group[0].answer).digest()
        classes = answer_classes([r.completion for r in group], [r.correct for r in group], style)
        for one, answer in zip(group, classes, strict=True):
            found = -1 if one.finish_reason == "length" else answer
            items.append(
                CompletionItem(subset, one.id, one.sample, problem, one.verdict, one.finish_reason, len(one.ids), found)
            )
    return items


def compute_policy_metrics(items: Sequence[CompletionItem], n_resamples: int, seed: int) -> PolicyMetrics:
    """All figures of an entry, from items alone.

    Raises:
        UserError: problems with different numbers of completions.
    """
    groups: dict[tuple[str, str], list[CompletionItem]] = {}
    for item in items:
        groups.setdefault((item.subset, item.id), []).append(item)
    numbers = {len(group) for group in groups.values()}
    if len(numbers) != 1:
        raise UserError(f"problems have {min(numbers)} to {max(numbers)} completions; expected equally many of each")
    (n,) = numbers
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if k < n] + [n]
    names = ["average", "majority", "truncated", "mean_tokens", *(f"pass@{k}" for k in ks)]
    results: dict[str, PolicyResult] = {}
    rows: list[NDArray[np.float64]] = []
    resampled: list[NDArray[np.float64]] = []
    for subset in dict.fromkeys(item.subset for item in items):
        mine = [sorted(group, key=lambda i: i.sample) for (name, _), group in sorted(groups.items()) if name == subset]
        values = np.array([_figures(group, ks) for group in mine])
        rng = np.random.default_rng([seed, zlib.crc32(subset.encode())])
        samples = mean_resamples(values, n_resamples=n_resamples, rng=rng)
        rows.append(values)
        resampled.append(samples)
        estimates = _estimates(names, [values], samples)
        results[subset] = PolicyResult(
            average=estimates["average"],
            pass_at={str(k): estimates[f"pass@{k}"] for k in ks},
            majority=estimates["majority"],
            truncated=estimates["truncated"],
            mean_tokens=estimates["mean_tokens"],
            verdicts={str(v): sum(i.verdict == v for group in mine for i in group) for v in Verdict},
            overlong_prompts=sum(group[0].finish_reason == "prompt" for group in mine),
        )
    whole = _estimates(names, rows, np.mean(resampled, axis=0))
    return PolicyMetrics(n=n, subsets=results, mean={k: v for k, v in whole.items() if k != "mean_tokens"})


def _figures(group: Sequence[CompletionItem], ks: Sequence[int]) -> list[float]:
    correct = [item.verdict == Verdict.CORRECT for item in group]
    n, right = len(group), sum(correct)
    return [
        right / n,
        majority([item.answer for item in group], correct),
        sum(item.finish_reason == "length" for item in group) / n,
        sum(item.n_tokens for item in group) / n,
        *(pass_at_k(n, right, k) for k in ks),
    ]


def _estimates(
    names: Sequence[str], sets: Sequence[NDArray[np.float64]], samples: NDArray[np.float64]
) -> dict[str, Estimate]:
    """Means over sets of the sets' means. sets: per set, figures of each problem, shape [n, m]. samples: shape [b, m]."""
    out = {}
    for i, name in enumerate(names):
        columns = [values[:, i] for values in sets]
        low, high = None, None
        if len(samples):
            low, high = interval(samples[:, i]) if name == "mean_tokens" else share_interval(columns, samples[:, i])
        out[name] = Estimate(value=float(np.mean([column.mean() for column in columns])), low=low, high=high)
    return out


def evaluate_policy(
    policy: Policy,
    sets: dict[str, list[Problem]],
    *,
    name: str,
    source: str,
    output: Path | None = None,
    n: int = 8,
    params: SamplingParams | None = None,
    prompt: str = "boxed",
    seed: int = 0,
    n_resamples: int = 10_000,
    batch_tokens: int = 16_384,
    limit: int | None = None,
) -> tuple[PolicyEntry, Path]:
    """Sample, verify and measure; the same call goes on where an interrupted one stopped.

    Args:
        sets: problems by the set's name; each set's rollouts go to a folder of that name in `output`.
        output: the run's folder; None: ``prmbench-results/policy-NAME-HASH``.
        limit: recorded when only the first problems are there.

    Returns:
        (entry, path of the entry file).

    Raises:
        UserError: trouble with a folder. KeyboardInterrupt: with a message that says what is kept.
    """
    params = params or PRESETS["paper"]
    started = datetime.now(UTC)
    device, dtype = policy.engine.device_and_dtype()
    run = sampling_settings(policy, prompt, n, params, seed, batch_tokens)
    made_of = _made_of(run, {subset: problems_digest(problems) for subset, problems in sets.items()})
    with RunFolder(output or default_folder(NAME, name, made_of), made_of, parse_completion) as folder:
        before = [written_before(folder.path / subset) for subset in sets]
        rollouts = {
            subset: rollout(
                policy,
                problems,
                folder.path / subset,
                prompt=prompt,
                n=n,
                params=params,
                seed=seed,
                batch_tokens=batch_tokens,
                limit=limit,
            )
            for subset, problems in sets.items()
        }
        tokens = sum(len(r.ids) for found in rollouts.values() for r in found) - sum(n for _, n in before)
        provenance = run_provenance(
            policy.encoder,
            engine=policy.engine.name,
            device=device,
            dtype=dtype,
            batch_tokens=batch_tokens,
            seed=seed,
            n_resamples=n_resamples,
            started=started,
            tokens=tokens,
            resumed=sum(n for n, _ in before),
        )
        subject = Subject(
            name=name, source=source, kind="policy", weights={"model": policy.hashed}, facts=policy.engine.facts()
        )
        style = find_prompt(prompt).style
        items = [item for subset, found in rollouts.items() for item in completion_items(subset, found, style)]
        settings = _settings(run | {"verifier": verifier_version()})
        entry = build_policy_entry(items, subject, settings, provenance, n_resamples, seed, limit)
        return _save(folder, entry, items)


def policy_from_rollouts(
    paths: Sequence[str | Path],
    *,
    name: str | None,
    output: Path | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[PolicyEntry, Path]:
    """The entry of rollouts that exist, without a model. Each path is a run's folder (or its file), a problem set of that name.

    Args:
        output: the entry's folder; None: ``prmbench-results/policy-NAME-HASH``.

    Raises:
        UserError: no such file, runs of different policies or settings, or an output folder that holds another run.
    """
    items: list[CompletionItem] = []
    sets: dict[str, str] = {}
    limits: list[int] = []
    first: dict[str, Any] | None = None
    settings: dict[str, Any] = {}
    for path in map(Path, paths):
        run, found = run_settings(path), read_rollouts(path)
        folder = (path if path.is_dir() else path.parent).resolve()
        mine = _settings(run)
        if first is None:
            first, settings = run, mine
        elif (run["policy"], mine) != (first["policy"], settings):
            raise UserError(
                f"{path}: is of another policy or other sampling settings than {paths[0]}; evaluate it by itself"
            )
        problems = {one.id: Problem(one.id, one.problem, one.answer) for one in found}
        keys = {(one.id, one.sample) for one in found}
        whole = {(name, k) for name in problems for k in range(run["n"])}
        if keys != whole or len(found) != len(whole) or problems_digest(problems.values()) != run["problems"]:
            raise UserError(f"{path}: is not the whole run that its {RUN_NAME} describes; go on with the run")
        if any(item.subset == folder.name for item in items):
            raise UserError(f"{path}: two runs are called '{folder.name}'; rename one folder")
        items += completion_items(folder.name, found, find_prompt(run["prompt"]).style)
        sets[folder.name] = run["problems"]
        limits += [run["limit"]] if "limit" in run else []
    if first is None:
        raise UserError("--from-rollouts: expected at least one file")
    subject = Subject(name=name or first["policy"][:8], source=None, kind="policy", weights={"model": first["policy"]})
    provenance = Provenance(
        engine=first.get("engine", "hf"),
        device=first["numerics"][0],
        dtype=first["numerics"][1],
        batch_tokens=first["batch_tokens"],
        template_hash=first["template"],
        token_options={},
        versions={**versions(), "transformers": first["versions"]},
        seed=first["seed"],
        n_resamples=n_resamples,
    )
    entry = build_policy_entry(items, subject, settings, provenance, n_resamples, seed, max(limits, default=None))
    made_of = _made_of(first, sets)
    with RunFolder(output or default_folder(NAME, subject.name, made_of), made_of, parse_completion) as folder_of_entry:
        return _save(folder_of_entry, entry, items)


def _settings(run: dict[str, Any]) -> dict[str, Any]:
    """What makes two entries comparable, of a rollout run's settings."""
    return {name: run[name] for name in ("sampling", "n", "prompt", "verifier")}


def _made_of(run: dict[str, Any], sets: dict[str, str]) -> dict[str, Any]:
    """What an evaluation's folder is of. run: a rollout run's settings. sets: digest of each set's problems."""
    names = ("policy", "template", "prompt", "sampling", "n", "seed", "batch_tokens", "numerics")
    kept = {name: run[name] for name in names}
    return {"benchmark": {"name": NAME, "version": VERSION}, **kept, "engine": run.get("engine", "hf"), "sets": sets}


def build_policy_entry(
    items: Sequence[CompletionItem],
    subject: Subject,
    settings: dict[str, Any],
    provenance: Provenance | None,
    n_resamples: int,
    seed: int,
    limit: int | None,
) -> PolicyEntry:
    """Compute every metric from items and put the entry together."""
    subsets = {}
    for subset in dict.fromkeys(item.subset for item in items):
        mine = [item for item in items if item.subset == subset]
        counts = {"completions": len(mine), "tokens": sum(item.n_tokens for item in mine)}
        hashed = digest(sorted({item.digest for item in mine}))
        subsets[subset] = (len({item.id for item in mine}), counts, hashed)
    return PolicyEntry(
        subject=subject,
        benchmark=make_benchmark(NAME, VERSION, subsets, settings, limit),
        metrics=compute_policy_metrics(items, n_resamples, seed),
        provenance=provenance,
    )


def recompute_policy(path: Path, *, n_resamples: int | None = None, seed: int | None = None) -> PolicyEntry:
    """Every metric again from the items of a run's folder. See `prmbench.results.items.recompute_entry`."""

    def compute(items: Sequence[CompletionItem], _: PolicyEntry, **statistics: int) -> PolicyMetrics:
        return compute_policy_metrics(items, **statistics)

    return recompute_entry(path, PolicyEntry, read_completions, compute, n_resamples=n_resamples, seed=seed)


def _save(
    folder: RunFolder[CompletionItem], entry: PolicyEntry, items: Sequence[CompletionItem]
) -> tuple[PolicyEntry, Path]:
    entry = entry.model_copy(update={"items": folder.finish(items)})
    return entry, folder.write_entry(entry)
