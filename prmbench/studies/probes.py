"""The probes in the miniature, where the value of a branch can be had to any precision."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prmbench.benchmarks.candidate_sets.run import VERSION as CANDIDATES_VERSION
from prmbench.benchmarks.candidate_sets.run import evaluate_candidates
from prmbench.benchmarks.td_probe.run import VERSION as TD_VERSION
from prmbench.benchmarks.td_probe.run import ProbeOptions, evaluate_td_probe
from prmbench.data.problems import Problem, load_problems
from prmbench.data.prompts import find_prompt
from prmbench.engines.sampling import SamplingParams
from prmbench.miniature.build import MAX_NEW_TOKENS, PROMPT, Build
from prmbench.policies.policy import load_policy
from prmbench.results.schema import digest
from prmbench.studies.reward_models import Bench, Settings

N_BRANCHES, N_ROLLOUTS = 500, 16
N_PROBLEMS = 300


def probe_place(build: Build, kind: str, settings: Settings | None) -> Path:
    """The entry that a probe leaves. kind: ``td`` or ``candidates``; settings: of the reward model."""
    version = TD_VERSION if kind == "td" else CANDIDATES_VERSION
    name = digest([kind, version, N_BRANCHES, N_ROLLOUTS, N_PROBLEMS, None if settings is None else asdict(settings)])[
        :8
    ]
    return build.folder() / "probes" / f"{kind}-{name}" / "entry.json"


def measure_td(bench: Bench, settings: Settings) -> dict[str, Any]:
    """The TD probe of a reward model on the policy that its rollouts are of: 100 states of as many test problems.

    Returns:
        The entry, as JSON; kept, and read the next time.
    """
    place = probe_place(bench.build, "td", settings)
    if not place.exists():
        options = ProbeOptions(
            branches=N_BRANCHES,
            rollouts=N_ROLLOUTS,
            params=SamplingParams(max_new_tokens=MAX_NEW_TOKENS),
            prompt=PROMPT,
            seed=bench.build.seed,
        )
        evaluate_td_probe(
            bench.train(settings),
            load_policy(str(bench.policy), find_prompt(PROMPT)),
            {bench.split: _problems(bench)},
            name=settings.name,
            source=settings.name,
            output=place.parent,
            options=options,
            miniature=True,
        )
    return _read(place)


def measure_candidates(bench: Bench) -> dict[str, Any]:
    """Table 11 of the policy that all start from. Returns the entry, as JSON; kept, and read the next time."""
    place = probe_place(bench.build, "candidates", None)
    if not place.exists():
        evaluate_candidates(
            load_policy(str(bench.policy), find_prompt(PROMPT)),
            {bench.split: _problems(bench)},
            name="sft",
            source="sft",
            output=place.parent,
            params=SamplingParams(max_new_tokens=MAX_NEW_TOKENS),
            prompt=PROMPT,
            seed=bench.build.seed,
            miniature=True,
        )
    return _read(place)


def _problems(bench: Bench) -> list[Problem]:
    return load_problems(bench.build.folder() / f"problems-{bench.split}-{bench.n_test}.jsonl", N_PROBLEMS)


def _read(place: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    return kept
