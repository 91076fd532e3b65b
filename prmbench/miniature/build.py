"""Files of the miniature world in the project's formats, and its trained policy; built once, kept by content."""

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
from prmbench.miniature.backbones import save_untrained
from prmbench.miniature.world import (
    FORMATS,
    INJECTED,
    PLAIN_SYSTEM,
    Format,
    Problem,
    Split,
    World,
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


@dataclass(frozen=True)
class Build:
    """What a miniature is made of; its hash names its folder.

    Attributes:
        backbone: one of `prmbench.miniature.backbones.BACKBONES`. n_chats: records to train on.
        plain_share: how many of them show the plain format, under its system message.
        pass_rate: at which supervised fine-tuning stops. seed: of weights, data and order.
    """

    world: World = field(default_factory=World)
    backbone: str = "llama-small"
    n_chats: int = 20_000
    plain_share: float = 0.2
    pass_rate: float = 0.5
    seed: int = 0

    def folder(self) -> Path:
        """Where it is kept: under ``$XDG_CACHE_HOME/prmbench/miniature``."""
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prmbench" / "miniature"
        recipe = (resource_folder("training") / RECIPE).read_text(encoding="utf-8")
        return root / f"{self.backbone}-{digest([asdict(self), recipe])[:12]}"


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write records as JSON lines."""
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))
    return path


def make_problems(world: World, split: Split, n: int, seed: int) -> list[dict[str, Any]]:
    """n different problems of a split, in the project's format.

    Raises:
        ValueError: the world is too small to have so many.
    """
    rng = random.Random(f"{split}-{seed}")
    found: dict[str, Problem] = {}
    for _ in range(100 * n):
        if len(found) == n:
            break
        problem = draw_problem(world, rng, split)
        found[problem.text()] = problem
    if len(found) < n:
        raise ValueError(f"{world} has no {n} problems of the split '{split}'")
    return [
        {"id": f"{split}-{i}", "problem": text, "answer": str(problem.answer(world))}
        for i, (text, problem) in enumerate(found.items())
    ]


def make_chats(world: World, n: int, seed: int, plain_share: float = 0.0) -> list[dict[str, Any]]:
    """Chats with right solutions of training problems: tagged, but for a share that is plain under its system message."""
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
    """The build's policy, trained when it is not there yet.

    Returns:
        The checkpoint folder.
    """
    from prmbench.training.recipes.load import load_recipe
    from prmbench.training.sft.run import SFTRecipe, train_sft

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
    """The steps of a rollout, as sampled."""
    return [step.strip() for step in rollout.completion.split(SEPARATOR) if step.strip()]


def rollout_error(rollout: Rollout, world: World) -> str:
    """`prmbench.miniature.world.error_kind` of a rollout; ``truncated`` for one that was cut."""
    if rollout.finish_reason == "length":
        return "truncated"
    return error_kind(parse_problem(rollout.problem), rollout_steps(rollout), world)


def make_traces(rollouts: Sequence[Rollout], world: World, n: int, seed: int) -> dict[Format, list[dict[str, Any]]]:
    """Labelled traces in both formats, of the same content: half right, four tenths with the policy's own errors, one tenth
    with errors put in (all kinds in turn).

    The shares are the difficulty rule for detection: a model finds nearly all errors put in, because it never makes them
    itself, and about half of the policy's own.

    Args:
        rollouts: of problems of one split; well-formed right and wrong ones are used, one a problem.
        n: traces; fewer where the rollouts run out.

    Returns:
        Records in ProcessBench's fields, by format; labels come from the exact checker.
    """
    rng = random.Random(seed)
    shuffled = rng.sample(list(rollouts), len(rollouts))
    n_injected, n_sampled = n // 10, 4 * n // 10
    right: list[tuple[str, Problem, list[str]]] = []
    sampled: list[tuple[str, Problem, list[str]]] = []
    injected: list[tuple[str, Problem, list[str]]] = []
    used: set[str] = set()
    for rollout in shuffled:
        if rollout.id in used:
            continue
        problem, steps = parse_problem(rollout.problem), rollout_steps(rollout)
        kind = rollout_error(rollout, world)
        if kind in ("malformed", "truncated"):
            continue
        if len(injected) < n_injected and len(used) % 5 == 0:
            wanted = INJECTED[len(injected) % len(INJECTED)]
            made = inject(problem, wanted, world, rng)
            if made is None:
                continue
            injected.append((f"injected: {wanted}", problem, made))
        elif kind == "none" and len(right) < n - n_injected - n_sampled:
            right.append(("policy", problem, steps))
        elif kind != "none" and len(sampled) < n_sampled:
            sampled.append((f"policy: {kind}", problem, steps))
        else:
            continue
        used.add(rollout.id)
    traces: dict[Format, list[dict[str, Any]]] = {form: [] for form in FORMATS}
    for i, (generator, problem, steps) in enumerate([*right, *sampled, *injected]):
        for form in FORMATS:
            traces[form].append(
                {
                    "id": f"mini-{i}",
                    "generator": generator,
                    "problem": problem.text(),
                    "steps": with_format(steps, form),
                    "final_answer_correct": steps[-1].endswith(f"{{ {problem.answer(world)} }}"),
                    "label": first_wrong_step(problem, steps, world),
                }
            )
    return traces
