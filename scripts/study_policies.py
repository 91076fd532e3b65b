"""The study of policy optimisation in the miniature (docs/studies/policies.md).

    python scripts/study_policies.py search            # learning rates and coefficients, on a seed that the tables do not use
    python scripts/study_policies.py table [--seed 0]  # every method on the tables' seeds, with what the search chose
    python scripts/study_policies.py report            # the page, its figures and its numbers, from what is there

All of it is kept under $XDG_CACHE_HOME/prmbench/miniature and goes on where it stopped; two processes may work on different seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from study_policies_report import MARK, report
from study_tables import write_rows

from prmbench.miniature.build import Build
from prmbench.miniature.policies import PolicyBench, PolicySettings, average, last_third, run_policy
from prmbench.miniature.reward_models import Bench, Settings
from prmbench.training.options import quiet_libraries

SEARCH_SEED = 100
TABLE_SEEDS = (0, 1, 2, 3, 4, 5)
TABLE_STEPS = 20
"""Of every run of the tables; the search had 30. Nineteen runs a seed are what two cores can do in an hour and a half."""
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "studies"
KEPT = (
    "rollouts/accuracy",
    "rollouts/kept",
    "reward_model/",
    "advantage/",
    "candidates/",
    "entropy",
    "clip_share/sampled",
)
OFFLINE_RATE = 3e-4
"""Learning rate of the offline reward models, as the study of reward models chose it."""


def reward_of(settings: PolicySettings) -> Settings | None:
    """The offline reward model that a run starts from."""
    return None if settings.objective is None else Settings(settings.objective, OFFLINE_RATE)


SEARCH = [
    PolicySettings("sft"),
    *(PolicySettings("grpo", learning_rate=rate) for rate in (5e-5, 1e-4, 2e-4)),
    *(
        PolicySettings("grpo", "ipvrm", "dlw+adb", gae_weight=weight, reward_learning_rate=rate)
        for weight, rate in ((1.0, 1e-4), (0.3, 1e-4), (0.1, 1e-4), (0.1, 3e-5), (0.1, 3e-4))
    ),
]


def search() -> None:
    """The policy's learning rate on GRPO with the verifier's reward alone; GAE's coefficient and the reward model's learning rate
    on GRPO w/ IPVRM at the default policy rate."""
    bench = PolicyBench(Bench(Build(seed=SEARCH_SEED), "validation"), "validation")
    write_rows(OUTPUT / "policies-search.json", [_timed(bench, settings) for settings in SEARCH])


def chosen() -> PolicySettings:
    """What the search chose, as the defaults of every run."""
    found = json.loads((OUTPUT / "policies-search.json").read_text())
    plain = max(
        (r for r in found if r["settings"]["method"] == "grpo" and r["settings"]["objective"] is None), key=average
    )
    guided = max((r for r in found if r["settings"]["objective"] is not None), key=average)
    return PolicySettings(
        "grpo",
        steps=TABLE_STEPS,
        learning_rate=plain["settings"]["learning_rate"],
        gae_weight=guided["settings"]["gae_weight"],
        reward_learning_rate=guided["settings"]["reward_learning_rate"],
    )


def table_settings(base: PolicySettings) -> dict[str, PolicySettings]:
    """Every run of the tables, by the name that the claims use."""
    ipvrm = replace(base, objective="ipvrm", update="dlw+adb")
    runs = {
        "sft": replace(base, method="sft"),
        "grpo": base,
        "distrl ipvrm": replace(ipvrm, method="distrl"),
        "grpo ipvrm": ipvrm,
        "grpo dpo": replace(base, objective="dpo", update="naive"),
        "prime": replace(base, method="prime", objective="implicit_prm", update="naive", reference="start"),
        "spro": replace(base, method="spro"),
        "reinforce q_rm": replace(base, method="reinforce", objective="q_rm"),
        "distrl dpo": replace(base, method="distrl", objective="dpo", update="naive"),
        "grpo implicit_prm": replace(base, objective="implicit_prm", update="naive"),
        "distrl implicit_prm": replace(base, method="distrl", objective="implicit_prm", update="naive"),
        "distrl ipvrm start": replace(ipvrm, method="distrl", reference="start"),
    }
    for update in ("frozen", "naive", "dlw", "adb"):
        runs[f"distrl ipvrm {update}"] = replace(ipvrm, method="distrl", update=update)
    for alpha in (0.05, 0.2, 0.5):
        runs[f"distrl ipvrm alpha={alpha}"] = replace(ipvrm, method="distrl", alpha=alpha)
    return runs


def table(seeds: tuple[int, ...]) -> None:
    """Run every method on every seed of the tables."""
    runs = table_settings(chosen())
    benches = [PolicyBench(Bench(Build(seed=seed), "test")) for seed in seeds]
    for name, settings in runs.items():
        for bench in benches:
            _timed(bench, settings, name)


def write_page() -> None:
    """Collect what the tables' runs left, and write the page's figures under its hand-written part."""
    runs = table_settings(chosen())
    found: list[dict[str, Any]] = []
    for seed in TABLE_SEEDS:
        bench = PolicyBench(Bench(Build(seed=seed), "test"))
        found += [{"name": name, **_short(run_policy(bench, one, reward_of(one)))} for name, one in runs.items()]
    write_rows(OUTPUT / "policies.json", found)
    page = OUTPUT / "policies.md"
    said = page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else "# Policies in the miniature\n\n"
    searched = json.loads((OUTPUT / "policies-search.json").read_text())
    page.write_text(said + report(found, searched, chosen(), OUTPUT), encoding="utf-8")
    print(page)


def _short(found: dict[str, Any]) -> dict[str, Any]:
    """Without the figures that the page does not use, five digits of the others: what is committed."""
    history = [
        {k: float(f"{v:.5g}") for k, v in row.items() if k.startswith(KEPT) and v is not None}
        for row in found["history"]
    ]
    return found | {"history": history}


def _timed(bench: PolicyBench, settings: PolicySettings, name: str = "") -> dict[str, Any]:
    start = time.monotonic()
    found = run_policy(bench, settings, reward_of(settings))
    accuracy = last_third(found, "rollouts/accuracy")
    print(
        f"seed {bench.build.seed} {name or settings}: avg@{found['n']} {average(found):.1f}, rollouts {100 * accuracy:.1f}, "
        f"reward model {last_third(found, 'reward_model/accuracy'):.3f} ({time.monotonic() - start:.0f} s)",
        flush=True,
    )
    return found


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("search", "table", "report"))
    parser.add_argument("--seed", type=int, action="append", help="of the tables; may be repeated; default: all")
    options = parser.parse_args()
    quiet_libraries()
    if options.part == "table":
        table(tuple(options.seed or TABLE_SEEDS))
    else:
        {"search": search, "report": write_page}[options.part]()


if __name__ == "__main__":
    main()
