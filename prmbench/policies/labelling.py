"""Labels of steps by rollouts: how many continuations from the end of a step are right.

A state is a prompt and a prefix of a solution's tokens. What is sampled of a state depends on the state alone, so that solutions
that share one share its continuations, and a run that was interrupted goes on with the same numbers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmbench.data.problems import Problem
from prmbench.data.prompts import PromptTemplate, find_prompt
from prmbench.data.records import check_fields, check_limit, find_file, read_records
from prmbench.data.rollouts import Rollout, prompt_of, read_rollouts
from prmbench.data.solutions import Solution, load_solutions
from prmbench.data.tokens import TraceEncoder, ids_hash, split_response
from prmbench.engines.missing import run_missing
from prmbench.engines.processes import Share
from prmbench.engines.sampling import Request, SamplingParams
from prmbench.errors import ArgumentError, UserError
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import problems_digest, sampling_settings
from prmbench.results.provenance import versions
from prmbench.results.store import RunFolder, write_atomically
from prmbench.stats.rollout_labels import Rule, decided, right_steps, share_intervals
from prmbench.verify import Verdict, Verifier, VerifierOptions, verifier_version
from prmbench.verify.golds import checked_verifier

Ids = NDArray[np.int64]
STEM, LABELS_NAME = "states", "labels.jsonl"
ROUNDS = 4
"""How often an adaptive run looks at a state."""


@dataclass(frozen=True)
class LabelOptions:
    """What is sampled of each state, and how its label follows.

    Attributes:
        k: Continuations of each state at most.
        rule: How a label follows from the value (`prmbench.stats.rollout_labels.right_steps`).
        threshold: The threshold of the rule; None is 0.5, and 0 for ``gain``.
        adaptive: Whether a state is left when its label is decided.
    """

    k: int = 8
    rule: Rule = "any"
    threshold: float | None = None
    adaptive: bool = False

    @property
    def limit(self) -> float:
        """The threshold of the rule."""
        return (0.0 if self.rule == "gain" else 0.5) if self.threshold is None else self.threshold

    @property
    def looks(self) -> int:
        """How often a state is looked at."""
        return min(ROUNDS, self.k) if self.adaptive else 1


@dataclass(frozen=True)
class Marked:
    """A solution with the number of its tokens at the end of every step.

    Attributes:
        id: Its name.
        problem: The problem, with its answer.
        text: The response.
        steps: Its steps.
        prompt: Token ids of the prompt. Shape [p].
        ids: Token ids of the response, without what ends it. Shape [t].
        ends: Tokens of the response up to the end of each step. Shape [n_steps].
        finished: Whether the response has ended after its last step.
    """

    id: str
    problem: Problem
    text: str
    steps: tuple[str, ...]
    prompt: Ids
    ids: Ids
    ends: Ids
    finished: bool

    def states(self) -> list[State]:
        """The states before the first step and after each step. Length n_steps + 1."""
        cuts = [0, *self.ends.tolist()]
        last = len(cuts) - 1
        return [
            State(self.problem, self.prompt, self.ids[:cut], self.text if self.finished and i == last else None)
            for i, cut in enumerate(cuts)
        ]


@dataclass(frozen=True)
class State:
    """A state to sample from.

    Attributes:
        problem: The problem, with its answer.
        prompt: Token ids of the prompt. Shape [p].
        ids: Token ids of the response so far. Shape [t].
        whole: The whole response where it is finished, which needs no continuation; else None.
    """

    problem: Problem
    prompt: Ids
    ids: Ids
    whole: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What names it: a hash of problem and answer, and one of the tokens and of whether they are finished."""
        content = self.prompt.tobytes() + b"|" + self.ids.tobytes() + (b"" if self.whole is None else b"|end")
        of = json.dumps([self.problem.problem, self.problem.answer]).encode()
        return hashlib.sha256(of).hexdigest()[:16], hashlib.sha256(content).hexdigest()[:16]


