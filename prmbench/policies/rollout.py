"""Rollouts: sampled completions of problems, each with its verdict. They are written as they come, so that a run can go on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.problems import Problem
from prmbench.data.prompts import PROMPT_TEMPLATES, AnswerStyle, PromptTemplate, find_prompt
from prmbench.data.records import check_fields, read_json
from prmbench.data.revisions import split_revision
from prmbench.data.rollouts import FILE_STEM, Rollout, parse_rollout, sets_within
from prmbench.data.tokens import DEFAULT_DATE, ids_hash
from prmbench.data.verdicts import Verdict
from prmbench.engines.batching import BatchRunner, plan_batches
from prmbench.engines.processes import Share
from prmbench.engines.sampling import Completion, Request, SamplingParams, recorded_params
from prmbench.errors import UserError
from prmbench.policies.policy import Policy
from prmbench.progress import progress
from prmbench.results.provenance import versions
from prmbench.results.schema import digest
from prmbench.results.store import RUN_NAME, RunFolder, read_whole_lines
from prmbench.verify import Verifier, VerifierOptions, verifier_version
from prmbench.verify.golds import checked_verifier


def problems_digest(problems: Iterable[Problem]) -> str:
    """Hash problems, whatever their order.

    Args:
        problems: The problems.

    Returns:
        sha256 in hex.
    """
    return digest(sorted(problem.digest() for problem in problems))


def run_settings(path: str | Path) -> dict[str, Any]:
    """Read what the run of a rollouts file was sampled with, as `rollout` wrote it.

    Args:
        path: The rollouts file, or its folder.

    Returns:
        The settings of the run.

    Raises:
        UserError: The file that says it is missing, broken or of another sort of run.
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
    recorded_params(f"{file}: field 'sampling'", found["sampling"])
    return found


def written_before(folder: Path) -> tuple[int, int]:
    """Count what an interrupted or finished run has left in its folder.

    Args:
        folder: The folder of the run.

    Returns:
        Number of rollouts, and number of their tokens.
    """
    found = read_whole_lines(folder / f"{FILE_STEM}.jsonl", parse_rollout)
    return len(found), sum(len(one.ids) for one in found)


def prompt_ids(policy: Policy, problems: Sequence[Problem], prompt: PromptTemplate) -> list[NDArray[np.int64]]:
    """Encode the prompt of each problem.

    Args:
        policy: The policy.
        problems: The problems.
        prompt: How problems are put to the policy.

    Returns:
        Token ids of each prompt. int64, shape [p].
    """
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
    """Sample and verify completions of each problem, a batch at a time.

    Batches are planned from the problems alone, and one with anything missing is sampled whole: an interrupted run goes
    on with the very same completions. Processes that share the work take batches in turn.

    It takes 11 parameters because each decides a part of what is sampled, and callers differ in all of them.

    Args:
        policy: The policy.
        problems: The problems.
        prompts: Token ids of their prompts (`prompt_ids`). int64, shape [p].
        verifier: Verifies the answers.
        style: Where an answer is to be found.
        n: Number of completions of each problem.
        params: How tokens are chosen.
        seed: Seed of all random numbers.
        batch_tokens: Padded tokens of a batch, every completion counted at its full length.
        have: Keys of rollouts that exist; their batches are left out where complete.
        share: This process among those that share the work; None: it is the only one.

    Yields:
        The new rollouts of each batch.
    """
    share = share or Share()
    # A prompt that leaves no room has no completion, which counts as wrong.
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
    # All others are sampled in batches; each is verified before the next is sampled.
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
        completions: dict[int, Completion] = {}

        def write(indices: Sequence[int], completions: dict[int, Completion] = completions) -> None:
            requests = [jobs[j][1] for j in indices]
            completions.update(zip(indices, policy.engine.generate(requests, policy.stop, params, seed), strict=True))

        runner.run(batch, lengths, write)
        kept = [(*jobs[j], completions[j]) for j in batch if j in missing]
        texts = [policy.encoder.tokenizer.decode(one.ids, skip_special_tokens=True) for _, _, one in kept]
        verdicts = verifier.verify(texts, [problem.answer for problem, _, _ in kept], style=style)
        yield [
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
            for (problem, request, one), text, verdict in zip(kept, texts, verdicts, strict=True)
        ]


