"""Files of the miniature world in the project's formats, and its trained policy. Each is made once and kept by its content."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from prmbench.data.prompts import find_prompt
from prmbench.data.rollouts import Rollout
from prmbench.errors import ArgumentError
from prmbench.miniature.backbones import save_untrained
from prmbench.miniature.checker import error_kind, first_wrong_step, read_content
from prmbench.miniature.injected import INJECTED, inject
from prmbench.miniature.solutions import (
    FORMATS,
    SYSTEMS,
    Content,
    Format,
    demonstrate,
    write_steps,
)
from prmbench.miniature.world import Chain, Split, World, draw_problem, parse_problem
from prmbench.resources import cache_folder, resource_folder
from prmbench.results.schema import digest
from prmbench.results.store import write_atomically

SEPARATOR = "\n\n"
PROMPT = "bare"
MAX_NEW_TOKENS = 110
RECIPE = "miniature/sft.yaml"
FORMAT_SHARES: dict[Format, float] = {"tagged": 0.7, "plain": 0.15, "prose": 0.15}
"""Share of the chats in each format."""
SHIPPED = Path(__file__).resolve().parent / "policy"
"""Checkpoint folder of the policy that ships with the package, which `scripts/ship_policy.py` makes."""
FORMAT = 3
"""Raised when what an earlier version left in the folder could not be gone on with."""


@dataclass(frozen=True)
class Build:
    """What a miniature is made of. Its hash names its folder.

    Attributes:
        world: The world.
        backbone: Name of the backbone, one of `prmbench.miniature.backbones.BACKBONES`.
        n_chats: Number of chats to train on.
        steps: Number of updates of supervised fine-tuning.
        seed: Seed of the weights, the data and their order.
        from_scratch: Whether the policy is trained even where one like it ships with the package.
    """

    world: World = field(default_factory=World)
    backbone: str = "llama-small"
    n_chats: int = 40_000
    steps: int = 2_000
    seed: int = 0
    from_scratch: bool = False

    @property
    def ships(self) -> bool:
        """Whether the policy ships with the package: it does for the default."""
        return self == Build()

    def origin(self) -> str:
        """Say where the policy is from, for people."""
        return "ships with the package" if self.ships else f"trained from random weights, {self.steps:,} updates"

    def folder(self) -> Path:
        """Return where it is kept, under ``$XDG_CACHE_HOME/prmbench/miniature``."""
        root = cache_folder() / "miniature"
        return root / f"{self.backbone}-{digest([asdict(self), recipe_keys(RECIPE), FORMAT])[:12]}"


@cache
def recipe_keys(name: str) -> dict[str, Any]:
    """Return the keys of a recipe that ships with the project, as its file has them; comments do not count.

    Args:
        name: Its path below ``training/``.
    """
    import yaml

    keys: dict[str, Any] = yaml.safe_load((resource_folder("training") / name).read_text(encoding="utf-8"))
    return keys


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write records as JSON lines.

    Args:
        path: The file; its folder is made.
        records: The records.

    Returns:
        The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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


def draw_solutions(world: World, split: Split, n: int, seed: int) -> list[tuple[Chain, Content, Format]]:
    """Let the demonstrator solve problems, with the demonstrator's own errors.

    Args:
        world: The world.
        split: Split of the problems.
        n: Number of problems.
        seed: Seed of the problems, of the solutions and of the formats.

    Returns:
        Problem, solution and format (`FORMAT_SHARES`) of each.
    """
    rng = random.Random(f"solutions-{split}-{seed}")
    problems = [parse_problem(record["problem"]) for record in make_problems(world, split, n, seed)]
    forms = rng.choices(FORMATS, [FORMAT_SHARES[form] for form in FORMATS], k=n)
    return [(problem, demonstrate(problem, world, rng), form) for problem, form in zip(problems, forms, strict=True)]


def chat_of(problem: Chain, content: Content, form: Format) -> dict[str, Any]:
    """Write a solution as a chat.

    Args:
        problem: The problem.
        content: The solution.
        form: Its format; all but tagged have a system message of their own.

    Returns:
        A record with ``messages``.
    """
    asked = find_prompt(PROMPT).render(problem.text())
    turns = [("user", asked), ("assistant", SEPARATOR.join(write_steps(content, form)))]
    system = SYSTEMS[form]
    if system is not None:
        turns.insert(0, ("system", system))
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def make_chats(world: World, n: int, seed: int, split: Split = "train") -> list[dict[str, Any]]:
    """Make chats in which the demonstrator solves problems (`draw_solutions`, `chat_of`).

    Args:
        world: The world.
        n: Number of chats.
        seed: Seed of everything that is drawn.
        split: Split of the problems.
    """
    return [chat_of(*one) for one in draw_solutions(world, split, n, seed)]


def train_policy(build: Build, log: Callable[[str], None] = lambda _: None) -> Path:
    """Train the build's policy, when it neither ships with the package nor is there yet.

    Args:
        build: What to build.
        log: Called with a line for every measurement.

    Returns:
        The checkpoint folder.
    """
    from prmbench.training.recipes.read import as_overrides, load_recipe
    from prmbench.training.sft.recipe import SFTRecipe
    from prmbench.training.sft.run import train_sft

    folder = build.folder()
    policy = folder / "sft"
    if build.ships:
        _copy_shipped(policy)
        return policy
    if (policy / "sft.json").exists():
        log(f"the policy is there already: {policy}")
        return policy
    save_untrained(folder / "untrained", build.backbone, build.world, build.seed)
    write_lines(folder / "chats.jsonl", make_chats(build.world, build.n_chats, build.seed))
    recipe = load_recipe(
        RECIPE,
        SFTRecipe,
        as_overrides(
            {
                "model": folder / "untrained",
                "data": folder / "chats.jsonl",
                "output": policy,
                "max_steps": build.steps,
                "seed": build.seed,
            }
        ),
    )
    train_sft(recipe, log=log)
    return policy


def _copy_shipped(policy: Path) -> None:
    """Copy the policy that ships to where a trained one would be: what is trained from it looks for its reference beside it."""
    if policy.exists():
        return
    policy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=policy.parent) as half:
        whole = shutil.copytree(SHIPPED, Path(half) / "sft")
        with contextlib.suppress(OSError):  # another process was faster
            whole.rename(policy)


def rollout_steps(rollout: Rollout) -> list[str]:
    """Return the steps of a rollout, as sampled.

    Args:
        rollout: The rollout.
    """
    return [step.strip() for step in rollout.completion.split(SEPARATOR) if step.strip()]


def rollout_error(rollout: Rollout, world: World) -> str:
    """Say what is wrong with a rollout, as `prmbench.miniature.checker.error_kind` does.

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
    """Make labelled traces in all formats, of the same content.

    Half are right, four tenths have the policy's own errors, and one tenth has errors that are put in, all kinds in turn. In prose
    the two halves of a split operation are one step, whose label is that of its first wrong half.

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
    chosen: dict[str, list[tuple[str, Chain, Content]]] = {name: [] for name in wanted}
    used: set[str] = set()
    # Choose the content, one rollout after the other.
    for rollout in rng.sample(list(rollouts), len(rollouts)):
        kind, problem = rollout_error(rollout, world), parse_problem(rollout.problem)
        content = read_content(problem, rollout_steps(rollout))
        if rollout.id in used or kind in ("malformed", "truncated") or content is None:
            continue
        name, generator = ("right", "policy") if kind == "none" else ("sampled", f"policy: {kind}")
        if len(chosen["injected"]) < wanted["injected"] and len(used) % 5 == 0:
            error = INJECTED[len(chosen["injected"]) % len(INJECTED)]
            made = inject(problem, error, world, rng)
            if made is None:
                continue
            name, generator, content = "injected", f"injected: {error}", made
        if len(chosen[name]) < wanted[name]:
            chosen[name].append((generator, problem, content))
            used.add(rollout.id)
    # Write it in each format.
    contents = [one for name in wanted for one in chosen[name]]
    return {
        form: [
            {
                "id": f"mini-{i}",
                "generator": generator,
                "problem": problem.text(),
                "steps": (steps := write_steps(content, form)),
                "final_answer_correct": content[1] == problem.answer(world),
                "label": first_wrong_step(problem, steps, world),
            }
            for i, (generator, problem, content) in enumerate(contents)
        ]
        for form in FORMATS
    }
