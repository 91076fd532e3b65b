"""How near a trained policy of the miniature is to the paper's regime: the figures that the world was tuned on, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prmbench.benchmarks.candidate_sets.run import evaluate_candidate_sets
from prmbench.data.problems import load_problems
from prmbench.data.rollouts import Rollout
from prmbench.engines.batching import plan_batches
from prmbench.engines.sampling import SamplingParams
from prmbench.miniature.build import (
    MAX_NEW_TOKENS,
    PROMPT,
    Build,
    chat_of,
    draw_solutions,
    make_problems,
    rollout_error,
    rollout_steps,
    write_lines,
)
from prmbench.miniature.checker import is_well_formed, read_content
from prmbench.miniature.solutions import CONNECTIVES, log_probability
from prmbench.miniature.values import Values, true_advantages
from prmbench.miniature.world import World, parse_problem
from prmbench.policies.policy import Policy
from prmbench.training.data.chats import Chat, encode_chat

CANDIDATES = {"0.05": 1.54, "0.1": 1.33, "0.2": 1.16}
"""Mean size of the candidate sets by P_min, in the paper's Table 11."""
PASS_RATE = (0.30, 0.40)
"""Where the pass rate at temperature 1 is to lie."""
EXCESS = 0.02
"""Largest loss over the world's own floor, in nats a token."""
KINDS = ("strategy", "result", "synonym")
BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class Regime:
    """Figures of a policy, as the world was tuned on.

    Attributes:
        pass_rate: Share of right rollouts at temperature 1.
        malformed: Share of rollouts that are malformed or cut.
        length: Mean number of tokens of a rollout.
        excess: Loss on held-out chats over the floor, in nats a token: how far the policy is from the demonstrator.
        candidates: Mean size of the candidate set, by P_min.
        spread: Standard deviation of the true advantage of the demonstrator, by kind of token.
    """

    pass_rate: float
    malformed: float
    length: float
    excess: float
    candidates: dict[str, float]
    spread: dict[str, float]

    def rows(self) -> list[tuple[str, str, str]]:
        """Return title, target and figure of each, as the demo prints them."""
        return [
            ("pass rate at temperature 1", f"{PASS_RATE[0]:.0%} to {PASS_RATE[1]:.0%}", f"{self.pass_rate:.1%}"),
            ("malformed or cut", "few", f"{self.malformed:.1%}"),
            ("tokens of a solution", "30 to 80", f"{self.length:.1f}"),
            ("loss over the floor, nats a token", f"below {EXCESS}", f"{self.excess:.3f}"),
            *(
                (f"candidates at P_min {p}", f"{CANDIDATES[p]:.2f}", f"{size:.2f}")
                for p, size in self.candidates.items()
            ),
            *(
                (f"spread of true advantages, {kind}", "0" if kind == "synonym" else "above 0", f"{spread:.2f}")
                for kind, spread in self.spread.items()
            ),
        ]


def measure_regime(build: Build, policy: Policy, rollouts: Sequence[Rollout], n_problems: int = 200) -> Regime:
    """Measure a policy.

    Args:
        build: What the miniature is made of.
        policy: Its policy.
        rollouts: Rollouts of test problems at temperature 1.
        n_problems: Number of validation problems for candidate sets and the loss.
    """
    kinds = [rollout_error(one, build.world) for one in rollouts]
    return Regime(
        pass_rate=float(np.mean([one.correct for one in rollouts])),
        malformed=float(np.mean([kind in ("malformed", "truncated") for kind in kinds])),
        length=float(np.mean([len(one.ids) for one in rollouts])),
        excess=excess_loss(build, policy, n_problems),
        candidates=_candidates(build, policy, n_problems),
        spread=advantage_spread(build.world, rollouts),
    )


def excess_loss(build: Build, policy: Policy, n: int) -> float:
    """Measure how far a policy is from the demonstrator: its loss on held-out tagged chats less the demonstrator's own.

    Args:
        build: What the miniature is made of.
        policy: Its policy.
        n: Number of chats, of validation problems.

    Returns:
        Nats a token. Its expectation is the Kullback-Leibler divergence of the demonstrator from the policy, at least 0.
    """
    solutions = draw_solutions(build.world, "validation", n, build.seed)
    encoded = []
    for problem, content, _ in solutions:
        turns = chat_of(problem, content, "tagged")["messages"]
        encoded.append(
            encode_chat(policy.encoder, Chat(((turns[0]["role"], turns[0]["content"]),), turns[1]["content"]))
        )
    total = sum(log_probability(problem, content, build.world) for problem, content, _ in solutions)
    for batch in plan_batches([len(ids) for ids, _ in encoded], BATCH_TOKENS):
        ids, first = [encoded[i][0] for i in batch], [encoded[i][1] for i in batch]
        for scores in policy.engine.score(ids, first, frozenset({"logprob"})):
            assert scores.logprob is not None
            total -= float(scores.logprob.sum())
    return total / sum(len(ids) - first for ids, first in encoded)


def _candidates(build: Build, policy: Policy, n: int) -> dict[str, float]:
    folder = build.folder()
    file = write_lines(
        folder / f"problems-regime-{n}.jsonl", make_problems(build.world, "validation", n, 30_000 + build.seed)
    )
    found = evaluate_candidate_sets(
        policy,
        {"validation": load_problems(file)},
        name="miniature policy",
        source="miniature policy",
        prompt=PROMPT,
        params=SamplingParams(max_new_tokens=MAX_NEW_TOKENS),
        output=folder / f"regime-{n}",
        miniature=True,
        n_resamples=100,
    )
    return {p: result.size.value for p, result in found[0].metrics.p_min.items()}


def advantage_spread(world: World, rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Measure how much the tokens of rollouts change the demonstrator's true value.

    Args:
        world: The world.
        rollouts: Tagged rollouts; those that are not well-formed are left out.

    Returns:
        The standard deviation of the true advantage, by kind of token: ``strategy`` (the tags ``<advance>`` and ``<simplify>``;
        those of easy operations, where there is nothing to choose, have the advantage 0), ``result``, and ``synonym``.
    """
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for one in rollouts:
        problem, steps = parse_problem(one.problem), rollout_steps(one)
        content = read_content(problem, steps)
        if content is None or not is_well_formed(problem, steps, world):
            continue
        values = Values(problem, world)
        tokens, after = values.of_tokens(content, "tagged")
        advantages: NDArray[np.float64] = true_advantages(after, values.start)
        for i, token in enumerate(tokens):
            if token in ("<advance>", "<simplify>"):
                found["strategy"].append(advantages[i])
            elif token in CONNECTIVES:
                found["synonym"].append(advantages[i])
                found["result"].append(advantages[i + 1])
    return {kind: float(np.std(values)) for kind, values in found.items()}
