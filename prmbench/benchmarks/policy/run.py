"""Sample completions and verify them, or read those that were sampled before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from prmbench.benchmarks.base import Job, Plan, RunKeywords, Units
from prmbench.benchmarks.groups import grouped
from prmbench.benchmarks.policy.benchmark import POLICY_BENCHMARK, PolicyOptions
from prmbench.benchmarks.policy.schema import CompletionOutcome
from prmbench.benchmarks.problem_data import Problems
from prmbench.benchmarks.runner import Finished, evaluate_alone, run_plan
from prmbench.data.problems import Problem
from prmbench.data.prompts import AnswerStyle, find_prompt
from prmbench.data.rollouts import Rollout, read_rollouts
from prmbench.engines.processes import Share
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import ArgumentError, UserError
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import (
    problems_digest,
    prompt_rules,
    rollout,
    run_settings,
    sampling_settings,
    written_before,
)
from prmbench.results.provenance import versions
from prmbench.results.schema import Provenance, Subject
from prmbench.results.store import RUN_NAME, check_name
from prmbench.verify import Verifier, VerifierOptions, verifier_version
from prmbench.verify.classes import answer_classes
from prmbench.verify.options import recorded_options

PRESETS = {
    "paper": SamplingParams(temperature=0.6, top_p=0.95),
    "released": SamplingParams(temperature=0.7, top_p=0.8, top_k=20),
}
"""Sampling of avg@8: as the paper writes, and as its released code has it (docs/protocols.md, "Policy evaluation")."""

BATCH_TOKENS = 16_384
COMPARED = ("sampling", "n", "prompt", "verifier")
"""What makes two entries comparable, of a rollout run's settings."""


def evaluate_policy(
    policy: Policy,
    sets: dict[str, list[Problem]],
    *,
    name: str,
    source: str,
    n: int = 8,
    params: SamplingParams | None = None,
    prompt: str = "boxed",
    verifier: VerifierOptions | None = None,
    **run: Unpack[RunKeywords],
) -> Finished:
    """Sample, verify and measure, and leave a policy entry; see `evaluate_alone`.

    Args:
        policy: The policy.
        sets: Problems by the set's name; the rollouts of each set go to a folder of that name in the run's folder.
        name: The subject's name on tables.
        source: The checkpoint as the user named it.
        n: Completions of each problem.
        params: How to sample; None: the preset ``paper``.
        prompt: The name of the prompt template.
        verifier: The conventions that verdicts follow; None: the defaults.
        **run: How it is run; see `RunKeywords`.
    """
    options, data = PolicyOptions(n), Problems(sets, prompt, verifier)
    job = Job(data=data, policy=policy, name=name, source=source, options=options, params=params, **run)
    return evaluate_alone(POLICY_BENCHMARK, job)


def policy_from_rollouts(paths: Sequence[str | Path], *, name: str | None, **run: Unpack[RunKeywords]) -> Finished:
    """Leave a policy entry of rollouts that exist, without a model.

    Args:
        paths: Run folders of rollouts, or their files; each is a problem set of its folder's name.
        name: The subject's name; None: the first digits of its hash.
        **run: How it is run; see `RunKeywords`.

    Raises:
        UserError: No such file, runs of different policies or settings, or an output folder that holds another run.
    """
    check_name(name)
    plan, called, limit = plan_from_rollouts(paths, name)
    run["limit"] = limit
    job = Job(data=None, name=called, source=called, options=PolicyOptions(), **run)
    found = run_plan(POLICY_BENCHMARK, plan, job)
    assert found is not None  # nothing is shared between processes
    return found


def plan_policy(job: Job) -> Plan:
    """Plan the sampling of completions.

    Args:
        job: The evaluation; ``data`` are `Problems`.
    """
    policy, data = job.policy, job.data
    assert policy is not None
    params = job.params or PRESETS["paper"]
    # The other engines make their own batches.
    batch_tokens = job.batch_tokens or (BATCH_TOKENS if policy.engine.name == "hf" else 1_000_000)
    sampling: dict[str, Any] = {"n": job.options.n, "params": params, "seed": job.seed}
    run = sampling_settings(policy, data.prompt, **sampling, batch_tokens=batch_tokens) | {
        "verifier": verifier_version(data.verifier)
    }

    def units(folder: Path, share: Share) -> Units:
        before = [written_before(folder / subset) for subset in data.sets]
        share.wait()  # nobody writes before all have looked
        rollouts = {
            subset: rollout(
                policy,
                problems,
                folder / subset,
                prompt=data.prompt,
                **sampling,
                batch_tokens=batch_tokens,
                limit=job.limit,
                share=share,
                verifier=data.verifier,
            )
            for subset, problems in data.sets.items()
        }
        items = outcomes_of(rollouts, find_prompt(data.prompt).style, data.verifier) if share.main else []
        tokens = sum(len(r.ids) for found in rollouts.values() for r in found) - sum(n for _, n in before)
        return _ready(items, tokens, sum(n for n, _ in before))

    return Plan(
        subject=subject_of(job, policy.hashed, policy.engine.facts()),
        encoder=policy.encoder,
        settings=_made_of(run, {subset: problems_digest(problems) for subset, problems in data.sets.items()}),
        rules=_rules(run),
        engine=policy.engine.name,
        numerics=policy.engine.device_and_dtype(),
        batch_tokens=batch_tokens,
        units=units,
        told=policy.warnings,
        usage=getattr(policy.engine, "usage", lambda: None),
    )


