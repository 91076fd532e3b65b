"""Problems as data of a benchmark: what the benchmarks that sample from a policy share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prmbench.benchmarks.base import DataRequest
from prmbench.data.problem_sets import POLICY_SETS, find_problems
from prmbench.data.problems import Problem
from prmbench.data.prompts import find_prompt
from prmbench.data.revisions import with_revision
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import ArgumentError
from prmbench.policies.policy import Policy
from prmbench.policies.rollout import prompt_rules
from prmbench.verify.options import VerifierOptions


@dataclass(frozen=True)
class Problems:
    """Problem sets, and how their problems are put to the policy.

    Attributes:
        sets: The problems by the set's name.
        prompt: The name of the prompt template.
        verifier: The conventions that verdicts of answers follow; None: the defaults.
    """

    sets: dict[str, list[Problem]]
    prompt: str = "boxed"
    verifier: VerifierOptions | None = None


def problems_per_set(data: Problems) -> dict[str, int]:
    """How many problems each set has.

    Args:
        data: The problem sets.
    """
    return {name: len(problems) for name, problems in data.sets.items()}


def find_named_sets(request: DataRequest) -> Problems:
    """Read the problem sets that a user names; naming none is a mistake.

    Args:
        request: As in `find_problem_sets`.
    """
    return find_problem_sets(request, default=None)


def find_problem_sets(request: DataRequest, default: Sequence[str] | None = POLICY_SETS) -> Problems:
    """Read the problem sets that a user asks for.

    Args:
        request: Its ``subsets`` (names or files), ``data`` (one more file), ``limit``, ``prompt``, ``verifier`` and
            ``data_revision`` (of the one set) are read.
        default: Names of the sets where none is asked for; None: asking for none is a mistake.

    Raises:
        UserError: No such set or prompt template, a broken file, or no problem in it.
    """
    prompt = request.prompt or "boxed"
    find_prompt(prompt)  # a typo shows before files are read
    named = [*(request.subsets or ()), *([str(request.data)] if request.data else [])] or default
    if not named:
        raise ArgumentError(
            "subsets", None, "expected the name of a problem set, or a file of {id, problem, answer} records"
        )
    if (revision := request.data_revision) is not None:
        if len(named) > 1:
            raise ArgumentError(
                "data_revision",
                revision,
                f"is of one set, {len(named)} were named; write NAME@REVISION for each instead",
            )
        named = [with_revision(named[0], revision, "the set", argument="data_revision")]
    sets = find_problems(named, request.limit)
    if not any(sets.values()):
        raise ArgumentError("subsets", " ".join(named), "no problems")
    return Problems(sets, prompt, request.verifier)


def sampling_words(settings: Mapping[str, Any]) -> str:
    """Say how a policy was sampled from, as a part of a sentence.

    Args:
        settings: What an entry recorded; see `sampling_rules`.
    """
    s = settings["sampling"]
    return (
        f"temperature {s['temperature']:g}, top-p {s['top_p']:g}, top-k {s['top_k'] or 'off'}, up to "
        f"{s['max_new_tokens']:,} tokens"
    )


def sampling_rules(policy: Policy, params: SamplingParams, data: Problems, seed: int) -> dict[str, Any]:
    """Say how a policy is sampled from, of what must be equal for two entries to be compared.

    Args:
        policy: The policy.
        params: How tokens are chosen.
        data: The problem sets; gives the prompt template.
        seed: Seed of everything drawn.

    Returns:
        A part of a plan's rules.
    """
    return {
        "prompt": data.prompt,
        "sampling": params.model_dump(),
        "seed": seed,
        **prompt_rules(policy.encoder.conversation(), data.prompt),
    }
