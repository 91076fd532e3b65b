"""Table 11: how many tokens a policy finds likely, and what share of its probability they hold, against P_min."""

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

from prmbench.benchmarks.clustered import clustered_estimates, numbered
from prmbench.benchmarks.missing import run_missing
from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.data.records import check_fields, check_number, read_records
from prmbench.data.rollouts import Rollout
from prmbench.data.tokens import ids_hash
from prmbench.data.traces import data_hash
from prmbench.engines.batching import default_batch_tokens, plan_batches
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import rollout
from prmbench.results.items import recompute_entry
from prmbench.results.provenance import run_provenance
from prmbench.results.schema import Benchmark, Entry, Estimate, Record, Subject, make_benchmark
from prmbench.results.store import RunFolder, default_folder

NAME = "candidates"
VERSION = 1
P_MINS = (0.05, 0.1, 0.2)
PARTS = ("size", "mass", "several")

Floats = NDArray[np.float64]


class CandidateSets(Record):
    """Candidate sets at one P_min."""

    size: Estimate = Field(description="mean number of tokens with pi >= P_min, over states")
    mass: Estimate = Field(description="mean probability of those tokens together")
    several: Estimate = Field(description="share of states with two or more, the only ones where Dist-PPO chooses")


class CandidatesMetrics(Record):
    """Figures of a candidates probe."""

    n_rollouts: int
    n_states: int = Field(description="states of all rollouts: response tokens, the end of turn included")
    p_min: dict[str, CandidateSets] = Field(description="by P_min")


CandidatesEntry = Entry[CandidatesMetrics]


@dataclass(frozen=True)
class CandidatesItem:
    """Sums over the states of one rollout.

    Attributes:
        n_tokens: states. sets: by P_min, (size summed, mass summed, states with several).
    """

    subset: str
    id: str
    sample: int
    digest: str
    n_tokens: int
    sets: dict[str, tuple[int, float, int]]

    @property
    def key(self) -> tuple[str, str]:
        """What names it within a run."""
        return self.subset, f"{self.id}/{self.sample}"

    def line(self) -> str:
        """One JSON line."""
        return json.dumps(self.__dict__) + "\n"


def parse_candidates_item(place: str, fields: Any) -> CandidatesItem:
    """Check one item's fields. Raises UserError that names the place and the field."""
    kinds: dict[str, type] = {"subset": str, "id": str, "sample": int, "digest": str, "n_tokens": int, "sets": dict}
    kept = check_fields(place, fields, kinds, "an item")
    check_number(place, "n_tokens", kept["n_tokens"], low=0, whole=True)
    if not kept["sets"]:
        raise UserError(f"{place}: field 'sets' is empty; expected three numbers for each P_min")
    for name, values in kept["sets"].items():
        if not isinstance(values, list) or len(values) != 3:
            raise UserError(f"{place}: field 'sets.{name}' must hold three numbers: size, mass, states with several")
        for value in values:
            check_number(place, f"sets.{name}", value, low=0)
    return CandidatesItem(**{**kept, "sets": {name: tuple(values) for name, values in kept["sets"].items()}})


def read_candidates_items(path: Path) -> list[CandidatesItem]:
    """Read an items file. Raises UserError for a broken line, a wrong field, or items of different P_min."""
    found: list[CandidatesItem] = []
    for place, fields in read_records(path):
        found.append(parse_candidates_item(place, fields))
        if found[-1].sets.keys() != found[0].sets.keys():
            raise UserError(
                f"{place}: field 'sets' is of P_min {', '.join(found[-1].sets)}, in the first line of {', '.join(found[0].sets)}"
            )
    return found


def candidate_sums(logprobs: Floats, p_min: float) -> tuple[int, float, int]:
    """(size, mass, states with several) summed over states.

    Args:
        logprobs: of the likeliest tokens of each state, at least floor(1 / p_min) of them, float64, shape [t, k].
    """
    p = np.exp(logprobs)
    likely = p >= p_min
    size = likely.sum(axis=1)
    return int(size.sum()), float((p * likely).sum()), int((size >= 2).sum())


def compute_candidates(items: Sequence[CandidatesItem], *, n_resamples: int, seed: int) -> CandidatesMetrics:
    """All figures, from items alone: means over states; intervals draw problems with replacement."""
    cluster = numbered([(item.subset, item.id) for item in items])
    states = np.array([item.n_tokens for item in items], dtype=np.float64)
    found = {}
    for name in items[0].sets:
        sums = np.array([item.sets[name] for item in items], dtype=np.float64)

        def means(weights: Floats, sums: Floats = sums) -> dict[str, Floats]:
            return dict(zip(PARTS, (weights @ sums / (weights @ states)[:, None]).T, strict=True))

        found[name] = CandidateSets(**clustered_estimates(cluster, means, n_resamples, seed, frozenset({"several"})))
    return CandidatesMetrics(n_rollouts=len(items), n_states=int(states.sum()), p_min=found)


