"""What reward models say, and what policies do, where a solution's true value is decided.

The decisions are those of solutions that the SFT policy sampled, so that every reward model and every policy of a seed is asked at
the same places. True values are the demonstrator's, who writes as the SFT policy was shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from prmbench.data.prompts import find_prompt
from prmbench.engines.batching import plan_batches
from prmbench.engines.hf.engine import HFEngine
from prmbench.miniature.build import PROMPT, rollout_steps
from prmbench.miniature.checker import is_well_formed, read_content
from prmbench.miniature.decisions import Decision, DecisionKind, decisions
from prmbench.miniature.solutions import CONNECTIVES
from prmbench.miniature.values import Values, true_advantages
from prmbench.miniature.world import LETTERS, is_hard, parse_problem
from prmbench.policies.policy import Policy
from prmbench.reward_models.branch_values import branching_model
from prmbench.studies.lab import Lab
from prmbench.studies.settings import RewardModelSettings

Floats = NDArray[np.float64]

BATCH_TOKENS = 16_384
N_SOLUTIONS = 400
"""Solutions that are looked at, one a problem."""
RARE = (0.05, 0.2, 0.5)
"""Edges of the groups of tokens by how likely the SFT policy was to sample them."""
TELLING_GAP = 0.02
"""Decisions whose two ways differ by less in true value are left out where it is asked which way is preferred."""
DECISION_SIZES = [N_SOLUTIONS, TELLING_GAP, list(RARE)]
TOKEN_KINDS = ("choice", "result", "synonym", "other")
"""Kinds of tokens: how a hard operation is done, a stated result, a word without consequence, everything else."""


@dataclass(frozen=True)
class TaggedSolution:
    """A tagged solution of the SFT policy with its true values.

    Attributes:
        ids: Token ids of prompt and solution, its end of turn left out. int64, shape [length].
        n_prompt: Number of tokens of the prompt.
        advantages: True advantage of each token of the solution. float64, shape [t].
        kinds: Kind of each token, one of `TOKEN_KINDS`. Shape [t].
        decisions: Its decisions.
        ways: Ids of the better and the worse token of each decision. int64, shape [decisions, 2].
    """

    ids: NDArray[np.int64]
    n_prompt: int
    advantages: Floats
    kinds: NDArray[np.str_]
    decisions: Sequence[Decision]
    ways: NDArray[np.int64]


def solutions_of(lab: Lab, policy: Policy) -> list[TaggedSolution]:
    """Read well-formed solutions of a seed's rollouts, the first completion of each problem.

    Args:
        lab: The seed's data and models.
        policy: The SFT policy, whose tokenizer and prompts they are of.
    """
    template, found = find_prompt(PROMPT), []
    tokenizer = policy.encoder.tokenizer
    for one in lab.rollouts:
        problem, steps = parse_problem(one.problem), rollout_steps(one)
        content = read_content(problem, steps)
        if one.sample or content is None or not is_well_formed(problem, steps, lab.build.world):
            continue
        values = Values(problem, lab.build.world)
        tokens, after = values.of_tokens(content, "tagged")
        prompt = policy.encoder.prompt_ids(template.render(one.problem))
        places = list(decisions(values, content))
        ways = [tokenizer.convert_tokens_to_ids([place.better, place.worse]) for place in places]
        found.append(
            TaggedSolution(
                np.concatenate([prompt, one.ids[: len(tokens)]]),
                len(prompt),
                true_advantages(after, values.start),
                _kinds(tokens, [is_hard(*operation) for operation in problem.operations]),
                places,
                np.array(ways, dtype=np.int64).reshape(-1, 2),
            )
        )
    return found[:N_SOLUTIONS]


def _kinds(tokens: Sequence[str], hard: Sequence[bool]) -> NDArray[np.str_]:
    """Name the kind of each token. A letter follows a tag and says which operation it is of."""
    kinds = []
    for i, token in enumerate(tokens):
        if token in ("<advance>", "<simplify>"):
            kinds.append("choice" if hard[LETTERS.index(tokens[i + 1])] else "other")
        elif token in CONNECTIVES:
            kinds.append("synonym")
        else:
            kinds.append("result" if i and tokens[i - 1] in CONNECTIVES else "other")
    return np.array(kinds)


def logprobs_at(engine: HFEngine, solutions: Sequence[TaggedSolution]) -> tuple[list[Floats], list[Floats]]:
    """Give the log-probs of the tokens of some solutions, and of both ways of their decisions.

    Args:
        engine: The engine.
        solutions: The solutions.

    Returns:
        Log-probs of each solution's tokens, float64, shape [t], and of the ways of its decisions, float64, shape [decisions, 2].
    """
    sampled: dict[int, Floats] = {}
    ways: dict[int, Floats] = {}
    for batch in plan_batches([len(one.ids) for one in solutions], BATCH_TOKENS):
        some = [solutions[i] for i in batch]
        scored = engine.score([s.ids for s in some], [s.n_prompt for s in some], frozenset({"logprob", "hidden"}))
        for i, one, found in zip(batch, some, scored, strict=True):
            assert found.logprob is not None
            assert found.hidden is not None
            sampled[i] = found.logprob
            ways[i] = engine.next_logprobs(found.hidden[[place.at for place in one.decisions]], one.ways)
    return [sampled[i] for i in range(len(solutions))], [ways[i] for i in range(len(solutions))]


def hf_engine(policy: Policy) -> HFEngine:
    """Return the engine of a policy that was loaded without another one.

    Args:
        policy: The policy.
    """
    assert isinstance(policy.engine, HFEngine)
    return policy.engine


def measure_credit(lab: Lab, settings: RewardModelSettings, _: Path) -> dict[str, Any]:
    """Compare the TD of a reward model with true advantages, token by token and decision by decision.

    Args:
        lab: The seed's data and models.
        settings: How the reward model is trained. It must be a log-ratio.
        _: Not used; nothing is written.

    Returns:
        What `credit` returns. For ``endo`` the TD is the policy's log-prob.
    """
    policy = lab.load_policy()
    solutions = solutions_of(lab, policy)
    own = logprobs_at(hf_engine(policy), solutions)
    if settings.objective == "endo":
        return credit(solutions, own, own[0])
    model = branching_model(lab.reward_model(settings))
    assert isinstance(model.model, HFEngine)
    theirs = logprobs_at(model.model, solutions)
    # The reference is the SFT policy itself.
    ratios = tuple([a - b for a, b in zip(mine, base, strict=True)] for mine, base in zip(theirs, own, strict=True))
    return credit(solutions, (ratios[0], ratios[1]), own[0])


def credit(
    solutions: Sequence[TaggedSolution], td: tuple[Sequence[Floats], Sequence[Floats]], logprobs: Sequence[Floats]
) -> dict[str, Any]:
    """Compare TD with true advantages.

    Args:
        solutions: The solutions.
        td: TD of each solution's tokens, and of the two ways of its decisions, up to a factor.
        logprobs: Log-probs of each solution's tokens under the SFT policy.

    Returns:
        ``decisions``: by kind, of those whose two ways differ by `TELLING_GAP` or more: ``n``, ``agreement`` (share of decisions at
        which TD prefers the better way, ties by half) and ``pearson`` of TD's difference and the true one. ``tokens``: by kind
        ``n``, ``share`` (of the sum of absolute TD) and ``pearson`` of TD and true advantage, null where one of them is constant.
        ``pearson``: the same over all tokens. ``rare``: groups of tokens by their probability, from the rarest on: ``n``, and mean
        ``td`` and ``advantage`` in standard deviations of all tokens. Means over nothing are null.
    """
    # Decisions.
    places = [place for one in solutions for place in one.decisions]
    gap = np.array([place.gap for place in places])
    preferred = np.concatenate([ways[:, 0] - ways[:, 1] for ways in td[1]])
    of = np.array([place.kind for place in places])
    found: dict[str, Any] = {"decisions": {}, "tokens": {}}
    for kind in get_args(DecisionKind):
        mine = (of == kind) & (gap >= TELLING_GAP)
        found["decisions"][kind] = {
            "n": int(mine.sum()),
            "agreement": _mean((preferred[mine] > 0) + 0.5 * (preferred[mine] == 0)),
            "pearson": pearson(preferred[mine], gap[mine]),
        }
    # Tokens as they were sampled.
    flat, truth = np.concatenate(td[0]), np.concatenate([one.advantages for one in solutions])
    kinds, likely = np.concatenate([one.kinds for one in solutions]), np.exp(np.concatenate(logprobs))
    for name in TOKEN_KINDS:
        mine = kinds == name
        found["tokens"][name] = {
            "n": int(mine.sum()),
            "share": float(np.abs(flat[mine]).sum() / np.abs(flat).sum()),
            "pearson": pearson(flat[mine], truth[mine]),
        }
    found["pearson"] = pearson(flat, truth)
    group = np.digitize(likely, RARE)
    found["rare"] = [
        {
            "n": int((group == g).sum()),
            "td": _mean(flat[group == g] / flat.std()),
            "advantage": _mean(truth[group == g] / truth.std()),
        }
        for g in range(len(RARE) + 1)
    ]
    return found


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def pearson(a: Floats, b: Floats) -> float | None:
    """Return the correlation of two samples; None where one of them is constant.

    Args:
        a: The first sample. Shape [n].
        b: The second sample. Shape [n].
    """
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def measure_moves(lab: Lab, trained: Policy) -> dict[str, Any]:
    """Measure what training has moved, at the solutions of the SFT policy.

    Args:
        lab: The seed's data and models.
        trained: The trained policy.

    Returns:
        What `moves` returns.
    """
    policy = lab.load_policy()
    solutions = solutions_of(lab, policy)
    return moves(solutions, logprobs_at(hf_engine(policy), solutions), logprobs_at(hf_engine(trained), solutions))


def moves(
    solutions: Sequence[TaggedSolution],
    before: tuple[Sequence[Floats], Sequence[Floats]],
    after: tuple[Sequence[Floats], Sequence[Floats]],
) -> dict[str, Any]:
    """Say how probability moved between two policies.

    Args:
        solutions: The solutions.
        before: Log-probs of the first policy, as `logprobs_at` gives them.
        after: Log-probs of the second policy.

    Returns:
        ``decisions``: by kind, and by whether the first policy preferred the better way (``likelier``) or the worse one
        (``rarer``): ``n``, the mean probability of the better way among the two ``before`` and ``after``, and ``gain``: mean true
        value that the move is worth. ``tokens``: by kind the mean absolute change of the probability of the tokens as sampled.
    """
    places = [place for one in solutions for place in one.decisions]
    first, second = (
        np.concatenate([1 / (1 + np.exp(ways[:, 1] - ways[:, 0])) for ways in one[1]]) for one in (before, after)
    )
    gap, of = np.array([place.gap for place in places]), np.array([place.kind for place in places])
    found: dict[str, Any] = {"decisions": {}, "tokens": {}}
    for kind in get_args(DecisionKind):
        for name, side in (("likelier", first > 0.5), ("rarer", first <= 0.5)):
            mine = (of == kind) & side
            if mine.any():
                found["decisions"][f"{kind}, better {name}"] = {
                    "n": int(mine.sum()),
                    "before": float(first[mine].mean()),
                    "after": float(second[mine].mean()),
                    "gain": float((gap * (second - first))[mine].mean()),
                }
    moved = np.abs(np.exp(np.concatenate(after[0])) - np.exp(np.concatenate(before[0])))
    kinds = np.concatenate([one.kinds for one in solutions])
    found["tokens"] = {name: float(moved[kinds == name].mean()) for name in TOKEN_KINDS}
    return found
