"""Search with a policy and a reward model, verify what is found, and count what it cost."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from prmbench.benchmarks.base import Job, Plan, RunKeywords, Units
from prmbench.benchmarks.precision import tell
from prmbench.benchmarks.problem_data import Problems, sampling_rules
from prmbench.benchmarks.runner import Finished, evaluate_alone
from prmbench.benchmarks.search.benchmark import GUIDED_SEARCH, SearchOptions
from prmbench.benchmarks.search.metrics import POOLED, chosen_methods
from prmbench.benchmarks.search.schema import SearchItem
from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.data.tokens import ids_hash, split_response
from prmbench.engines.processes import Share
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import ArgumentError
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import problems_digest, prompt_ids
from prmbench.reward_models.base import RewardModel
from prmbench.reward_models.objectives import Convention
from prmbench.reward_models.subject import describe
from prmbench.search.drive import Searched, run_searches
from prmbench.search.methods import METHODS, Search, Setting, samples
from prmbench.search.paths import Cost, Task
from prmbench.search.paths import Path as ResponsePath
from prmbench.search.sampler import PolicySampler
from prmbench.search.scorer import ModelScorer
from prmbench.search.step_ends import StepEnds
from prmbench.verify import Verdict, Verifier, verifier_version
from prmbench.verify.classes import answer_classes
from prmbench.verify.golds import checked_verifier

BATCH_TOKENS = 65_536
"""Padded tokens of a batch, all paths of a search at full length."""
MOST_SAMPLES = 8
"""Plain samples are drawn until they cost as much as the dearest search, and no more than this times the largest budget."""


def evaluate_search(
    model: RewardModel,
    policy: Policy,
    sets: dict[str, list[Problem]],
    *,
    name: str,
    source: str,
    options: SearchOptions | None = None,
    params: SamplingParams | None = None,
    prompt: str = "boxed",
    **run: Unpack[RunKeywords],
) -> Finished:
    """Search, verify and measure, and leave an entry of guided search; see `evaluate_alone`.

    Args:
        model: The reward model.
        policy: The policy.
        sets: Problems by the set's name.
        name: The subject's name on tables.
        source: The reward model's checkpoint as the user named it.
        options: Methods, budgets and the like; None: the defaults.
        params: How the policy samples; None: at temperature 1.
        prompt: The name of the prompt template.
        **run: How it is run; see `RunKeywords`.
    """
    data = Problems(sets, prompt)
    job = Job(data=data, model=model, policy=policy, name=name, source=source, options=options, params=params, **run)
    return evaluate_alone(GUIDED_SEARCH, job)


def plan_search(job: Job) -> Plan:
    """Plan the searches.

    Args:
        job: The evaluation; ``data`` are `Problems`.

    Raises:
        UserError: A reward model that gives no scores, no such method or score, an empty step end, a server as the engine.
    """
    # What is asked for.
    model, policy, data = job.model, job.policy, job.data
    assert model is not None
    assert policy is not None
    options: SearchOptions = job.options
    params = job.params or SamplingParams()
    template = find_prompt(data.prompt)
    methods, budgets = chosen_methods(options)
    subject = describe(model, job.name, job.source)
    if policy.engine.name == "api":
        raise ArgumentError("engine", "api", "a server does not go on with a response by its tokens; use hf or vllm")

    # Who samples and who scores.
    given = [one.replace("\\n", "\n") for one in options.step_ends or ()] or [policy.encoder.options.separator]
    if not all(given):
        raise ArgumentError("step_ends", "", "is empty; expected the text that ends a step")
    ends = StepEnds(policy.encoder.tokenizer, given, options.step_tokens)
    sampler = PolicySampler(policy, ends, params, job.seed)
    scorer = ModelScorer(model, policy, template, options.score, Convention.of(subject))
    remarks = model.prompt_remarks(template)
    tell(remarks)

    # What is searched: each problem by every method and budget. Those that choose of a pool share one.
    problems = [(subset, problem) for subset, some in data.sets.items() for problem in some]
    prompts = prompt_ids(policy, [problem for _, problem in problems], template)
    searching = [(method, budget) for method in methods if method not in POOLED for budget in budgets]
    batch_tokens = job.batch_tokens or BATCH_TOKENS

    def units(folder: Path, share: Share) -> Units:
        judge = checked_verifier([problem for _, problem in problems], data.verifier, quiet=not share.main)
        run = _Run(sampler, scorer, judge, template.style, searching, budgets[-1], options, job.seed)
        keys = [
            [(subset, f"{problem.id}/best-of-n/all")]
            + [(subset, f"{problem.id}/{method}/{budget}") for method, budget in searching]
            for subset, problem in problems
        ]
        return Units(
            wanted={key: problem.digest() for mine, (_, problem) in zip(keys, problems, strict=True) for key in mine},
            keys=keys,
            lengths=[budgets[-1] * (len(ids) + params.max_new_tokens) for ids in prompts],
            work=lambda indices: run.items([(*problems[i], prompts[i]) for i in indices]),
            title="searching",
            progress_unit="problems",
            count=lambda: run.sampled,
            close=judge.close,
        )

    # What the run is, by which it goes on, and by which two entries are compared.
    return Plan(
        subject=subject,
        encoder=model.encoder,
        settings={
            "policy_template": policy.encoder.template_hash(),
            "data": {subset: problems_digest(some) for subset, some in data.sets.items()},
            "tokens": ids_hash(prompts),
            "stop": sorted(policy.stop),
        },
        rules={
            "policy": policy.hashed,
            **sampling_rules(policy, params, data, job.seed),
            "methods": list(methods),
            "budgets": list(budgets),
            "width": options.width,
            "particle_temperature": options.spread,
            "score": options.score,
            "step_ends": given,
            "step_tokens": options.step_tokens,
            "verifier": verifier_version(data.verifier),
        },
        engine=policy.engine.name,
        numerics=policy.engine.device_and_dtype(),
        batch_tokens=batch_tokens,
        units=units,
        told=[*model.warnings, *policy.warnings, *remarks],
    )


class _Run:
    """The searches of a run, a batch of problems at a time.

    Attributes:
        sampled: Tokens that were sampled so far.
    """

    def __init__(
        self,
        sampler: PolicySampler,
        scorer: ModelScorer,
        verifier: Verifier,
        style: Any,
        searching: Sequence[tuple[str, int]],
        budget: int,
        options: SearchOptions,
        seed: int,
    ) -> None:
        self.sampler, self.scorer, self.verifier, self.style = sampler, scorer, verifier, style
        self.searching, self.budget, self.options, self.seed = searching, budget, options, seed
        self.sampled = 0

    def items(self, problems: Sequence[tuple[str, Problem, Any]]) -> list[SearchItem]:
        """Search a batch of problems by all methods.

        Args:
            problems: Subset, problem, and token ids of the prompt.
        """
        limit = self.sampler.policy.engine.max_length
        roomy = [one for one in problems if limit is None or len(one[2]) < limit]
        found: dict[int, list[tuple[str, int, Searched, float]]] = {id(one[1]): [] for one in problems}
        with self.scorer.keeping():
            for method, budget in self.searching:
                settings = [
                    Setting(budget, self.options.width, self.options.spread, self.seed, problem.id)
                    for _, problem, _ in roomy
                ]
                for one, (result, seconds) in zip(
                    roomy, self._search(roomy, [METHODS[method](s) for s in settings]), strict=True
                ):
                    found[id(one[1])].append((method, budget, result, seconds))
            for one, (result, seconds) in zip(roomy, self._samples(roomy, found), strict=True):
                found[id(one[1])].append(("best-of-n", max(1, len(result.candidates)), result, seconds))
        return [item for one in problems for item in self._judged(*one[:2], found[id(one[1])])]

    def _search(
        self, problems: Sequence[tuple[str, Problem, Any]], searches: Sequence[Search]
    ) -> list[tuple[Searched, float]]:
        """Run searches side by side; each with its share of the time."""
        tasks = [Task(problem.id, problem.problem, ids) for _, problem, ids in problems]
        started = time.perf_counter()
        found = run_searches(list(zip(tasks, searches, strict=True)), self.sampler, self.scorer)
        seconds = (time.perf_counter() - started) / max(1, len(tasks))
        self.sampled += sum(cost.sampled for one in found for cost in one.costs)
        return [(one, seconds) for one in found]

    def _samples(
        self,
        problems: Sequence[tuple[str, Problem, Any]],
        found: dict[int, list[tuple[str, int, Searched, float]]],
    ) -> list[tuple[Searched, float]]:
        """Plain samples of each problem: as many as the largest budget, then more until they cost as much as its dearest search."""
        dearest = [
            max((_spent(result) for _, _, result, _ in found[id(problem)]), default=0.0) for _, problem, _ in problems
        ]
        pools: list[tuple[Searched, float]] = [(Searched(), 0.0) for _ in problems]
        left = list(range(len(problems)))
        while left:
            start = len(pools[left[0]][0].candidates)
            more = self._search([problems[i] for i in left], [samples(start, self.budget) for _ in left])
            for i, (new, seconds) in zip(left, more, strict=True):
                old, before = pools[i]
                costs = [*old.costs, *new.costs[1:]] if old.costs else new.costs
                pools[i] = (
                    Searched([*old.candidates, *new.candidates], costs, old.duplicates + new.duplicates),
                    before + seconds,
                )
            full = MOST_SAMPLES * self.budget
            left = [i for i in left if len(pools[i][0].candidates) < full and _spent(pools[i][0]) < dearest[i]]
        return pools

    def _judged(
        self, subset: str, problem: Problem, found: Sequence[tuple[str, int, Searched, float]]
    ) -> list[SearchItem]:
        """Verify the candidates of a problem, and make items."""
        if not found:  # the prompt leaves no room: there is nothing to choose from, and every answer is wrong
            found = [("best-of-n", 1, Searched([], [Cost()]), 0.0)] + [
                (m, n, Searched([], [Cost()]), 0.0) for m, n in self.searching
            ]
        paths = [path for _, _, one, _ in found for path in one.candidates]
        decode = self.sampler.policy.encoder.tokenizer.decode
        texts: list[str] = [decode(path.ids, skip_special_tokens=True) for path in paths]
        verdicts = self.verifier.verify(texts, [problem.answer] * len(texts), style=self.style)
        correct = [v == Verdict.CORRECT and p.end == "stop" for v, p in zip(verdicts, paths, strict=True)]
        classes = answer_classes(texts, correct, self.style, self.verifier) if texts else []
        answers = [-1 if p.end == "length" else c for c, p in zip(classes, paths, strict=True)]
        items, at = [], 0
        for method, budget, one, seconds in found:
            part = slice(at, at + len(one.candidates))
            at = part.stop
            items.append(
                SearchItem(
                    subset=subset,
                    id=problem.id,
                    digest=problem.digest(),
                    method=method,
                    budget=budget,
                    correct=correct[part],
                    answers=answers[part],
                    scores=np.array([path.score for path in one.candidates]),
                    lengths=np.array([len(path.ids) for path in one.candidates], dtype=np.int64),
                    sampled=np.array([cost.sampled for cost in one.costs], dtype=np.int64),
                    scored=np.array([cost.scored for cost in one.costs], dtype=np.int64),
                    policy_flops=np.array([cost.policy_flops for cost in one.costs]),
                    model_flops=np.array([cost.model_flops for cost in one.costs]),
                    seconds=seconds,
                    duplicates=one.duplicates,
                    **_troubles(one.candidates, texts[part], self.sampler.ends),
                )
            )
        return items


def _spent(found: Searched) -> float:
    """What a search cost: operations where they are known, else tokens."""
    whole = sum(found.costs, Cost())
    return whole.flops if np.isfinite(whole.flops) else float(whole.sampled + whole.scored)


def _troubles(paths: Sequence[ResponsePath], texts: Sequence[str], ends: StepEnds) -> dict[str, int]:
    """Count candidates that were cut, that never ended a step, that are empty, and that repeat a step."""
    steps = [_steps(text, ends.markers) for text in texts]
    cut = [path.end == "length" for path in paths]
    return {
        "cut": sum(cut),
        "endless": sum(was and len(mine) == 1 for was, mine in zip(cut, steps, strict=True)),
        "empty": sum(not text.strip() for text in texts),
        "repeating": sum(
            any(a.strip() and a.strip() == b.strip() for a, b in itertools.pairwise(mine)) for mine in steps
        ),
    }


def _steps(text: str, markers: Sequence[str]) -> list[str]:
    """The steps of a response, by the markers that end them."""
    for marker in markers[1:]:
        text = text.replace(marker, markers[0])
    return split_response(text, markers[0])
