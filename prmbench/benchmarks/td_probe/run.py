"""Branch states of a policy's trajectories, value the branches, and roll them out.

Of every trajectory one state is drawn, at a random token. The state's likeliest next tokens are its branches. The reward model
gives each branch's value and TD; the policy rolls each branch out K times, and the verifier judges. A state is run once for all of
its branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.base import Job, Plan, RunKeywords, Units
from prmbench.benchmarks.precision import tell
from prmbench.benchmarks.problem_data import Problems, sampling_rules
from prmbench.benchmarks.runner import Finished, evaluate_alone
from prmbench.benchmarks.td_probe.benchmark import TD_PROBE, TDProbeOptions
from prmbench.benchmarks.td_probe.schema import BranchItem
from prmbench.data.problems import Problem
from prmbench.data.prompts import PromptTemplate, find_prompt
from prmbench.data.rollouts import Rollout
from prmbench.data.tokens import ids_hash
from prmbench.data.traces import data_hash
from prmbench.engines.processes import Share
from prmbench.engines.sampling import Request, SamplingParams, uniforms
from prmbench.errors import ArgumentError, UserError, argument
from prmbench.policies.continuations import continue_and_judge
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import rollout
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.subject import describe
from prmbench.verify import Verifier, verifier_version

if TYPE_CHECKING:
    from prmbench.reward_models.implicit import ImplicitRewardModel

BATCH_TOKENS = 65_536
"""Padded tokens of a batch, completions at full length."""


def evaluate_td_probe(
    model: RewardModel,
    policy: Policy,
    sets: dict[str, list[Problem]],
    *,
    name: str,
    source: str,
    options: TDProbeOptions | None = None,
    params: SamplingParams | None = None,
    prompt: str = "boxed",
    **run: Unpack[RunKeywords],
) -> Finished:
    """Sample trajectories, branch, roll out, and leave a TD probe's entry; see `evaluate_alone`.

    Args:
        model: The reward model.
        policy: The policy.
        sets: Problems by the set's name. One of each set is taken in turn until there are enough states; where there are fewer
            problems than states, several trajectories of each are sampled.
        name: The subject's name on tables.
        source: The reward model's checkpoint as the user named it.
        options: What is probed; None: the defaults.
        params: How trajectories and rollouts are sampled; None: at temperature 1.
        prompt: The name of the prompt template.
        **run: How it is run; see `RunKeywords`.
    """
    data = Problems(sets, prompt)
    job = Job(data=data, model=model, policy=policy, name=name, source=source, options=options, params=params, **run)
    return evaluate_alone(TD_PROBE, job)


@dataclass(frozen=True)
class BranchState:
    """A prefix of a trajectory.

    Attributes:
        subset: The problem set.
        problem: The problem.
        rollout: The trajectory.
        t: Response tokens in the prefix, from 1 to all but one.
        prompt: Token ids of the policy's prompt. Shape [p].
    """

    subset: str
    problem: Problem
    rollout: Rollout
    t: int
    prompt: NDArray[np.int64]

    @property
    def ids(self) -> NDArray[np.int64]:
        """Token ids of the response so far. Shape [t]."""
        return self.rollout.ids[: self.t]

    def branch_key(self, rank: int) -> tuple[str, str]:
        """The key of a branch's item.

        Args:
            rank: The branch's place among the state's, from 0.
        """
        return self.subset, f"{self.problem.id}/{self.rollout.sample}/{rank}"


def plan_td_probe(job: Job) -> Plan:
    """Plan the probe.

    Args:
        job: The evaluation; ``data`` are `Problems`.

    Raises:
        UserError: A reward model that cannot value tokens that were not sampled, or has another vocabulary than the policy; more
            branches than there are tokens; too few positions (found when the states are known).
    """
    # Imported here, since entries are read and computed again without torch.
    from prmbench.reward_models.branch_values import branching_model

    model, policy, data = job.model, job.policy, job.data
    assert model is not None
    assert policy is not None
    options: TDProbeOptions = job.options
    params = job.params or SamplingParams()
    values = branching_model(model)
    _check_vocabulary(values, policy)
    template = find_prompt(data.prompt)
    remarks = model.prompt_remarks(template)
    tell(remarks)
    if options.top > policy.engine.vocabulary:
        raise ArgumentError("top", options.top, f"the policy knows {policy.engine.vocabulary:,} tokens")

    # Problems, one of each set in turn, until there are enough states.
    n_states = -(-options.branches // options.top)
    ranks = zip_longest(*([(subset, problem) for problem in problems] for subset, problems in data.sets.items()))
    chosen = [one for rank in ranks for one in rank if one is not None][:n_states]
    batch_tokens = job.batch_tokens or BATCH_TOKENS
    probe = _Probe(values, policy, template, options, params, job.seed, Verifier(data.verifier))

    def units(folder: Path, share: Share) -> Units:
        states = _draw_states(
            policy, chosen, n_states, folder / "trajectories", data.prompt, params, job.seed, batch_tokens, share
        )
        _check_positions(values, states, template)
        keys = [[state.branch_key(rank) for rank in range(options.top)] for state in states]
        digests = {key: state.problem.digest() for state, of in zip(states, keys, strict=True) for key in of}
        ordered = sorted(
            range(len(states)), key=lambda i: (states[i].subset, states[i].problem.id, states[i].rollout.sample)
        )
        rows = options.top * options.rollouts_per_branch
        return Units(
            wanted={key: digests[key] for i in ordered for key in keys[i]},
            keys=keys,
            # The limit on new tokens is of a whole response.
            lengths=[rows * (len(s.prompt) + params.max_new_tokens) for s in states],
            work=lambda indices: probe.branch([states[i] for i in indices]),
            title="branching",
            progress_unit="states",
            count=lambda: probe.sampled,
            close=probe.verifier.close,
        )

    return Plan(
        subject=describe(model, job.name, job.source),
        encoder=model.encoder,
        settings={
            "policy_template": policy.encoder.template_hash(),
            "data": data_hash(problem.digest() for _, problem in chosen),
            "tokens": ids_hash(policy.encoder.prompt_ids(template.render(p.problem)) for _, p in chosen),
        },
        rules={
            "policy": policy.hashed,
            **sampling_rules(policy, params, data, job.seed),
            "states": n_states,
            "top": options.top,
            "rollouts": options.rollouts_per_branch,
            "verifier": verifier_version(data.verifier),
        },
        engine=policy.engine.name,
        numerics=policy.engine.device_and_dtype(),
        batch_tokens=batch_tokens,
        units=units,
        told=[*model.warnings, *policy.warnings, *remarks],
    )


def _check_vocabulary(model: ImplicitRewardModel, policy: Policy) -> None:
    if model.encoder.tokenizer.get_vocab() != policy.encoder.tokenizer.get_vocab():
        raise UserError(
            f"{model.source} and the policy {policy.source} have different vocabularies; the probe values the policy's own tokens: "
            "use a reward model trained from the same backbone"
        )


def _check_positions(model: ImplicitRewardModel, states: Sequence[BranchState], template: PromptTemplate) -> None:
    longest = max(len(model.encoder.prompt_ids(template.render(s.problem.problem))) + s.t + 1 for s in states)
    if model.max_length is not None and longest > model.max_length:
        raise UserError(
            f"{model.source}: a state and its branch have {longest:,} tokens, the model {model.max_length:,} positions; use "
            f"another model, or a smaller {argument('max_new_tokens')}"
        )


def _draw_states(
    policy: Policy,
    chosen: Sequence[tuple[str, Problem]],
    n_states: int,
    folder: Path,
    prompt: str,
    params: SamplingParams,
    seed: int,
    batch_tokens: int,
    share: Share,
) -> list[BranchState]:
    """Trajectories, and in each a state after 1 to T - 1 of its T response tokens, all equally likely.

    The parameters are those of `rollout`, which is called for each problem set.
    """
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
            prompt=prompt,
            n=-(-n_states // len(chosen)),
            params=params,
            seed=seed,
            batch_tokens=batch_tokens,
            share=share,
        )
        for one in trajectories:
            if len(one.ids) >= 2:
                place = uniforms(seed, f"cut:{one.id}", one.sample, 1)[0]
                t = 1 + int(place * (len(one.ids) - 1))
                ids = policy.encoder.prompt_ids(find_prompt(prompt).render(one.problem))
                states.append(BranchState(subset, of[one.id], one, t, ids))
    if not states:
        raise UserError(f"{policy.source}: no trajectory has two tokens; nothing to branch")
    return sorted(states, key=lambda s: s.rollout.sample)[:n_states]  # every problem before any problem's second


class _Probe:
    """Branches states. `sampled` counts the tokens of the rollouts."""

    def __init__(
        self,
        model: ImplicitRewardModel,
        policy: Policy,
        template: PromptTemplate,
        options: TDProbeOptions,
        params: SamplingParams,
        seed: int,
        verifier: Verifier,
    ) -> None:
        self.model, self.policy, self.template = model, policy, template
        self.options, self.params, self.seed = options, params, seed
        self.verifier = verifier
        self.sampled = 0

    def branch(self, states: Sequence[BranchState]) -> list[BranchItem]:
        """The items of some states."""
        from prmbench.reward_models.branch_values import branch_values

        # The likeliest next tokens of each state, and the reward model's values of them.
        whole = [np.concatenate([s.prompt, s.ids]) for s in states]
        asked = [np.append(ids, 0) for ids in whole]  # what comes after the state is asked at a token that follows it
        top = self.policy.engine.score(asked, [len(ids) for ids in whole], frozenset({"topk"}), top=self.options.top)
        tokens = [one.topk_ids[0] for one in top if one.topk_ids is not None]
        logprobs = [one.topk_logprobs[0] for one in top if one.topk_logprobs is not None]
        own = [self.model.encoder.prompt_ids(self.template.render(s.problem.problem)) for s in states]
        seen = [np.concatenate([prompt, s.ids]) for prompt, s in zip(own, states, strict=True)]
        values = branch_values(self.model, seen, [len(prompt) for prompt in own], tokens)

        # What the policy makes of each branch.
        right, cut = self._roll_out(states, whole, tokens)
        return [
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
                rolled=self.options.rollouts_per_branch,
                cut=int(cut[i, rank]),
            )
            for i, s in enumerate(states)
            for rank in range(self.options.top)
        ]

    def _roll_out(
        self, states: Sequence[BranchState], prefixes: Sequence[NDArray[np.int64]], tokens: Sequence[NDArray[np.int64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rollouts that end right, and that are cut, of each branch. Shape [states, top] each."""
        each = self.options.rollouts_per_branch
        branches = [(i, rank) for i in range(len(states)) for rank in range(len(tokens[i]))]
        requests = [
            Request(
                prefixes[i],
                f"{states[i].problem.id}:{states[i].rollout.sample}:{rank}",
                k,
                self.params.max_new_tokens - states[i].t,
                int(tokens[i][rank]),
            )
            for i, rank in branches
            for k in range(each)
        ]
        of = [states[i] for i, _ in branches for _ in range(each)]
        completions, right = continue_and_judge(
            self.policy,
            requests,
            [s.ids for s in of],
            [s.problem.answer for s in of],
            params=self.params,
            seed=self.seed,
            verifier=self.verifier,
            style=self.template.style,
        )
        self.sampled += sum(len(one.ids) for one in completions)
        cut = np.array([one.finish_reason == "length" for one in completions])
        shape = (len(states), self.options.top, each)
        return right.reshape(shape).sum(axis=2), cut.reshape(shape).sum(axis=2)
