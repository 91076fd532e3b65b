"""The TD probe: one-step TD of candidate tokens against what the policy makes of them (DESIGN 4.6; Section 4.3.3).

Of every trajectory one state is drawn, at a random token; its likeliest next tokens are its branches; the reward model gives each
branch's value and TD; the policy rolls each out K times and the verifier judges. A state is run once for all of its branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.td_probe.metrics import (
    BranchItem,
    TDProbeMetrics,
    compute_td_probe,
    parse_branch,
    read_branches,
)
from prmbench.data.problems import Problem
from prmbench.data.prompts import PromptTemplate, find_prompt
from prmbench.data.rollouts import Rollout
from prmbench.data.tokens import ids_hash
from prmbench.data.traces import data_hash
from prmbench.data.verdicts import Verdict
from prmbench.engines.batching import BatchRunner, plan_batches
from prmbench.engines.sampling import Request, SamplingParams, uniforms
from prmbench.errors import UserError
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import rollout
from prmbench.progress import progress
from prmbench.results.items import recompute_entry
from prmbench.results.provenance import run_provenance
from prmbench.results.schema import Benchmark, Entry, make_benchmark
from prmbench.results.store import RunFolder, default_folder
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.subject import describe
from prmbench.verify import Verifier, verifier_version

if TYPE_CHECKING:
    from prmbench.reward_models.implicit import ImplicitRewardModel

NAME = "td-probe"
VERSION = 1
N_RESAMPLES = 2_000

TDProbeEntry = Entry[TDProbeMetrics]


@dataclass(frozen=True)
class ProbeOptions:
    """What is probed.

    Attributes:
        branches: in all, `top` a state, so ``branches / top`` states (rounded up), one a trajectory.
        top: next tokens of each state. rollouts: K of each branch. params: how trajectories and rollouts are sampled.
        prompt: name of the prompt template. batch_tokens: padded tokens of a batch, completions at full length.
    """

    branches: int = 2_500
    top: int = 5
    rollouts: int = 1
    params: SamplingParams = field(default_factory=SamplingParams)
    prompt: str = "boxed"
    seed: int = 0
    n_resamples: int = N_RESAMPLES
    batch_tokens: int = 65_536


@dataclass(frozen=True)
class State:
    """A prefix of a trajectory. t: response tokens in it, 1 to all but one. prompt: the policy's, token ids."""

    subset: str
    problem: Problem
    rollout: Rollout
    t: int
    prompt: NDArray[np.int64]

    @property
    def ids(self) -> NDArray[np.int64]:
        """Token ids of the response so far."""
        return self.rollout.ids[: self.t]


