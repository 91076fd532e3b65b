"""What is run: every measurement that a table of the paper needs, by name; each is kept by its content and made once a seed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from prmbench.miniature.build import Build
from prmbench.studies.policies import PolicyBench, PolicySettings, policy_place, run_policy
from prmbench.studies.probes import measure_candidates, measure_td, probe_place
from prmbench.studies.reward_models import Bench, Settings, measure, measured_place, rerank, reranked_place

Row = dict[str, Any]
Kind = Literal["reward model", "best-of-n", "policy", "td", "candidates"]

RATE = 3e-4
"""Learning rate of every offline reward model: what scripts/study_reward_models.py chose, on seed 100 and validation problems."""

REWARD_MODELS: dict[str, Settings] = {
    "q_rm": Settings("q_rm", RATE),
    "endo": Settings("endo"),
    "dpo": Settings("dpo", RATE),
    "implicit_prm": Settings("implicit_prm", RATE),
    "ipvrm": Settings("ipvrm", RATE),
    "ipvrm_late": Settings("ipvrm_late", RATE),
    "ipvrm_early": Settings("ipvrm_early", RATE),
    "ipvrm m=0": Settings("ipvrm", RATE, margin=0.0),
    "ipvrm m=10": Settings("ipvrm", RATE, margin=10.0),
}

BASE = PolicySettings("grpo", steps=20, learning_rate=1e-4, gae_weight=0.1, reward_learning_rate=1e-4)
"""What scripts/study_policies.py chose, on seed 100 and validation problems."""


def _policies() -> dict[str, PolicySettings]:
    """DistRL w/ IPVRM without more: DLW + ADB, reference the behaviour policy, alpha 0.1."""
    ipvrm = replace(BASE, method="distrl", objective="ipvrm", update="dlw+adb")
    runs = {
        "sft": replace(BASE, method="sft"),
        "grpo": BASE,
        "distrl ipvrm": ipvrm,
        "grpo ipvrm": replace(ipvrm, method="grpo"),
        "grpo dpo": replace(BASE, objective="dpo", update="naive"),
        "prime": replace(BASE, method="prime", objective="implicit_prm", update="naive", reference="start"),
        "spro": replace(BASE, method="spro"),
        "reinforce q_rm": replace(BASE, method="reinforce", objective="q_rm"),
        "distrl dpo": replace(BASE, method="distrl", objective="dpo", update="naive"),
        "grpo implicit_prm": replace(BASE, objective="implicit_prm", update="naive"),
        "distrl implicit_prm": replace(BASE, method="distrl", objective="implicit_prm", update="naive"),
        "distrl ipvrm start": replace(ipvrm, reference="start"),
    }
    runs |= {f"distrl ipvrm {update}": replace(ipvrm, update=update) for update in ("frozen", "naive", "dlw", "adb")}
    return runs | {f"distrl ipvrm alpha={alpha}": replace(ipvrm, alpha=alpha) for alpha in (0.05, 0.2, 0.5)}


POLICIES = _policies()


@dataclass(frozen=True)
class Run:
    """One measurement. name: of `REWARD_MODELS` (kinds "reward model", "best-of-n", "td") or `POLICIES`."""

    kind: Kind
    name: str

    @property
    def seconds(self) -> int:
        """About how long it takes on one core, what it stands on left out: for the time left."""
        return {"reward model": 60, "best-of-n": 30, "policy": 50, "td": 60, "candidates": 15}[self.kind]


def reward_of(settings: PolicySettings) -> Settings | None:
    """The offline reward model that a policy's run starts from."""
    return None if settings.objective is None else REWARD_MODELS[settings.objective]


class Lab:
    """One seed's data and models, made when first needed. Several processes may share a seed: each thing is made by one of them."""

    def __init__(self, seed: int) -> None:
        self.build = Build(seed=seed)

    def _lock(self, name: str) -> FileLock:
        folder = self.build.folder()
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f".{name}.lock")

    @cached_property
    def bench(self) -> Bench:
        """The seed's policy, its rollouts, and traces."""
        with self._lock("bench"):
            return Bench(self.build, "test")

    @cached_property
    def policies(self) -> PolicyBench:
        """Problems that policies are trained and measured on."""
        bench = self.bench
        with self._lock("bench"):
            return PolicyBench(bench)

    def place(self, run: Run) -> Path:
        """The file that holds a run's figures, once it is done."""
        if run.kind == "policy":
            settings = POLICIES[run.name]
            return policy_place(self.build, "test", settings, reward_of(settings)) / "measured.json"
        if run.kind in ("td", "candidates"):
            return probe_place(self.build, run.kind, REWARD_MODELS.get(run.name))
        find = measured_place if run.kind == "reward model" else reranked_place
        return find(self.build, "test", REWARD_MODELS[run.name])

    def done(self, run: Run) -> bool:
        """Whether a run's figures are there."""
        return self.place(run).exists()

    def perform(self, run: Run) -> Row:
        """A run's figures, computed where they are not there yet."""
        if self.done(run):
            kept: Row = json.loads(self.place(run).read_text(encoding="utf-8"))
            return kept
        with self._lock(f"{run.kind}-{run.name}".replace(" ", "-")):
            return self._perform(run)

    def _perform(self, run: Run) -> Row:
        if run.kind == "policy":
            settings = POLICIES[run.name]
            reward = reward_of(settings)
            if reward is not None:
                self._train(settings.objective or "", reward)
            return run_policy(self.policies, settings, reward)
        if run.kind == "candidates":
            return measure_candidates(self.bench)
        settings_rm = REWARD_MODELS[run.name]
        self._train(run.name, settings_rm)
        if run.kind == "td":
            return measure_td(self.bench, settings_rm)
        if run.kind == "best-of-n":
            with self._lock("candidates"):
                _ = self.bench.candidates
            return rerank(self.bench, settings_rm)
        with self._lock("truth"):
            _ = self.bench.truth
        return measure(self.bench, settings_rm)

    def _train(self, name: str, settings: Settings) -> None:
        bench = self.bench
        with self._lock(f"train-{name}".replace(" ", "-")):
            bench.train(settings)
