"""Commands of `prmbench` that make what a run measures, from a folder of recipes."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from prmbench.data.records import read_json
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import UserError
from prmbench.resources import resource_folder
from prmbench.results.schema import ENTRY_NAME, digest
from prmbench.studies.measure_reward_models import BEST_OF
from prmbench.studies.recipe_options import RerankOptions, RolloutOptions, WorldOptions
from prmbench.studies.runs import StudyRun
from prmbench.studies.settings import POLICIES, PolicySettings, RewardModelSettings
from prmbench.training.plan import GIB
from prmbench.training.recipes.optimisation import Optimisation
from prmbench.training.recipes.read import load_recipe
from prmbench.training.rl.recipe import EvaluateOptions, RLRecipe
from prmbench.training.rm.recipe import RMRecipe
from prmbench.training.sft.recipe import SFTRecipe

Recipe = TypeVar("Recipe", bound=Optimisation)

REPORTS: dict[type[Optimisation], tuple[str, str]] = {
    SFTRecipe: ("sft", "sft.json"),
    RMRecipe: ("rm", "rm.json"),
    RLRecipe: ("rl", "rl.json"),
}
"""The command that runs a recipe, and the report that a finished run leaves."""


@dataclass(frozen=True)
class Command:
    """A command, and what it stands on.

    Attributes:
        arguments: What stands behind ``prmbench``.
        output: Folder that it writes into.
        size: How much work it is, in words; empty where the recipe's plan says it.
        needs: Commands that come first.
        recipe: The recipe that it trains; None where it trains nothing.
    """

    arguments: tuple[str, ...]
    output: Path
    size: str
    needs: tuple[Command, ...] = ()
    recipe: Optimisation | None = None

    @property
    def text(self) -> str:
        """The command as it is typed."""
        return shlex.join(["prmbench", *self.arguments])

    @cached_property
    def key(self) -> str:
        """A hash of everything that it depends on, the recipes before it included."""
        # Only what is set, because a later version has more keys.
        recipe = self.recipe and self.recipe.model_dump(mode="json", exclude_unset=True)
        return digest([self.arguments, recipe, [one.key for one in self.needs]])

    @property
    def is_done(self) -> bool:
        """Whether what it makes is there.

        Raises:
            UserError: Its folder holds the finished run of another recipe.
        """
        if self.recipe is not None:
            report = self.output / REPORTS[type(self.recipe)][1]
            return report.is_file() and self._same_recipe(report)
        return (self.output / ENTRY_NAME).is_file() or self.mark.is_file()

    @property
    def mark(self) -> Path:
        """A file that says that the command has ended well, for rollouts, which have no entry."""
        return self.output / f"done-{self.key[:12]}.json"

    @property
    def cost(self) -> str:
        """What it takes, in words, before it begins."""
        if self.recipe is None:
            return self.size
        try:
            plan = self.recipe.plan()
        except UserError as error:
            return f"not known yet ({error})"
        return f"{plan.steps:,} updates, {plan.tokens:,} tokens, {plan.total() / GIB:.1f} GiB on one device"

    def _same_recipe(self, report: Path) -> bool:
        assert self.recipe is not None
        wanted, found = self.recipe.model_dump(mode="json"), read_json(report).get("recipe")
        with contextlib.suppress(ValidationError):  # a key that came later has its default
            found = type(self.recipe).model_validate(found).model_dump(mode="json")
        if found != wanted:
            keys = [key for key, value in wanted.items() if not isinstance(found, dict) or found.get(key) != value]
            raise UserError(
                f"{report}: is of a run whose recipe differs in {', '.join(keys) or 'its keys'}; expected that of `{self.text}`: "
                "rename its folder, or change the recipe's output"
            )
        return True


class RecipeFolder:
    """A folder of recipes, and the commands that follow from it.

    Seed 0 runs the recipes as they are, so that what was made from them by hand is reused. Seed k adds k to their seeds, and writes
    into ``seed-k`` beside their outputs.

    Attributes:
        name: The folder as it was given.
        folder: Where it is.
        options: What ``world.yaml`` says.
    """

    def __init__(self, name: str) -> None:
        """Read the folder.

        Args:
            name: A folder, or the name of one in the installed ``training/``.

        Raises:
            UserError: There is no such folder, it lacks a recipe that all others derive from, or a file is wrong.
        """
        self.name, self.folder = name, Path(name)
        self._loaded: dict[tuple[str, ...], Any] = {}
        if not self.folder.is_dir():
            self.folder = resource_folder("training") / name
        if not self.folder.is_dir():
            ready = sorted(path.parent.name for path in resource_folder("training").glob("*/grpo.yaml"))
            raise UserError(f"{name}: no such folder of recipes; ready ones are {', '.join(ready)}, or 'miniature'")
        for stem in ("ipvrm", "grpo"):
            if not self._has(stem):
                raise UserError(f"{self.folder}: has no {stem}.yaml; a world needs ipvrm.yaml and grpo.yaml at least")
        file = self.folder / "world.yaml"
        self.options = load_recipe(file, WorldOptions) if file.is_file() else WorldOptions()
        if self._rl.evaluate is None:
            raise UserError(f"{self.folder / 'grpo.yaml'}: has no key 'evaluate', by which policies are measured")

    def _has(self, stem: str) -> bool:
        return (self.folder / f"{stem}.yaml").is_file()

    def _load(self, stem: str, of: type[Recipe], overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe of the folder, each once: commands stand on each other, and ask for the same ones."""
        key = (stem, *overrides)
        if key not in self._loaded:
            self._loaded[key] = load_recipe(self.folder / f"{stem}.yaml", of, overrides)
        found: Recipe = self._loaded[key]
        return found

    @cached_property
    def _rm(self) -> RMRecipe:
        return self._load("ipvrm", RMRecipe)

    @cached_property
    def _rl(self) -> RLRecipe:
        return self._load("grpo", RLRecipe)

    @property
    def root(self) -> Path:
        """Folder that the outputs of the recipes are in."""
        return Path(self._rl.output).parent

    @property
    def measured(self) -> EvaluateOptions:
        """How policies are measured."""
        assert self._rl.evaluate is not None  # checked at the start
        return self._rl.evaluate

    # What is trained and sampled.

    def _train(
        self, stem: str, of: type[Recipe], wanted: Mapping[str, Any], needs: Sequence[Command | None]
    ) -> Command:
        """Make the command that runs a recipe, with overrides for what the file does not say."""
        plain = self._load(stem, of)
        overrides = [f"{key}={_yaml(value)}" for key, value in wanted.items() if _said(plain, key) != _yaml(value)]
        recipe = self._load(stem, of, overrides)
        options = [part for override in overrides for part in ("--set", override)]
        arguments = ("train", REPORTS[of][0], f"{self.name}/{stem}.yaml", *options)
        return Command(arguments, Path(recipe.output), "", tuple(one for one in needs if one), recipe)

    def sft(self, seed: int) -> Command | None:
        """Return the command that trains the SFT policy; None where the recipes start from a checkpoint that is there.

        Args:
            seed: The seed.
        """
        if not self._has("sft"):
            return None
        recipe = self._load("sft", SFTRecipe)
        return self._train("sft", SFTRecipe, {"seed": recipe.seed + seed, "output": _of(recipe.output, seed)}, ())

    def policy(self, seed: int) -> str:
        """Return the SFT policy, which everything starts from: a folder, or a Hub id.

        Args:
            seed: The seed.
        """
        found = self.sft(seed)
        return self._rm.model if found is None else str(found.output)

    def _sample(
        self, seed: int, problems: str, wanted: RolloutOptions | RerankOptions, params: SamplingParams, output: Path
    ) -> Command:
        """Make a command that samples rollouts of the SFT policy.

        Args:
            seed: The seed.
            problems: A file, or a problem set by name.
            wanted: How many problems, and completions of each.
            params: How they are sampled.
            output: Where they go for seed 0.
        """
        output = _of(output, seed)
        options = {
            "policy": self.policy(seed),
            "problems": problems,
            "output": output,
            "n": wanted.n,
            "prompt": self._rl.prompt,
            "limit": wanted.limit,
            "temperature": f"{params.temperature:g}",
            "top-p": f"{params.top_p:g}",
            "top-k": params.top_k or None,
            "max-new-tokens": params.max_new_tokens,
            "engine": self._engine,
            "seed": seed,
        }
        size = (
            f"{_number(wanted.limit)} of {problems} x {wanted.n} completions, {params.max_new_tokens:,} tokens at most"
        )
        sft = self.sft(seed)
        return Command(("rollout", *_flags(options)), output, size, (sft,) if sft else ())

    @property
    def _engine(self) -> str | None:
        return None if self._rl.engine == "hf" else self._rl.engine

    def rollouts(self, seed: int) -> Command | None:
        """Return the command that samples what reward models are trained on; None where the recipe names a file.

        Args:
            seed: The seed.
        """
        if Path(self._rm.data).suffix:
            return None
        wanted, params = self.options.rollouts, SamplingParams(max_new_tokens=self._rl.max_new_tokens)
        return self._sample(seed, wanted.problems or self._rl.problems, wanted, params, Path(self._rm.data))

    def candidates(self, seed: int, *, at_one: bool) -> list[Command]:
        """Return the commands that sample what Best-of-N chooses from, one a problem set.

        Args:
            seed: The seed.
            at_one: Whether at temperature 1, instead of the evaluation preset.
        """
        wanted, cut = self.options.best_of_n, self.measured.max_new_tokens
        params = SamplingParams(max_new_tokens=cut) if at_one else self.measured.params()
        places = {one: self.root / f"candidates-{Path(one).stem}{'-at-one' * at_one}" for one in wanted.problems}
        return [self._sample(seed, problems, wanted, params, place) for problems, place in places.items()]

    def reward_model(self, settings: RewardModelSettings, seed: int) -> Command:
        """Return the command that trains a reward model. Without a file of its own its recipe derives from ``ipvrm.yaml``.

        Args:
            settings: The reward model; its objective and its margin count, all else is the recipe's.
            seed: The seed.
        """
        stem = settings.objective if self._has(settings.objective) else "ipvrm"
        recipe, rollouts = self._load(stem, RMRecipe), self.rollouts(seed)
        own = stem == settings.objective and settings.margin is None
        output = recipe.output if own else self.root / settings.name.replace(" ", "-").replace("=", "")
        wanted: dict[str, Any] = {
            "model": self.policy(seed),
            "data": rollouts.output if rollouts else recipe.data,
            "objective": settings.objective,
            "output": _of(output, seed),
            "seed": recipe.seed + seed,
        }
        if settings.margin is not None:
            wanted["margin"] = settings.margin
        return self._train(stem, RMRecipe, wanted, [self.sft(seed), rollouts])

    def trained_policy(self, name: str, seed: int) -> Command:
        """Return the command that trains a policy.

        Its recipe is the file of its name, of its method and objective, or of its method. Where there is none it derives from
        ``distrl_ipvrm.yaml`` for a reward model that is updated, else from ``grpo.yaml``.

        Args:
            name: Name of the policy in `POLICIES`; not ``sft``.
            seed: The seed.
        """
        settings = POLICIES[name]
        stem, given = self._file_of(name, settings)
        recipe = self._load(stem, RLRecipe)
        slug = name.replace(" ", "_").replace("=", "")
        own = given == settings
        wanted: dict[str, Any] = {
            "model": self.policy(seed),
            "method": settings.method,
            "output": _of(recipe.output if own else self.root / slug, seed),
            "seed": recipe.seed + seed,
        }
        needs = [self.sft(seed)]
        if settings.reward is not None:
            reward = self.reward_model(settings.reward, seed)
            needs.append(reward)
            wanted["reward_model.model"] = reward.output
        # What the file does not say: all of it where it is another method's, else what differs from the policy that it is of.
        changed = {"reward_model.update": "update", "reward_model.reference": "reference", "alpha": "alpha"}
        for key, field in changed.items():
            said = getattr(given, field) if given else None
            counts = settings.method == "distrl" if key == "alpha" else settings.reward is not None
            if counts and getattr(settings, field) != said:
                wanted[key] = getattr(settings, field)
        return self._train(stem, RLRecipe, wanted, needs)

    def _file_of(self, name: str, settings: PolicySettings) -> tuple[str, PolicySettings | None]:
        """Find the recipe of a policy, and the settings that it is of; None where it is another method's."""
        for stem, of in (
            (name.replace(" ", "_"), settings),
            (settings.name.replace(" ", "_"), POLICIES.get(settings.name, settings)),
            (settings.method, settings),
        ):
            if self._has(stem) and (stem != "grpo" or settings.objective is None):
                return stem, of
        updated = settings.reward is not None and settings.update != "frozen" and self._has("distrl_ipvrm")
        return ("distrl_ipvrm" if updated else "grpo"), None

    # What is measured.

    def measurements(self, run: StudyRun, seed: int) -> dict[str, Command]:
        """Return the commands whose results a run's row is read from, by what the row calls them.

        Args:
            run: The run.
            seed: The seed.
        """
        sft, settings = self.sft(seed), run.settings
        if run.kind in ("policy", "step"):
            if run.name != "sft":
                return {"policy": self.trained_policy(run.name, seed)}
            return {"policy": self._measure(run, seed, {"policy": self.policy(seed), **self._policy_options()}, [sft])}
        if run.kind == "candidates":
            return {"metrics": self._measure(run, seed, self._probe_options(seed, "candidates"), [sft])}
        assert isinstance(settings, RewardModelSettings)
        model = None if settings.objective == "endo" else self.reward_model(settings, seed)
        subject = {"rm": model.output} if model else {"rm": self.policy(seed), "kind": "endo"}
        needs = [model or sft]
        if run.kind == "reward model":
            traces = self.options.traces
            options: dict[str, Any] = {"data": traces.data, "subset": traces.subsets, "limit": traces.limit}
            return {"f1": self._measure(run, seed, {**subject, **options}, needs)}
        if run.kind == "td":
            probes, more = self.options.probes, self._probe_options(seed, "td-probe")
            more |= {"branches": probes.branches, "rollouts-per-branch": probes.rollouts_per_branch}
            return {"metrics": self._measure(run, seed, {**subject, **more}, [*needs, sft])}
        found = {}
        for part, at_one in (("figures", False), ("at_one", True)):
            sampled = self.candidates(seed, at_one=at_one)
            choice = {"rollouts": [one.output for one in sampled], "n": BEST_OF}
            found[part] = self._measure(run, seed, {**subject, **choice}, [*needs, *sampled], part)
        return found

    def _policy_options(self) -> dict[str, Any]:
        found = self.measured
        return {
            "subset": found.problems,
            "n": found.n,
            "limit": found.limit,
            "preset": found.preset,
            "prompt": self._rl.prompt,
            "max-new-tokens": found.max_new_tokens,
            "engine": self._engine,
        }

    def _probe_options(self, seed: int, benchmark: str) -> dict[str, Any]:
        return {
            "benchmark": benchmark,
            "policy": self.policy(seed),
            "subset": self.options.probes.problems,
            "limit": self.options.probes.limit,
            "prompt": self._rl.prompt,
            "max-new-tokens": self.measured.max_new_tokens,
        }

    def _measure(
        self, run: StudyRun, seed: int, options: Mapping[str, Any], needs: Sequence[Command | None], part: str = ""
    ) -> Command:
        """Make a command that evaluates, into a folder that its content names."""
        before = tuple(one for one in needs if one)
        flags = _flags({**options, "seed": seed})
        name = f"{run.kind}-{run.name}{part and '-'}{part}".replace(" ", "-").replace("=", "").replace("_", "-")
        key = digest([flags, [one.key for one in before]])[:12]
        output = self.root / "replicate" / f"seed-{seed}" / f"{name}-{key}"
        of = ", ".join(Path(one).name for one in options.get("rollouts") or options.get("subset") or ())
        what = {"reward model": "traces", "best-of-n": "completions", "policy": "problems"}.get(run.kind, "problems")
        each = f" of each, {options['n']} completions of each problem" if run.kind == "policy" else ""
        number = (
            "by default"
            if run.kind in ("td", "candidates") and not options.get("limit")
            else _number(options.get("limit"))
        )
        size = f"{what} of {of}: {number}{each}"
        return Command(("eval", *flags, "--output", str(output)), output, size, before)


def _of(path: str | Path, seed: int) -> Path:
    """Where an output of the recipes is for a seed."""
    return Path(path) if seed == 0 else Path(path).parent / f"seed-{seed}" / Path(path).name


def _flags(options: Mapping[str, Any]) -> list[str]:
    """Write options as flags; None leaves one out, and several values repeat it."""
    found: list[str] = []
    for name, value in options.items():
        for one in value if isinstance(value, list | tuple) else [] if value is None else [value]:
            found += [f"--{name}", str(one)]
    return found


def _said(recipe: Optimisation, key: str) -> str | None:
    """What a recipe says for a key, in YAML; None where a part of it is not there."""
    found: Any = recipe
    for part in key.split("."):
        found = getattr(found, part, None)
    return None if found is None else _yaml(found)


def _yaml(value: Any) -> str:
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def _number(limit: int | None) -> str:
    return "all" if limit is None else f"{limit:,}"
