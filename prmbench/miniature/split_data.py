"""What the miniature's policy says to a split's problems: rollouts, and labelled traces made of them."""

from __future__ import annotations

from pathlib import Path

from prmbench.data.problems import load_problems
from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import Rollout
from prmbench.engines.sampling import SamplingParams
from prmbench.miniature.build import MAX_NEW_TOKENS, PROMPT, Build, make_problems, make_traces, write_lines
from prmbench.miniature.world import Split
from prmbench.policies.policy import load_policy
from prmbench.policies.rollout import rollout

TRAINING = SamplingParams(max_new_tokens=MAX_NEW_TOKENS)
"""How rollouts are sampled to train on and to make traces of: at temperature 1."""
EVALUATION = SamplingParams(temperature=0.6, top_p=0.95, max_new_tokens=MAX_NEW_TOKENS)
"""How the paper samples to evaluate."""


def sample_split(
    build: Build, policy: Path, split: Split, n_problems: int, n: int, params: SamplingParams = TRAINING
) -> tuple[Path, list[Rollout]]:
    """Sample and verify completions of problems of a split. They are sampled once, then they are read.

    Args:
        build: What the miniature is made of.
        policy: Checkpoint folder of the policy.
        split: The split.
        n_problems: Number of problems.
        n: Number of completions of each problem.
        params: How they are sampled.

    Returns:
        The folder with ``rollouts.jsonl``, and the rollouts.
    """
    folder = build.folder()
    file = folder / f"problems-{split}-{n_problems}.jsonl"
    write_lines(file, make_problems(build.world, split, n_problems, build.seed))
    preset = "" if params == TRAINING else f"-t{params.temperature:g}-p{params.top_p:g}"
    output = folder / f"rollouts-{split}-{n_problems}x{n}{preset}"
    rollouts = rollout(
        load_policy(str(policy), find_prompt(PROMPT)),
        load_problems(file),
        output,
        prompt=PROMPT,
        n=n,
        params=params,
        seed=build.seed,
    )
    return output, rollouts


def write_traces(build: Build, rollouts: list[Rollout], n_traces: int, name: str) -> Path:
    """Write labelled traces in all formats (`make_traces`).

    Args:
        build: What the miniature is made of.
        rollouts: Rollouts to make them of.
        n_traces: Number of traces in each format.
        name: Name of the set, for the folder.

    Returns:
        The folder with a file a format.
    """
    data = build.folder() / f"traces-{name}"
    for form, records in make_traces(rollouts, build.world, n_traces, build.seed).items():
        write_lines(data / f"{form}.jsonl", records)
    return data
