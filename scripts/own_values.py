"""What the two ways of a choice are worth to the SFT policy, and to a policy that was trained from it, by continuations of each.

    python scripts/own_values.py [--seed 0] [--policy "grpo ipvrm"]

Prints how often the better way of a misconception is the true statement. Then it prints, for choices whose better way the SFT
policy preferred and for those whose other way it preferred, the true gap of the two ways for the demonstrator, and for each policy
the share of right continuations after either way. Trains the policy where it is not there, beside the other things of its seed
under $XDG_CACHE_HOME/prmbench/miniature.
"""

from __future__ import annotations

import argparse
import random

import numpy as np
import torch

from prmbench.data.prompts import find_prompt
from prmbench.miniature.build import PROMPT
from prmbench.miniature.world import parse_problem
from prmbench.policies.policy import Policy, load_policy
from prmbench.quiet import quiet_libraries
from prmbench.stats.seeds import seed_mean
from prmbench.studies.lab import Lab
from prmbench.studies.measure_decisions import TaggedSolution, hf_engine, logprobs_at, solutions_of
from prmbench.studies.measure_policies import policy_recipe
from prmbench.studies.prefix_values import CONTINUATIONS, Beginning, count_right
from prmbench.studies.settings import POLICIES
from prmbench.training.rl.run import train_rl

N_CHOICES = 80


def shares_right(lab: Lab, policy: Policy, asked: list[tuple[TaggedSolution, int]]) -> np.ndarray:
    """Continue solutions after both ways of a decision.

    Args:
        lab: The seed's world.
        policy: Who goes on.
        asked: Solutions, each with the index of one of its decisions.

    Returns:
        Share of right continuations after the better and after the other way. Shape [asked, 2].
    """
    prefixes = []
    for i, (one, place) in enumerate(asked):
        prompt, solution = one.ids[: one.n_prompt], one.ids[one.n_prompt :]
        problem = parse_problem(policy.encoder.tokenizer.decode(prompt, skip_special_tokens=True).strip())
        answer, before = str(problem.answer(lab.build.world)), solution[: one.decisions[place].at]
        prefixes += [Beginning(prompt, np.append(before, way), answer, f"{i}:{way}") for way in one.ways[place]]
    return count_right(policy, prefixes, lab.build.seed).reshape(len(asked), 2) / CONTINUATIONS


def true_statements(
    lab: Lab, policy: Policy, solutions: list[TaggedSolution], logprobs: list[np.ndarray]
) -> list[tuple[bool, bool]]:
    """Return of each misconception whether its better way is the true statement, and whether the policy prefers the better way."""
    found = []
    for one, ways in zip(solutions, logprobs, strict=True):
        tokens = policy.encoder.tokenizer.convert_ids_to_tokens(one.ids[one.n_prompt :].tolist())
        for decision, (better, worse) in zip(one.decisions, ways, strict=True):
            if decision.kind == "misconception":
                # A result stands behind both numbers, the operator between them, and a synonym of "equals".
                left, operator, right = tokens[decision.at - 4 : decision.at - 1]
                fact = lab.build.world.fact(int(left), operator, int(right))
                found.append((decision.better == str(fact.right), bool(better > worse)))
    return found


def main() -> None:
    """Print both groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--policy", choices=[name for name in POLICIES if name != "sft"], default="grpo ipvrm")
    options = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    # The policies.
    lab = Lab(options.seed)
    output = lab.folder / "own-values" / options.policy.replace(" ", "-")
    recipe = policy_recipe(lab, POLICIES[options.policy], output).model_copy(update={"evaluate": None})
    train_rl(recipe)
    policies = {"SFT policy": lab.load_policy(), "trained policy": load_policy(str(output), find_prompt(PROMPT))}
    # The misconceptions.
    solutions = solutions_of(lab, policies["SFT policy"])
    ways = [logprobs_at(hf_engine(policy), solutions)[1] for policy in policies.values()]
    found = true_statements(lab, policies["SFT policy"], solutions, ways[0])
    preferred = [is_true for is_true, better_likelier in found if better_likelier]
    print(
        f"{len(found)} misconceptions: the better way is the true statement in {np.mean([one for one, _ in found]):.0%}; of the "
        f"{len(preferred)} whose better way the SFT policy preferred, in {sum(preferred)}"
    )
    # The choices, by which way the SFT policy preferred.
    groups: dict[bool, list[tuple[TaggedSolution, int, list[float]]]] = {True: [], False: []}
    for i, one in enumerate(solutions):
        for place, decision in enumerate(one.decisions):
            if decision.kind == "choice":
                likely = [float(1 / (1 + np.exp(w[i][place, 1] - w[i][place, 0]))) for w in ways]
                groups[likely[0] > 0.5].append((one, place, likely))
    for better_likelier, members in groups.items():
        before, after = np.mean([likely for _, _, likely in members], axis=0)
        tokens = {one.decisions[place].better for one, place, _ in members}
        print(
            f"{len(members)} choices whose {'better' if better_likelier else 'other'} way the SFT policy preferred, better "
            f"{' or '.join(sorted(tokens))}: its probability {before:.2f} -> {after:.2f}"
        )
        some = random.Random(options.seed).sample(members, min(N_CHOICES, len(members)))
        gap = np.mean([one.decisions[place].gap for one, place, _ in some])
        print(f"  true gap for the demonstrator, {len(some)} of them: {gap:+.3f}")
        for name, policy in policies.items():
            shares = shares_right(lab, policy, [(one, place) for one, place, _ in some])
            gaps = seed_mean((shares[:, 0] - shares[:, 1]).tolist())
            better, other = shares.mean(axis=0)
            print(f"  {name}: {better:.3f} and {other:.3f}, gap {gaps.mean:+.3f} [{gaps.low:+.3f}, {gaps.high:+.3f}]")


if __name__ == "__main__":
    main()
