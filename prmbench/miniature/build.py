"""Files of the miniature world in the project's formats, and its trained policy. Each is made once and kept by its content."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import Rollout
from prmbench.errors import ArgumentError
from prmbench.miniature.backbones import save_untrained
from prmbench.miniature.world import (
    FORMATS,
    INJECTED,
    PLAIN_SYSTEM,
    Chain,
    Format,
    Split,
    World,
    answer_text,
    draw_problem,
    error_kind,
    first_wrong_step,
    inject,
    parse_problem,
    solve,
    with_format,
)
from prmbench.resources import resource_folder
from prmbench.results.schema import digest
from prmbench.results.store import write_atomically

SEPARATOR = "\n\n"
PROMPT = "bare"
MAX_NEW_TOKENS = 80
RECIPE = "miniature/sft.yaml"
FORMAT = 2
"""Raised when what an earlier version left in the folder could not be gone on with."""


@dataclass(frozen=True)
class Build:
    """What a miniature is made of. Its hash names its folder.

    Attributes:
        world: The world.
        backbone: Name of the backbone, one of `prmbench.miniature.backbones.BACKBONES`.
        n_chats: Number of chats to train on.
        plain_share: Share of the chats that show the plain format, under its system message.
        pass_rate: Share of right completions at which supervised fine-tuning stops.
        seed: Seed of the weights, the data and their order.
    """

    world: World = field(default_factory=World)
    backbone: str = "llama-small"
    n_chats: int = 20_000
    plain_share: float = 0.2
    pass_rate: float = 0.5
    seed: int = 0

    def folder(self) -> Path:
        """Return where it is kept, under ``$XDG_CACHE_HOME/prmbench/miniature``."""
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prmbench" / "miniature"
        recipe = (resource_folder("training") / RECIPE).read_text(encoding="utf-8")
        return root / f"{self.backbone}-{digest([asdict(self), recipe, FORMAT])[:12]}"


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write records as JSON lines.

    Args:
        path: The file.
        records: The records.

    Returns:
        The file.
    """
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))
    return path


def make_problems(world: World, split: Split, n: int, seed: int) -> list[dict[str, Any]]:
    """Draw different problems of a split, in the project's format.

    Args:
        world: The world.
        split: The split.
        n: Number of problems.
        seed: Seed of the draw.

    Returns:
        Records with ``id``, ``problem`` and ``answer``.

    Raises:
        ArgumentError: The world is too small to have so many.
    """
    rng = random.Random(f"{split}-{seed}")
    found: dict[str, Chain] = {}
    for _ in range(100 * n):
        if len(found) == n:
            break
        problem = draw_problem(world, rng, split)
        found[problem.text()] = problem
    if len(found) < n:
        raise ArgumentError("n", n, f"the split '{split}' of {world} has fewer problems")
    return [
        {"id": f"{split}-{i}", "problem": text, "answer": str(problem.answer(world))}
        for i, (text, problem) in enumerate(found.items())
    ]


def make_chats(world: World, n: int, seed: int, plain_share: float = 0.0) -> list[dict[str, Any]]:
    """Make chats with right solutions of training problems.

    Args:
        world: The world.
        n: Number of chats.
        seed: Seed of the problems and of the formats.
        plain_share: Share of the chats that are plain, under the system message of that format; the others are tagged.

    Returns:
        Records with ``messages``.
    """
    template = find_prompt(PROMPT)
    rng = random.Random(f"chats-{seed}")
    chats = []
    for record in make_problems(world, "train", n, seed):
        plain = rng.random() < plain_share
        steps = with_format(solve(parse_problem(record["problem"]), world), "plain" if plain else "tagged")
        turns = [("user", template.render(record["problem"])), ("assistant", SEPARATOR.join(steps))]
        if plain:
            turns.insert(0, ("system", PLAIN_SYSTEM))
        chats.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    return chats


