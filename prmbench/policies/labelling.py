"""Labels of steps by rollouts: how many continuations from the end of a step are right.

A run is interrupted and goes on with the same numbers, because what is sampled of a state depends on the state alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prmbench.data.prompts import find_prompt
from prmbench.data.rollout_labels import LABELS_NAME
from prmbench.engines.missing import run_missing
from prmbench.engines.processes import Share
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import ArgumentError, UserError
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import sampling_settings, task_settings
from prmbench.policies.state_counts import LabelOptions, StateCount, labelled, parse_count
from prmbench.policies.state_sampler import StateSampler
from prmbench.policies.states import Marked
from prmbench.results.store import RunFolder, write_atomically
from prmbench.verify import VerifierOptions
from prmbench.verify.golds import checked_verifier

STEM = "states"


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
    problems = list({one.problem.id: one.problem for one in marked}.values())
    prefixes = (np.concatenate([state.prompt, state.ids]) for state in states)
    template = find_prompt(prompt)
    stops = {"rule": options.rule, "threshold": options.limit} if options.adaptive else None
    settings = {
        **sampling_settings(policy, prompt, options.k, params, seed, batch_tokens),
        "adaptive": stops,
        **task_settings(policy, problems, prefixes, verifier),
    }
    # What is missing is sampled.
    with (
        checked_verifier(problems, verifier, quiet=not share.main) as checker,
        RunFolder(output, settings, parse_count, stem=STEM, rank=share.rank) as folder,
    ):
        share.wait()
        have = folder.completed()
        share.wait()  # nobody writes before all have looked
        sampler = StateSampler(policy, template, options, params, seed, checker)
        lengths = [options.k * (len(s.prompt) + params.max_new_tokens) for s in states]
        missing = {i for i, state in enumerate(states) if state.key not in have}

        def work(indices: Sequence[int]) -> None:
            folder.append(one for one in sampler.count([states[i] for i in indices]) if one.key not in have)

        with folder.saying_what_is_kept(len(states), "states"):
            run_missing("labelling", lengths, missing, batch_tokens, work, share=share, unit="states")
        share.wait()
        if not share.main:
            return None
        # The counts, in the order of the solutions, and the labels that follow from them.
        found = folder.completed()
        folder.finish([found[state.key] for state in states])
        lines = [json.dumps(labelled(one, found, options), ensure_ascii=False) for one in marked]
        write_atomically(output / LABELS_NAME, "".join(f"{line}\n" for line in lines))
    return found