def sampling_settings(
    policy: Policy, prompt: str, n: int, params: SamplingParams, seed: int, batch_tokens: int
) -> dict[str, Any]:
    """Say what decides completions, whatever the problems.

    Args:
        policy: The policy.
        prompt: Name of the prompt template.
        n: Number of completions of each problem.
        params: How tokens are chosen.
        seed: Seed of all random numbers.
        batch_tokens: Padded tokens of a batch.

    Returns:
        Settings that JSON can hold. The engine is among them where it is not the hf one, and attention where it is not SDPA.
    """
    revision = split_revision(policy.source)[1]
    attention = policy.engine.facts().get("attention")
    return {
        "policy": policy.hashed,
        **({} if revision is None else {"revisions": {"policy": revision}}),
        "template": policy.encoder.template_hash(),
        "prompt": prompt,
        "conversation": policy.encoder.conversation(),
        "sampling": params.model_dump(),
        "n": n,
        "seed": seed,
        "batch_tokens": batch_tokens,
        **({} if policy.engine.name == "hf" else {"engine": policy.engine.name}),
        **({} if attention is None else {"attention": attention}),
        "numerics": list(policy.engine.device_and_dtype()),
    }


def task_settings(
    policy: Policy, problems: Iterable[Problem], prompts: Iterable[NDArray[np.int64]], verifier: VerifierOptions | None
) -> dict[str, Any]:
    """Say what a run works on, and how answers are judged: with `sampling_settings`, what decides all that it writes.

    Args:
        policy: The policy.
        problems: The problems.
        prompts: Token ids that are continued, in order. Each int64, shape [p].
        verifier: The conventions that verdicts follow; None: the defaults.
    """
    return {
        "verifier": verifier_version(verifier),
        "problems": problems_digest(problems),
        "tokens": ids_hash(prompts),
        "stop": sorted(policy.stop),
        "versions": versions()["transformers"],
    }


def prompt_rules(conversation: Mapping[str, Any], prompt: str | None = None) -> dict[str, Any]:
    """Say what of the prompts must be equal for two entries to be compared, besides the prompt template.

    Args:
        conversation: What a run recorded; see `TraceEncoder.conversation`. Runs from before recorded nothing.
        prompt: Name of the prompt template; None: its system message is not looked at.

    Returns:
        Arguments of the chat template, its hash where the user gave one, the day that it was given, and a system message other than
        the prompt template's. Empty where the model's own template renders the prompts as it is: backbones have different ones.
    """
    rules = {"template_args": conversation.get("template_args") or None}
    rules["chat_template"] = None if conversation.get("own_template", True) else conversation.get("chat_template")
    rules["date"] = date if (date := conversation.get("date")) != DEFAULT_DATE else None
    if prompt in PROMPT_TEMPLATES and conversation.get("system") != PROMPT_TEMPLATES[prompt].system:
        rules["system"] = conversation.get("system")
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
    verifier: VerifierOptions | None = None,
) -> list[Rollout]:
    """Sample completions of each problem into ``output/rollouts.jsonl``. It goes on where an interrupted call stopped.

    It takes 11 parameters because each decides a part of what is sampled and is one option of the command line.

    Args:
        policy: The policy.
        problems: The problems.
        output: The folder of the run.
        prompt: Name of the prompt template.
        n: Number of completions of each problem.
        params: How tokens are chosen; None: as `SamplingParams` has it.
        seed: Seed of all random numbers.
        batch_tokens: Padded tokens of a batch, every completion counted at its full length.
        limit: How many problems were asked for where these are only the first ones. It is recorded.
        share: This process among those that share the work; None: it is the only one. All of them get all rollouts.
        verifier: The conventions that verdicts follow; None: the defaults. They are recorded.

    Returns:
        All rollouts, by problem in the given order, then by sample.

    Raises:
        UserError: A gold answer is empty, or there is trouble with the folder (see `RunFolder`).
        KeyboardInterrupt: With a message that says what is kept.
    """
    # What the run is: another one in this folder is refused.
    params, share = params or SamplingParams(), share or Share()
    template = find_prompt(prompt)
    prompts = prompt_ids(policy, problems, template)
    settings = {
        **sampling_settings(policy, prompt, n, params, seed, batch_tokens),
        **task_settings(policy, problems, prompts, verifier),
        **({} if limit is None else {"limit": limit}),
    }
    # What is missing is sampled.
    wanted = [(problem.id, str(k)) for problem in problems for k in range(n)]
    with (
        checked_verifier(problems, verifier, quiet=not share.main) as checker,
        RunFolder(output, settings, parse_rollout, stem=FILE_STEM, rank=share.rank) as folder,
    ):
        share.wait()
        have = frozenset(folder.completed())
        share.wait()  # nobody writes before all have looked
        total, done = -(-len(wanted) // share.count), -(-len(have) // share.count)
        with (
            folder.saying_what_is_kept(len(wanted), "rollouts"),
            progress("sampling", total, "rollouts", done=done, quiet=not share.main) as advance,
        ):
            for batch in sample(
                policy,
                problems,
                prompts,
                checker,
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
        # All processes read what each has written, before the first one merges it.
        share.wait()
        found = folder.completed()
        rollouts = [found[key] for key in wanted]
        share.wait()  # the files are merged when all have read them
        if share.main:
            folder.finish(rollouts)
        share.wait()
    return rollouts
