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
from pathlib import Path
from typing import Any

from study_policies_report import MARK, report
from study_tables import write_rows

from prmbench.miniature.build import Build
from prmbench.quiet import quiet_libraries
from prmbench.studies.policies import PolicyBench, PolicySettings, average, last_third, run_policy
from prmbench.studies.replicate.runs import BASE, POLICIES, reward_of
from prmbench.studies.reward_models import Bench

SEARCH_SEED = 100
TABLE_SEEDS = (0, 1, 2, 3, 4, 5)
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


def table(seeds: tuple[int, ...]) -> None:
    """Run every method on every seed of the tables."""
    benches = [PolicyBench(Bench(Build(seed=seed), "test")) for seed in seeds]
    for name, settings in POLICIES.items():
        for bench in benches:
            _timed(bench, settings, name)


def write_page() -> None:
    """Collect what the tables' runs left, and write the page's figures under its hand-written part."""
    found: list[dict[str, Any]] = []
    for seed in TABLE_SEEDS:
        bench = PolicyBench(Bench(Build(seed=seed), "test"))
        found += [{"name": name, **_short(run_policy(bench, one, reward_of(one)))} for name, one in POLICIES.items()]
    write_rows(OUTPUT / "policies.json", found)
    page = OUTPUT / "policies.md"
    said = page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else "# Policies in the miniature\n\n"
    searched = json.loads((OUTPUT / "policies-search.json").read_text())
    page.write_text(said + report(found, searched, BASE, OUTPUT), encoding="utf-8")
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