def train_policy(build: Build, log: Callable[[str], None] = lambda _: None) -> Path:
    """Train the build's policy, when it is not there yet.

    Args:
        build: What to build.
        log: Called with a line for every measurement.

    Returns:
        The checkpoint folder.
    """
    from prmbench.training.recipes.read import load_recipe
    from prmbench.training.sft.recipe import SFTRecipe
    from prmbench.training.sft.run import train_sft

    folder = build.folder()
    policy = folder / "sft"
    if (policy / "sft.json").exists():
        log(f"the policy is there already: {policy}")
        return policy
    folder.mkdir(parents=True, exist_ok=True)
    save_untrained(folder / "untrained", build.backbone, build.world, build.seed)
    write_lines(folder / "chats.jsonl", make_chats(build.world, build.n_chats, build.seed, build.plain_share))
    write_lines(folder / "problems-validation.jsonl", make_problems(build.world, "validation", 400, build.seed))
    recipe = load_recipe(
        RECIPE,
        SFTRecipe,
        [
            f"model={folder / 'untrained'}",
            f"data={folder / 'chats.jsonl'}",
            f"output={policy}",
            f"stop.problems={folder / 'problems-validation.jsonl'}",
            f"stop.pass_rate={build.pass_rate}",
            f"seed={build.seed}",
        ],
    )
    train_sft(recipe, log=log)
    return policy


def rollout_steps(rollout: Rollout) -> list[str]:
    """Return the steps of a rollout, as sampled.

    Args:
        rollout: The rollout.
    """
    return [step.strip() for step in rollout.completion.split(SEPARATOR) if step.strip()]


def rollout_error(rollout: Rollout, world: World) -> str:
    """Say what is wrong with a rollout, as `prmbench.miniature.world.error_kind` does.

    Args:
        rollout: The rollout.
        world: The world of its problem.

    Returns:
        The kind of error; ``truncated`` for a rollout that was cut.
    """
    if rollout.finish_reason == "length":
        return "truncated"
    return error_kind(parse_problem(rollout.problem), rollout_steps(rollout), world)


def make_traces(rollouts: Sequence[Rollout], world: World, n: int, seed: int) -> dict[Format, list[dict[str, Any]]]:
    """Make labelled traces in both formats, of the same content.

    Half are right, four tenths have the policy's own errors, and one tenth has errors that are put in, all kinds in turn. These
    shares make detection neither easy nor hopeless: a model finds nearly all errors that are put in, because it never makes them
    itself, and about half of the policy's own.

    Args:
        rollouts: Rollouts of problems of one split. Well-formed ones are used, at most one of a problem.
        world: The world of the problems.
        n: Number of traces; there are fewer where the rollouts run out.
        seed: Seed of the choice and of the errors that are put in.

    Returns:
        Records in ProcessBench's fields, by format. Labels come from the exact checker.
    """
    rng = random.Random(seed)
    wanted = {"right": n - n // 10 - 4 * n // 10, "sampled": 4 * n // 10, "injected": n // 10}
    chosen: dict[str, list[tuple[str, Chain, list[str]]]] = {name: [] for name in wanted}
    used: set[str] = set()
    # Choose the content, one rollout after the other.
    for rollout in rng.sample(list(rollouts), len(rollouts)):
        kind = rollout_error(rollout, world)
        if rollout.id in used or kind in ("malformed", "truncated"):
            continue
        problem, steps = parse_problem(rollout.problem), rollout_steps(rollout)
        name, generator = ("right", "policy") if kind == "none" else ("sampled", f"policy: {kind}")
        if len(chosen["injected"]) < wanted["injected"] and len(used) % 5 == 0:
            error = INJECTED[len(chosen["injected"]) % len(INJECTED)]
            made = inject(problem, error, world, rng)
            if made is None:
                continue
            name, generator, steps = "injected", f"injected: {error}", made
        if len(chosen[name]) < wanted[name]:
            chosen[name].append((generator, problem, steps))
            used.add(rollout.id)
    # Write it in each format.
    contents = [one for name in wanted for one in chosen[name]]
    return {
        form: [
            {
                "id": f"mini-{i}",
                "generator": generator,
                "problem": problem.text(),
                "steps": with_format(steps, form),
                "final_answer_correct": steps[-1].endswith(answer_text(problem.answer(world))),
                "label": first_wrong_step(problem, steps, world),
            }
            for i, (generator, problem, steps) in enumerate(contents)
        ]
        for form in FORMATS
    }
