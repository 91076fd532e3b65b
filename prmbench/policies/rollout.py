"""Rollouts: a policy's sampled completions of problems, each with its verdict; written as they come, resumable."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from prmbench.data.problems import Problem
from prmbench.data.prompts import AnswerStyle, PromptTemplate, find_prompt
from prmbench.data.records import check_fields, read_json
from prmbench.data.rollouts import FILE_STEM, Rollout, parse_rollout, sets_within
from prmbench.data.tokens import ids_hash
from prmbench.data.verdicts import Verdict
from prmbench.engines.batching import BatchRunner, plan_batches
from prmbench.engines.processes import Share
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.errors import UserError
from prmbench.policies.policy import Policy
from prmbench.progress import progress
from prmbench.results.provenance import versions
from prmbench.results.schema import digest
from prmbench.results.store import RUN_NAME, RunFolder, read_whole_lines
from prmbench.verify import Verifier, verifier_version


def problems_digest(problems: Iterable[Problem]) -> str:
    """sha256 (hex) of problems, whatever their order."""
    return digest(sorted(problem.digest() for problem in problems))


def run_settings(path: str | Path) -> dict[str, Any]:
    """What the run of a rollouts file (or its folder) was sampled with, as `rollout` wrote it.

    Raises:
        UserError: the file that says it is missing, broken or of another sort of run.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    file = folder / RUN_NAME
    if not (folder / f"{FILE_STEM}.jsonl").exists() and (near := sets_within(folder)):
        raise UserError(f"{path}: is no run of rollouts{near}")
    found = read_json(file)
    kinds: dict[str, type] = {"policy": str, "template": str, "prompt": str, "sampling": dict, "n": int, "seed": int}
    kinds |= {"batch_tokens": int, "numerics": list, "verifier": str, "problems": str, "versions": str}
    kinds |= {n: kind for n, kind in {"limit": int, "engine": str, "conversation": dict}.items() if n in found}
    check_fields(str(file), found, kinds, "the settings of a rollout run")
    if len(found["numerics"]) != 2 or not all(isinstance(one, str) for one in found["numerics"]):
        raise UserError(
            f"{file}: field 'numerics' is {json.dumps(found['numerics'])[:40]}; expected a device and a type"
        )
    try:
        SamplingParams.model_validate(found["sampling"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{file}: field 'sampling': {where}: {first['msg'].lower()}") from None
    return found


def written_before(folder: Path) -> tuple[int, int]:
    """Rollouts, and their tokens, that an interrupted or finished run has left in its folder."""
    found = read_whole_lines(folder / f"{FILE_STEM}.jsonl", parse_rollout)
    return len(found), sum(len(one.ids) for one in found)


def prompt_ids(policy: Policy, problems: Sequence[Problem], prompt: PromptTemplate) -> list[NDArray[np.int64]]:
    """Token ids of each problem's prompt."""
    return [policy.encoder.prompt_ids(prompt.render(problem.problem)) for problem in problems]


def sample(
    policy: Policy,
    problems: Sequence[Problem],
    prompts: Sequence[NDArray[np.int64]],
    verifier: Verifier,
    *,
    style: AnswerStyle,
    n: int,
    params: SamplingParams,
    seed: int,
    batch_tokens: int,
    have: frozenset[tuple[str, str]] = frozenset(),
    share: Share | None = None,
) -> Iterator[list[Rollout]]:
    """Sample and verify n completions of each problem, a batch at a time.

    Batches are planned from the problems alone, and one with anything missing is sampled whole: an interrupted run goes
    on with the very same completions. Processes that share the work take batches in turn.

    Args:
        policy: The policy.
        problems: The problems.
        prompts: Their prompts; see `prompt_ids`.
        verifier: Verifies the answers.
        style: Where an answer is to be found.
        n: Completions of each problem.
        params: How to sample.
        seed: Seed of all completions.
        batch_tokens: Padded tokens of a batch, every completion counted at its full length.
        have: Keys of rollouts that exist; their batches are left out where complete.
        share: This process among those that share the work; None: it is the only one.

    Yields:
        The new rollouts of each batch.
    """
    share = share or Share()
    limit = policy.engine.max_length
    roomy = [limit is None or len(ids) < limit for ids in prompts]
    without_room = [
        Rollout(p.id, k, p.problem, p.answer, "", np.zeros(0, dtype=np.int64), "prompt", Verdict.WRONG)
        for p, fits in zip(problems, roomy, strict=True)
        for k in range(n)
        if not fits and (p.id, str(k)) not in have and share.main
    ]
    if without_room:
        yield without_room
    jobs = [
        (problem, Request(ids, problem.id, k))
        for problem, ids, fits in zip(problems, prompts, roomy, strict=True)
        for k in range(n)
        if fits
    ]
    lengths = [len(request.prompt) + params.max_new_tokens for _, request in jobs]
    runner = BatchRunner(batch_tokens)
    for batch in plan_batches(lengths, batch_tokens)[share.rank :: share.count]:
        missing = {j for j in batch if (jobs[j][1].key, str(jobs[j][1].sample)) not in have}
        if not missing:
            continue
        found: list[Rollout] = []

        def score(indices: Sequence[int], found: list[Rollout] = found, missing: set[int] = missing) -> None:
            completions = policy.engine.generate([jobs[j][1] for j in indices], policy.stop, params, seed)
            kept = [(*jobs[j], one) for j, one in zip(indices, completions, strict=True) if j in missing]
            texts = [policy.encoder.tokenizer.decode(one.ids, skip_special_tokens=True) for _, _, one in kept]
            verdicts = verifier.verify(texts, [problem.answer for problem, _, _ in kept], style=style)
            for (problem, request, one), text, verdict in zip(kept, texts, verdicts, strict=True):
                found.append(
                    Rollout(
                        id=problem.id,
                        sample=request.sample,
                        problem=problem.problem,
                        answer=problem.answer,
                        completion=text,
                        ids=one.ids,
                        finish_reason=one.finish_reason,
                        verdict=Verdict.WRONG if one.finish_reason == "length" else verdict,
                    )
                )

        runner.run(batch, lengths, score)
        yield found


def sampling_settings(
    policy: Policy, prompt: str, n: int, params: SamplingParams, seed: int, batch_tokens: int
) -> dict[str, Any]:
    """What decides completions, whatever the problems: JSON-serialisable; the engine where it is not the hf one."""
    return {
        "policy": policy.hashed,
        "template": policy.encoder.template_hash(),
        "prompt": prompt,
        "conversation": policy.encoder.conversation(),
        "sampling": params.model_dump(),
        "n": n,
        "seed": seed,
        "batch_tokens": batch_tokens,
        **({} if policy.engine.name == "hf" else {"engine": policy.engine.name}),
        "numerics": list(policy.engine.device_and_dtype()),
    }


def prompt_rules(conversation: Mapping[str, Any]) -> dict[str, Any]:
    """Say what of the prompts must be equal for two entries to be compared, besides the prompt template.

    Args:
        conversation: What a run recorded; see `TraceEncoder.conversation`. Runs from before recorded nothing.

    Returns:
        Arguments of the chat template, and its hash where the user gave one. Empty where the model's own template renders the
        prompts as it is: backbones have different ones.
    """
    rules = {"template_args": conversation.get("template_args") or None}
    rules["chat_template"] = None if conversation.get("own_template", True) else conversation.get("chat_template")
    return {name: value for name, value in rules.items() if value is not None}


def rollout(
    policy: Policy,
    problems: Sequence[Problem],
    output: Path,
    *,
    prompt: str = "boxed",
    n: int = 4,
    params: SamplingParams | None = None,
    seed: int = 0,
    batch_tokens: int = 16_384,
    limit: int | None = None,
    share: Share | None = None,
) -> list[Rollout]:
    """Sample n completions of each problem into ``output/rollouts.jsonl``; goes on where an interrupted call stopped.

    Args:
        limit: recorded when only the first problems are there.
        share: this process among those that share the work; None: it is the only one. All of them get all rollouts.

    Returns:
        All rollouts, by problem in the given order, then by sample.

    Raises:
        UserError: trouble with the folder (see `RunFolder`).
        KeyboardInterrupt: with a message that says what is kept.
    """
    params, share = params or SamplingParams(), share or Share()
    template = find_prompt(prompt)
    prompts = prompt_ids(policy, problems, template)
    settings = {
        **sampling_settings(policy, prompt, n, params, seed, batch_tokens),
        "verifier": verifier_version(),
        "problems": problems_digest(problems),
        "tokens": ids_hash(prompts),
        "stop": sorted(policy.stop),
        "versions": versions()["transformers"],
        **({} if limit is None else {"limit": limit}),
    }
    wanted = [(problem.id, str(k)) for problem in problems for k in range(n)]
    with RunFolder(output, settings, parse_rollout, stem=FILE_STEM, rank=share.rank) as folder, Verifier() as verifier:
        share.wait()
        have = frozenset(folder.completed())
        share.wait()  # nobody writes before all have looked
        try:
            total, done = -(-len(wanted) // share.count), -(-len(have) // share.count)
            with progress("sampling", total, "rollouts", done=done, quiet=not share.main) as advance:
                for batch in sample(
                    policy,
                    problems,
                    prompts,
                    verifier,
                    style=template.style,
                    n=n,
                    params=params,
                    seed=seed,
                    batch_tokens=batch_tokens,
                    have=have,
                    share=share,
                ):
                    folder.append(batch)
                    advance(len(batch))
        except KeyboardInterrupt:
            kept = len(folder.completed())
            raise KeyboardInterrupt(
                f"stopped; {kept:,} of {len(wanted):,} rollouts are kept in {output}: the same command goes on from there"
            ) from None
        share.wait()
        found = folder.completed()
        rollouts = [found[key] for key in wanted]
        share.wait()  # the files are merged when all have read them
        if share.main:
            folder.finish(rollouts)
        share.wait()
    return rollouts