def evaluate_td_probe(
    model: RewardModel,
    policy: Policy,
    sets: dict[str, list[Problem]],
    *,
    name: str,
    source: str,
    output: Path | None = None,
    options: ProbeOptions | None = None,
    miniature: bool = False,
) -> tuple[TDProbeEntry, Path]:
    """Sample trajectories, branch, roll out, measure; the same call goes on where an interrupted one stopped.

    Args:
        sets: problems by their set's name; one of each set in turn until there are enough states, several trajectories of each
            where there are fewer problems than states.
        output: the run's folder; None: ``prmbench-results/td-probe-NAME-HASH``.

    Returns:
        (entry, path of the entry file).

    Raises:
        UserError: a reward model that cannot value tokens not sampled, or has too few positions, another vocabulary than the
            policy's, more branches than it has tokens, or trouble with the folder. KeyboardInterrupt: with a message that says
            what is kept.
    """
    # Here, since entries are read and computed again without torch.
    from prmbench.reward_models.branches import branching_model

    options = options or ProbeOptions()
    values = branching_model(model)
    _check_vocabulary(values, policy)
    template = find_prompt(options.prompt)
    if options.top > policy.engine.vocabulary:
        raise UserError(f"--top {options.top}: the policy knows {policy.engine.vocabulary:,} tokens")
    n_states = -(-options.branches // options.top)
    ranks = zip_longest(*([(subset, problem) for problem in problems] for subset, problems in sets.items()))
    chosen = [one for rank in ranks for one in rank if one is not None][:n_states]
    samples = -(-n_states // len(chosen))
    subject = describe(model, name, source)
    device, dtype = policy.engine.device_and_dtype()
    rules = {
        "policy": policy.hashed,
        "prompt": options.prompt,
        "sampling": options.params.model_dump(),
        "states": n_states,
        "top": options.top,
        "rollouts": options.rollouts,
        "seed": options.seed,
        "verifier": verifier_version(),
    }
    settings = {
        "benchmark": {"name": NAME, "version": VERSION},
        "subject": subject.model_dump(mode="json", exclude={"name", "source", "reference"}),
        "rules": rules,
        "template": [policy.encoder.template_hash(), model.encoder.template_hash()],
        "numerics": {"engine": policy.engine.name, "device": device, "dtype": dtype, "batch": options.batch_tokens},
        "data": data_hash(problem.digest() for _, problem in chosen),
        "tokens": ids_hash(policy.encoder.prompt_ids(template.render(p.problem)) for _, p in chosen),
    }
    folder = output or default_folder(NAME, name, settings)
    with RunFolder(folder, settings, parse_branch) as run_folder:
        started = datetime.now(UTC)
        states = _draw_states(policy, chosen, samples, n_states, template, folder / "trajectories", options)
        _check_positions(values, states, template)
        done = run_folder.completed()
        try:
            tokens = _branch_missing(values, policy, states, set(done), run_folder, template, options)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; {len(run_folder.completed()):,} of {len(states) * options.top:,} branches are kept in {folder}: "
                "the same command goes on from there"
            ) from None
        found = run_folder.completed()
        items = sorted(found.values(), key=lambda item: (item.state, item.rank))
        written = run_folder.finish(items)
        provenance = run_provenance(
            model.encoder,
            engine=policy.engine.name,
            device=device,
            dtype=dtype,
            batch_tokens=options.batch_tokens,
            seed=options.seed,
            n_resamples=options.n_resamples,
            started=started,
            tokens=tokens,
            resumed=len(done),
        )
        entry = TDProbeEntry(
            subject=subject,
            benchmark=td_probe_benchmark(items, rules),
            metrics=compute_td_probe(items, subject, n_resamples=options.n_resamples, seed=options.seed),
            items=written,
            provenance=provenance,
            miniature=miniature,
        )
        return entry, run_folder.write_entry(entry)


def td_probe_benchmark(items: Sequence[BranchItem], rules: dict[str, Any]) -> Benchmark:
    """What an entry on these items was evaluated on. rules: the policy, its sampling, and how many of what."""
    subsets = {}
    for subset in dict.fromkeys(item.subset for item in items):
        mine = [item for item in items if item.subset == subset]
        problems = {item.id: item.digest for item in mine}
        counts = {"states": len({item.state for item in mine}), "branches": len(mine)}
        subsets[subset] = (len(problems), counts, data_hash(problems.values()))
    return make_benchmark(NAME, VERSION, subsets, rules)


def recompute_td_probe(path: Path, *, n_resamples: int | None = None, seed: int | None = None) -> TDProbeEntry:
    """Every metric again from the items of a run's folder. See `prmbench.results.items.recompute_entry`."""

    def compute(items: Sequence[BranchItem], old: TDProbeEntry, **statistics: int) -> TDProbeMetrics:
        return compute_td_probe(items, old.subject, **statistics)

    return recompute_entry(path, TDProbeEntry, read_branches, compute, n_resamples=n_resamples, seed=seed)


def _check_vocabulary(model: ImplicitRewardModel, policy: Policy) -> None:
    if model.encoder.tokenizer.get_vocab() != policy.encoder.tokenizer.get_vocab():
        raise UserError(
            f"{model.source} and the policy {policy.source} have different vocabularies; the probe values the policy's own tokens: "
            "use a reward model trained from the same backbone"
        )


def _check_positions(model: ImplicitRewardModel, states: Sequence[State], template: PromptTemplate) -> None:
    longest = max(len(model.encoder.prompt_ids(template.render(s.problem.problem))) + s.t + 1 for s in states)
    if model.max_length is not None and longest > model.max_length:
        raise UserError(
            f"{model.source}: a state and its branch have {longest:,} tokens, the model {model.max_length:,} positions; use "
            "another model, or a smaller --max-new-tokens"
        )


def _draw_states(
    policy: Policy,
    chosen: Sequence[tuple[str, Problem]],
    samples: int,
    n_states: int,
    template: PromptTemplate,
    folder: Path,
    options: ProbeOptions,
) -> list[State]:
    """Trajectories, and in each a state after 1 to T - 1 of its T response tokens, all equally likely."""
    by_set: dict[str, list[Problem]] = {}
    for subset, problem in chosen:
        by_set.setdefault(subset, []).append(problem)
    states = []
    for subset, problems in by_set.items():
        of = {problem.id: problem for problem in problems}
        trajectories = rollout(
            policy,
            problems,
            folder / subset,
            prompt=options.prompt,
            n=samples,
            params=options.params,
            seed=options.seed,
            batch_tokens=options.batch_tokens,
        )
        for one in trajectories:
            if len(one.ids) >= 2:
                place = uniforms(options.seed, f"cut:{one.id}", one.sample, 1)[0]
                t = 1 + int(place * (len(one.ids) - 1))
                prompt = policy.encoder.prompt_ids(template.render(one.problem))
                states.append(State(subset, of[one.id], one, t, prompt))
    if not states:
        raise UserError(f"{policy.source}: no trajectory has two tokens; nothing to branch")
    return sorted(states, key=lambda s: s.rollout.sample)[:n_states]  # every problem before any problem's second


def _branch_missing(
    model: ImplicitRewardModel,
    policy: Policy,
    states: Sequence[State],
    done: set[tuple[str, str]],
    folder: RunFolder[BranchItem],
    template: PromptTemplate,
    options: ProbeOptions,
) -> int:
    """Work through batches of states; one with anything missing is done whole, so that the numbers stay the same.

    Returns:
        Tokens sampled.
    """
    rows = options.top * options.rollouts
    lengths = [
        rows * (len(s.prompt) + options.params.max_new_tokens) for s in states
    ]  # the limit is of a whole response
    runner = BatchRunner(options.batch_tokens)
    sampled = 0

    def complete(state: State) -> bool:
        stem = f"{state.problem.id}/{state.rollout.sample}"
        return all((state.subset, f"{stem}/{rank}") in done for rank in range(options.top))

    batches = plan_batches(lengths, options.batch_tokens)
    todo = [batch for batch in batches if not all(complete(states[i]) for i in batch)]
    left = sum(len(batch) for batch in todo)
    with Verifier() as verifier, progress("branching", len(states), "states", done=len(states) - left) as advance:

        def work(indices: Sequence[int]) -> None:
            nonlocal sampled
            batch = [states[i] for i in indices]
            items, n_tokens = _branch(model, policy, batch, verifier, template, options)
            folder.append(item for item in items if item.key not in done)
            sampled += n_tokens
            advance(len(batch))

        for batch in todo:
            runner.run(batch, lengths, work)
    return sampled


def _branch(
    model: ImplicitRewardModel,
    policy: Policy,
    states: Sequence[State],
    verifier: Verifier,
    template: PromptTemplate,
    options: ProbeOptions,
) -> tuple[list[BranchItem], int]:
    """Items of a batch of states, and how many tokens were sampled."""
    from prmbench.reward_models.branches import branch_values

    whole = [np.concatenate([s.prompt, s.ids]) for s in states]
    asked = [np.append(ids, 0) for ids in whole]  # what comes after the state is asked at a token that follows it
    top = policy.engine.score(asked, [len(ids) for ids in whole], frozenset({"topk"}), top=options.top)
    tokens = [one.topk_ids[0] for one in top if one.topk_ids is not None]
    logprobs = [one.topk_logprobs[0] for one in top if one.topk_logprobs is not None]
    own = [model.encoder.prompt_ids(template.render(s.problem.problem)) for s in states]
    seen = [np.concatenate([prompt, s.ids]) for prompt, s in zip(own, states, strict=True)]
    values = branch_values(model, seen, [len(prompt) for prompt in own], tokens)
    requests, which = [], []
    for i, s in enumerate(states):
        for rank, token in enumerate(tokens[i]):
            for k in range(options.rollouts):
                key = f"{s.problem.id}:{s.rollout.sample}:{rank}"
                requests.append(Request(whole[i], key, k, options.params.max_new_tokens - s.t, int(token)))
                which.append((i, rank))
    completions = policy.engine.generate(requests, policy.stop, options.params, options.seed)
    right = np.zeros((len(states), options.top), dtype=np.int64)
    cut = np.zeros_like(right)
    texts = [
        policy.encoder.tokenizer.decode(np.concatenate([states[i].ids, one.ids]), skip_special_tokens=True)
        for (i, _), one in zip(which, completions, strict=True)
    ]
    answers = [states[i].problem.answer for i, _ in which]
    verdicts = verifier.verify(texts, answers, style=template.style)
    for (i, rank), one, verdict in zip(which, completions, verdicts, strict=True):
        cut[i, rank] += one.finish_reason == "length"
        right[i, rank] += verdict == Verdict.CORRECT and one.finish_reason == "stop"
    items = [
        BranchItem(
            subset=s.subset,
            id=s.problem.id,
            sample=s.rollout.sample,
            digest=s.problem.digest(),
            rank=rank,
            t=s.t,
            length=len(s.rollout.ids),
            token=int(tokens[i][rank]),
            logprob=float(logprobs[i][rank]),
            sum=float(values[i][0].sum()),
            ratio=float(values[i][1][rank]),
            right=int(right[i, rank]),
            rolled=options.rollouts,
            cut=int(cut[i, rank]),
        )
        for i, s in enumerate(states)
        for rank in range(options.top)
    ]
    return items, sum(len(one.ids) for one in completions)