def subject_of(job: Job, hashed: str, facts: dict[str, Any]) -> Subject:
    """A policy as the subject of an entry.

    Args:
        job: The evaluation; gives its name and source.
        hashed: sha256 of its weights.
        facts: Its architecture and size.
    """
    return Subject(name=job.name, source=job.source, kind="policy", weights={"model": hashed}, facts=facts)


def plan_from_rollouts(paths: Sequence[str | Path], name: str | None) -> tuple[Plan, str, int | None]:
    """Plan an entry of rollouts that exist, without a model. Each path is a problem set of its folder's name.

    Args:
        paths: Run folders of rollouts, or their files.
        name: The subject's name; None: the first digits of its hash.

    Returns:
        The plan, the subject's name, and the limit that the problems were cut to (None: they are whole).

    Raises:
        UserError: No such file, or runs of different policies or settings.
    """
    if not paths:
        raise ArgumentError("from_rollouts", None, "expected at least one file")
    runs = [run_settings(path) for path in map(Path, paths)]
    first = runs[0]
    rollouts: dict[str, list[Rollout]] = {}
    for path, run in zip(map(Path, paths), runs, strict=True):
        if (run["policy"], _rules(run)) != (first["policy"], _rules(first)):
            raise UserError(
                f"{path}: is of another policy or other sampling settings than {paths[0]}; evaluate it by itself"
            )
        subset = (path if path.is_dir() else path.parent).resolve().name
        if subset in rollouts:
            raise UserError(f"{path}: two runs are called '{subset}'; rename one folder")
        rollouts[subset] = _whole_run(path, run)
    items = outcomes_of(rollouts, find_prompt(first["prompt"]).style, recorded_options(first["verifier"]))
    device, dtype = first["numerics"]
    called = name or first["policy"][:8]
    plan = Plan(
        subject=Subject(name=called, source=None, kind="policy", weights={"model": first["policy"]}),
        encoder=None,
        settings=_made_of(first, {subset: run["problems"] for subset, run in zip(rollouts, runs, strict=True)}),
        rules=_rules(first),
        engine=first.get("engine", "hf"),
        numerics=(device, dtype),
        batch_tokens=first["batch_tokens"],
        units=lambda folder, share: _ready(items, 0, 0),
        provenance=Provenance(
            engine=first.get("engine", "hf"),
            device=device,
            dtype=dtype,
            batch_tokens=first["batch_tokens"],
            template_hash=first["template"],
            token_options={},
            versions={**versions(), "transformers": first["versions"]},
            seed=first["seed"],
            n_resamples=0,
        ),
    )
    return plan, called, max((run["limit"] for run in runs if "limit" in run), default=None)


def _whole_run(path: Path, run: dict[str, Any]) -> list[Rollout]:
    """The rollouts of a finished run. Raises UserError when some are missing, or others are there."""
    found = read_rollouts(path)
    problems = {one.id: Problem(one.id, one.problem, one.answer) for one in found}
    keys = {(one.id, one.sample) for one in found}
    whole = {(problem, k) for problem in problems for k in range(run["n"])}
    if keys != whole or len(found) != len(whole) or problems_digest(problems.values()) != run["problems"]:
        raise UserError(f"{path}: is not the whole run that its {RUN_NAME} describes; go on with the run")
    return found


def _rules(run: dict[str, Any]) -> dict[str, Any]:
    """What makes two entries comparable, of a rollout run's settings."""
    return {name: run[name] for name in COMPARED} | prompt_rules(run.get("conversation", {}), run["prompt"])


def _made_of(run: dict[str, Any], sets: dict[str, str]) -> dict[str, Any]:
    """What an evaluation's folder is of, of a rollout run's settings and the digests of its problems."""
    return {"template": run["template"], "seed": run["seed"], "sets": sets}


def _ready(items: Sequence[CompletionOutcome], tokens: int, resumed: int) -> Units:
    return Units(wanted={item.key: item.digest for item in items}, ready=items, tokens=tokens, resumed=resumed)


def outcomes_of(
    rollouts: dict[str, list[Rollout]], style: AnswerStyle, verifier: VerifierOptions | None
) -> list[CompletionOutcome]:
    """Items of rollouts.

    Args:
        rollouts: Rollouts by problem set.
        style: Where an answer is to be found.
        verifier: The conventions that the verdicts followed, and that answers are grouped by; None: the defaults.
    """
    items = []
    groups = [
        (subset, group) for subset, found in rollouts.items() for group in grouped(found, lambda one: one.id).values()
    ]
    with Verifier(verifier) as comparing:
        for subset, group in groups:
            problem = Problem(group[0].id, group[0].problem, group[0].answer).digest()
            classes = answer_classes([r.completion for r in group], [r.correct for r in group], style, comparing)
            items += [
                CompletionOutcome(
                    subset=subset,
                    id=one.id,
                    sample=one.sample,
                    digest=problem,
                    verdict=one.verdict,
                    finish_reason=one.finish_reason,
                    n_tokens=len(one.ids),
                    answer=-1 if one.finish_reason == "length" else answer,
                )
                for one, answer in zip(group, classes, strict=True)
            ]
    return items