def evaluate_candidates(
    policy: Policy,
    sets: dict[str, list[Problem]],
    *,
    name: str,
    source: str,
    output: Path | None = None,
    p_mins: Sequence[float] = P_MINS,
    n: int = 1,
    params: SamplingParams | None = None,
    prompt: str = "boxed",
    seed: int = 0,
    n_resamples: int = 2_000,
    batch_tokens: int | None = None,
    sampling_tokens: int = 65_536,
    miniature: bool = False,
) -> tuple[CandidatesEntry, Path]:
    """Sample n rollouts of each problem and look at the policy's distribution at each of their tokens; resumable.

    Args:
        params: sampling; None: temperature 1, as in training. batch_tokens, sampling_tokens: padded tokens of a batch.

    Raises:
        UserError: a P_min that is not between 0 and 1, no rollout with a token, or trouble with the folder.
    """
    if not p_mins or not all(0 < p < 1 for p in p_mins):
        raise UserError(f"--p-min {' '.join(map(str, p_mins))}: expected probabilities between 0 and 1")
    params = params or SamplingParams()
    device, dtype = policy.engine.device_and_dtype()
    batch_tokens = batch_tokens or default_batch_tokens(device)
    template = find_prompt(prompt)
    subject = Subject(
        name=name, source=source, kind="policy", weights={"model": policy.hashed}, facts=policy.engine.facts()
    )
    rules = {"sampling": params.model_dump(), "n": n, "prompt": prompt, "p_min": sorted(map(str, p_mins)), "seed": seed}
    prompts = {
        (subset, p.id): policy.encoder.prompt_ids(template.render(p.problem)) for subset, ps in sets.items() for p in ps
    }
    settings = {
        "benchmark": {"name": NAME, "version": VERSION},
        "policy": policy.hashed,
        "rules": rules,
        "template": policy.encoder.template_hash(),
        "numerics": [policy.engine.name, device, dtype, batch_tokens, sampling_tokens],
        "data": data_hash(p.digest() for ps in sets.values() for p in ps),
        "tokens": ids_hash(prompts.values()),
    }
    folder = output or default_folder(NAME, name, settings)
    with RunFolder(folder, settings, parse_candidates_item) as run_folder:
        started = datetime.now(UTC)
        rollouts = [
            (subset, one)
            for subset, problems in sets.items()
            for one in rollout(
                policy,
                problems,
                folder / "rollouts" / subset,
                prompt=prompt,
                n=n,
                params=params,
                seed=seed,
                batch_tokens=sampling_tokens,
            )
            if len(one.ids)
        ]
        if not rollouts:
            raise UserError(
                f"{policy.source}: no prompt leaves room for a completion; use a policy with more positions"
            )
        done = run_folder.completed()
        digests = {(subset, p.id): p.digest() for subset, ps in sets.items() for p in ps}
        tokens = _measure_missing(policy, rollouts, prompts, digests, set(done), run_folder, p_mins, batch_tokens)
        found = run_folder.completed()
        items = [found[subset, f"{one.id}/{one.sample}"] for subset, one in rollouts]
        written = run_folder.finish(items)
        entry = CandidatesEntry(
            subject=subject,
            benchmark=candidates_benchmark(items, rules),
            metrics=compute_candidates(items, n_resamples=n_resamples, seed=seed),
            items=written,
            provenance=run_provenance(
                policy.encoder,
                engine=policy.engine.name,
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


def candidates_benchmark(items: Sequence[CandidatesItem], rules: dict[str, Any]) -> Benchmark:
    """What an entry on these items was evaluated on."""
    subsets = {}
    for subset in dict.fromkeys(item.subset for item in items):
        mine = [item for item in items if item.subset == subset]
        problems = {item.id: item.digest for item in mine}
        counts = {"rollouts": len(mine), "tokens": sum(item.n_tokens for item in mine)}
        subsets[subset] = (len(problems), counts, data_hash(problems.values()))
    return make_benchmark(NAME, VERSION, subsets, rules)


def recompute_candidates(path: Path, *, n_resamples: int | None = None, seed: int | None = None) -> CandidatesEntry:
    """Every metric again from the items of a run's folder. See `prmbench.results.items.recompute_entry`."""

    def compute(items: Sequence[CandidatesItem], _: CandidatesEntry, **statistics: int) -> CandidatesMetrics:
        return compute_candidates(items, **statistics)

    return recompute_entry(path, CandidatesEntry, read_candidates_items, compute, n_resamples=n_resamples, seed=seed)


def _measure_missing(
    policy: Policy,
    rollouts: Sequence[tuple[str, Rollout]],
    prompts: dict[tuple[str, str], NDArray[np.int64]],
    digests: dict[tuple[str, str], str],
    done: set[tuple[str, str]],
    folder: RunFolder[CandidatesItem],
    p_mins: Sequence[float],
    batch_tokens: int,
) -> int:
    """Measure what is missing. Returns tokens run through the policy."""
    own = [prompts[subset, one.id] for subset, one in rollouts]
    ids = [np.concatenate([prompt, one.ids]) for prompt, (_, one) in zip(own, rollouts, strict=True)]
    lengths = [len(one) for one in ids]
    top = int(1 / min(p_mins))  # no more tokens can have so much each
    missing = {i for i, (subset, one) in enumerate(rollouts) if (subset, f"{one.id}/{one.sample}") not in done}

    def measure(indices: Sequence[int]) -> None:
        first = [len(own[i]) for i in indices]
        found = policy.engine.score([ids[i] for i in indices], first, frozenset({"topk"}), top=top)
        items = []
        for i, one in zip(indices, found, strict=True):
            subset, of = rollouts[i]
            assert one.topk_logprobs is not None
            sums = {str(p): candidate_sums(one.topk_logprobs, p) for p in sorted(p_mins)}
            items.append(CandidatesItem(subset, of.id, of.sample, digests[subset, of.id], len(of.ids), sums))
        folder.append(item for item in items if item.key not in done)

    return run_missing("measuring", plan_batches(lengths, batch_tokens), lengths, missing, batch_tokens, measure)