@dataclass(frozen=True)
class StateCount:
    """What came of a state.

    Attributes:
        problem: The hash of problem and answer.
        state: The hash of the tokens.
        successes: Right continuations.
        trials: Continuations.
        cut: Continuations that were cut for their length; they are not right.
        tokens: Tokens that were sampled.
    """

    problem: str
    state: str
    successes: int
    trials: int
    cut: int = 0
    tokens: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What names it within the run."""
        return self.problem, self.state

    def line(self) -> str:
        """It as one JSON line."""
        return json.dumps(self.__dict__) + "\n"


@dataclass(frozen=True)
class Budget:
    """What a run will sample at most.

    Attributes:
        solutions: Solutions.
        states: States of them all, the ones before the first step among them.
        different: Different states.
        finished: Different states that need no continuation.
        continuations: Continuations at most.
        tokens: Sampled tokens at most.
        likely: Tokens where continuations are as long as what is left of the solutions.
    """

    solutions: int
    states: int
    different: int
    finished: int
    continuations: int
    tokens: int
    likely: int

    def sentence(self) -> str:
        """Say it in words."""
        return (
            f"{self.solutions:,} solutions, {self.states:,} states, {self.different:,} different, {self.finished:,} finished: "
            f"{self.continuations:,} continuations at most, about {self.likely:,} tokens if they are as long as what is left of "
            f"the solutions, {self.tokens:,} at most"
        )


def load_marked(
    path: str | Path, encoder: TraceEncoder, prompt: str | None = None, limit: int | None = None
) -> tuple[list[Marked], str]:
    """Load what is to be labelled.

    Args:
        path: A file or run folder of rollouts, or a file of ``{problem, answer, steps}`` or ``{problem, answer, solution}``
            records.
        encoder: The policy's.
        prompt: Name of the prompt template; None: that of the rollouts' run, else ``boxed``.
        limit: Only the first this many; None: all.

    Returns:
        The solutions that have a token, and the name of the prompt template.

    Raises:
        UserError: The file cannot be read, a record is wrong or has no answer, or the rollouts were sampled with another prompt
            template.
    """
    check_limit(limit)
    is_file = not Path(path).is_dir()
    first = (
        next(read_records(find_file(path, "a file of solutions, or of rollouts")), ("", None))[1] if is_file else None
    )
    if is_file and not (isinstance(first, dict) and "completion" in first):
        name = prompt or "boxed"
        solutions = load_solutions(path, limit)
        for one in solutions:
            if one.answer is None:
                raise UserError(
                    f"{path}: solution '{one.id}' has no field 'answer'; continuations are verified against it"
                )
        return [mark_solution(encoder, find_prompt(name), one) for one in solutions], name
    used = prompt_of(path)
    if prompt is not None and used not in (None, prompt):
        raise ArgumentError("prompt", prompt, f"the rollouts were sampled with '{used}'; leave it out")
    name = used or prompt or "boxed"
    rollouts = [one for one in read_rollouts(path) if len(one.ids)]  # the prompt of others left no room
    return [mark_rollout(encoder, find_prompt(name), one) for one in rollouts[:limit]], name


def mark_solution(encoder: TraceEncoder, prompt: PromptTemplate, solution: Solution) -> Marked:
    """Encode a solution whose steps are given.

    Args:
        encoder: The policy's.
        prompt: How problems are put to the policy.
        solution: The solution, with its answer.
    """
    assert solution.answer is not None
    encoded = encoder.encode(prompt.render(solution.problem), solution.steps)
    problem = Problem(solution.id, solution.problem, solution.answer)
    text = encoder.options.separator.join(solution.steps)
    return _marked(
        solution.id, problem, text, solution.steps, encoded.ids, encoded.n_prompt, encoded.step_of, finished=True
    )


def mark_rollout(encoder: TraceEncoder, prompt: PromptTemplate, rollout: Rollout) -> Marked:
    """Find the steps of a rollout among its own token ids.

    Args:
        encoder: The policy's.
        prompt: How problems are put to the policy.
        rollout: The rollout.
    """
    before = encoder.prompt_ids(prompt.render(rollout.problem))
    finished = rollout.finish_reason == "stop"
    encoded = encoder.encode_response(before, rollout.completion, rollout.ids, finished=finished)
    steps = tuple(split_response(rollout.completion, encoder.options.separator))
    problem = Problem(rollout.id, rollout.problem, rollout.answer)
    name = f"{rollout.id}/{rollout.sample}"
    return _marked(
        name, problem, rollout.completion, steps, encoded.ids, len(before), encoded.step_of, finished=finished
    )


def _marked(
    name: str,
    problem: Problem,
    text: str,
    steps: tuple[str, ...],
    ids: Ids,
    n_prompt: int,
    step_of: Ids,
    *,
    finished: bool,
) -> Marked:
    """Put together what `Marked` has, one parameter a field."""
    inside = step_of >= 0
    ends = np.cumsum(np.bincount(step_of[inside], minlength=len(steps)))
    return Marked(name, problem, text, steps, ids[:n_prompt], ids[n_prompt:][inside], ends, finished)


def budget(marked: Sequence[Marked], options: LabelOptions, max_new_tokens: int) -> Budget:
    """Say what a run will sample at most.

    Args:
        marked: The solutions.
        options: What is sampled.
        max_new_tokens: Most tokens of a response, its prefix among them.
    """
    every = [(state, len(one.ids) - len(state.ids)) for one in marked for state in one.states()]
    different = {state.key: (state, left) for state, left in every}
    open_ones = [(state, left) for state, left in different.values() if state.whole is None]
    room = [max(0, max_new_tokens - len(state.ids)) for state, _ in open_ones]
    return Budget(
        solutions=len(marked),
        states=len(every),
        different=len(different),
        finished=len(different) - len(open_ones),
        continuations=options.k * sum(one > 0 for one in room),
        tokens=options.k * sum(room),
        likely=options.k * sum(min(left, one) for (_, left), one in zip(open_ones, room, strict=True)),
    )


def label(
    policy: Policy,
    marked: Sequence[Marked],
    output: Path,
    *,
    prompt: str = "boxed",
    options: LabelOptions | None = None,
    params: SamplingParams | None = None,
    seed: int = 0,
    batch_tokens: int = 16_384,
    share: Share | None = None,
    verifier: VerifierOptions | None = None,
) -> dict[tuple[str, str], StateCount] | None:
    """Sample continuations of every state, and write ``states.jsonl`` and ``labels.jsonl`` into a folder.

    It goes on where an interrupted call stopped. The parameters are many because each decides a part of what is sampled and is one
    option of the command line.

    Args:
        policy: The policy.
        marked: The solutions, at least one.
        output: The folder of the run.
        prompt: Name of the prompt template.
        options: What is sampled of each state, and how labels follow; None: as `LabelOptions` has it.
        params: How tokens are chosen; ``max_new_tokens`` counts the prefix too. None: as `SamplingParams` has it.
        seed: Seed of all random numbers.
        batch_tokens: Padded tokens of a batch, every continuation counted at its full length.
        share: This process among those that share the work; None: it is the only one.
        verifier: The conventions that verdicts follow; None: the defaults. They are recorded.

    Returns:
        The counts of each state; None in processes other than the first.

    Raises:
        UserError: No solutions, a gold answer is empty, or there is trouble with the folder (see `RunFolder`).
        ArgumentError: An adaptive run under the rule gain, which is never decided before the end.
        KeyboardInterrupt: With a message that says what is kept.
    """
    options, params, share = options or LabelOptions(), params or SamplingParams(), share or Share()
    if options.adaptive and options.rule == "gain":
        raise ArgumentError("adaptive", None, "the rule gain is decided by no single state; leave it out")
    if not marked:
        raise UserError("no solutions to label")
    # What the run is: another one in this folder is refused. The rule is none of it, unless it decides where sampling stops.
    states = list({state.key: state for one in marked for state in one.states()}.values())
    template = find_prompt(prompt)
    stops = {"rule": options.rule, "threshold": options.limit} if options.adaptive else None
    settings = {
        **sampling_settings(policy, prompt, options.k, params, seed, batch_tokens),
        "adaptive": stops,
        "verifier": verifier_version(verifier),
        "problems": problems_digest({one.problem.id: one.problem for one in marked}.values()),
        "tokens": ids_hash(np.concatenate([state.prompt, state.ids]) for state in states),
        "stop": sorted(policy.stop),
        "versions": versions()["transformers"],
    }
    # What is missing is sampled.
    problems = list({one.problem.id: one.problem for one in marked}.values())
    with (
        checked_verifier(problems, verifier, quiet=not share.main) as checker,
        RunFolder(output, settings, parse_count, stem=STEM, rank=share.rank) as folder,
    ):
        share.wait()
        have = folder.completed()
        share.wait()  # nobody writes before all have looked
        sampler = _Sampler(policy, template, options, params, seed, checker)
        lengths = [options.k * (len(s.prompt) + params.max_new_tokens) for s in states]
        missing = {i for i, state in enumerate(states) if state.key not in have}

        def work(indices: Sequence[int]) -> None:
            folder.append(one for one in sampler.count([states[i] for i in indices]) if one.key not in have)

        try:
            run_missing("labelling", lengths, missing, batch_tokens, work, share=share, unit="states")
        except KeyboardInterrupt:
            kept = len(folder.completed())
            raise KeyboardInterrupt(
                f"stopped; {kept:,} of {len(states):,} states are kept in {output}: the same command goes on from there"
            ) from None
        share.wait()
        if not share.main:
            return None
        # The counts, in the order of the solutions, and the labels that follow from them.
        found = folder.completed()
        folder.finish([found[state.key] for state in states])
        lines = [json.dumps(labelled(one, found, options), ensure_ascii=False) for one in marked]
        write_atomically(output / LABELS_NAME, "".join(f"{line}\n" for line in lines))
    return found


def parse_count(place: str, record: Any) -> StateCount:
    """Check one line of the states file.

    Args:
        place: Where it is from, for the message.
        record: The record.

    Raises:
        UserError: It is none. The message names the place and the field.
    """
    kinds: dict[str, type] = {"problem": str, "state": str, "successes": int, "trials": int, "cut": int, "tokens": int}
    return StateCount(**check_fields(place, record, kinds, "the counts of a state"))


def labelled(one: Marked, found: dict[tuple[str, str], StateCount], options: LabelOptions) -> dict[str, Any]:
    """Make the record of a labelled solution.

    Args:
        one: The solution.
        found: The counts of its states.
        options: How labels follow.

    Returns:
        A trace, as `prmbench.data.traces` reads it, with counts, values and intervals.
    """
    states = one.states()
    counts = [found[state.key] for state in states]
    successes, trials = (np.array([getattr(c, name) for c in counts]) for name in ("successes", "trials"))
    values = successes / trials
    low, high = share_intervals(successes, trials, options.looks)
    if one.finished:  # the end is known
        low[-1] = high[-1] = values[-1]
    right = right_steps(values[1:], float(values[0]), options.rule, options.limit).tolist()
    return {
        "id": one.id,
        "problem": one.problem.problem,
        "answer": one.problem.answer,
        "steps": one.steps,
        "labels": ["right" if yes else "wrong" for yes in right],
        "label": right.index(False) if False in right else -1,
        "successes": successes[1:].tolist(),
        "trials": trials[1:].tolist(),
        "values": values[1:].tolist(),
        "low": low[1:].tolist(),
        "high": high[1:].tolist(),
        "start": [int(successes[0]), int(trials[0])],
    }


@dataclass
class _Sampler:
    """Samples and judges continuations, one field for each thing that they depend on."""

    policy: Policy
    template: PromptTemplate
    options: LabelOptions
    params: SamplingParams
    seed: int
    verifier: Verifier

    def count(self, states: Sequence[State]) -> list[StateCount]:
        """Count the right continuations of some states."""
        # What is finished has a verdict; the others begin with nothing.
        k, options = self.options.k, self.options
        limit = self.policy.engine.max_length
        done = {s.key: self._finished(s) for s in states if s.whole is not None}
        open_ones = [s for s in states if s.whole is None]
        for state in open_ones:
            done[state.key] = StateCount(*state.key, 0, 0)

        # A state without room has no continuation; its continuations count as wrong.
        def room(state: State) -> int:
            left = self.params.max_new_tokens - len(state.ids)
            return left if limit is None else min(left, limit - len(state.prompt) - len(state.ids))

        for state in open_ones:
            if room(state) < 1:
                done[state.key] = StateCount(*state.key, 0, k, cut=k)
        # The others are sampled, in one round or in several after each of which some are decided.
        going = [s for s in open_ones if room(s) >= 1]
        edges = np.linspace(0, k, options.looks + 1).round().astype(int)
        for first, last in itertools.pairwise(edges.tolist()):
            if not going:
                break
            for state, more in zip(going, self._sample(going, range(first, last), room), strict=True):
                before = done[state.key]
                names = ("successes", "trials", "cut", "tokens")
                sums = {name: getattr(before, name) + getattr(more, name) for name in names}
                done[state.key] = StateCount(*state.key, **sums)
            if options.adaptive:
                counts = [done[s.key] for s in going]
                s, n = np.array([c.successes for c in counts]), np.array([c.trials for c in counts])
                over = decided(s, n, options.rule, options.limit, options.looks)
                going = [state for state, stop in zip(going, over, strict=True) if not stop]
        return [done[state.key] for state in states]

    def _finished(self, state: State) -> StateCount:
        assert state.whole is not None
        (verdict,) = self.verifier.verify([state.whole], [state.problem.answer], style=self.template.style)
        return StateCount(*state.key, self.options.k * (verdict == Verdict.CORRECT), self.options.k)

    def _sample(self, states: Sequence[State], samples: range, room: Any) -> list[StateCount]:
        """Sample continuations of some states; those of one state share its prefix."""
        requests = [
            Request(np.concatenate([s.prompt, s.ids]), ":".join(s.key), k, room(s)) for s in states for k in samples
        ]
        of = [s for s in states for _ in samples]
        completions = self.policy.engine.generate(requests, self.policy.stop, self.params, self.seed)
        texts = [
            self.policy.encoder.tokenizer.decode(np.concatenate([s.ids, one.ids]), skip_special_tokens=True)
            for s, one in zip(of, completions, strict=True)
        ]
        verdicts = self.verifier.verify(texts, [s.problem.answer for s in of], style=self.template.style)
        n, found = len(samples), []
        for i, state in enumerate(states):
            mine = slice(i * n, (i + 1) * n)
            ended = [one.finish_reason == "stop" for one in completions[mine]]
            right = sum(v == Verdict.CORRECT and end for v, end in zip(verdicts[mine], ended, strict=True))
            tokens = sum(len(one.ids) for one in completions[mine])
            found.append(StateCount(*state.key, right, n, n - sum(ended), tokens))
        return found
