"""The study of reward models in the miniature (docs/studies/reward-models.md).

    python scripts/study_reward_models.py search     # settings, on seeds and data that the tables do not use
    python scripts/study_reward_models.py table      # every reward model on the tables' seeds, with what the search chose
    python scripts/study_reward_models.py report     # the page, its figures and its numbers, from what is there

All of it is kept under $XDG_CACHE_HOME/prmbench/miniature and goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from study_report import MARK, report
from study_tables import write_rows

from prmbench.miniature.build import Build
from prmbench.quiet import quiet_libraries
from prmbench.studies.replicate.runs import REWARD_MODELS
from prmbench.studies.reward_models import Bench, Settings, measure

SEARCH_SEEDS = (100,)
TABLE_SEEDS = (0, 1, 2, 3, 4, 5)
LEARNING_RATES = {
    # Three first, 1e-4 to 1e-3; then one more beyond the edge that was best.
    "ipvrm": (3e-5, 1e-4, 3e-4, 1e-3),
    "implicit_prm": (3e-5, 1e-4, 3e-4, 1e-3),
    "dpo": (3e-5, 1e-4, 3e-4, 1e-3),
    "q_rm": (1e-4, 3e-4, 1e-3, 3e-3),
}
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "studies"


def search() -> None:
    """Every searched objective at every learning rate, on validation problems."""
    found = []
    for seed in SEARCH_SEEDS:
        bench = Bench(Build(seed=seed), "validation")
        for objective, rates in LEARNING_RATES.items():
            for rate in rates:
                found.append(_timed(bench, Settings(objective, rate)))
    write_rows(OUTPUT / "reward-models-search.json", found)


def score(rows: list[dict[str, Any]]) -> float:
    """What the search maximises: AUC of the final value on rollouts, outcomes only; nothing that needs step labels."""
    return sum(row["auc_final"] for row in rows) / len(rows)


def chosen(found: list[dict[str, Any]]) -> dict[str, float]:
    """The learning rate of each searched objective."""
    best = {}
    for objective, rates in LEARNING_RATES.items():
        by_rate = {
            rate: score(
                [r for r in found if (r["settings"]["objective"], r["settings"]["learning_rate"]) == (objective, rate)]
            )
            for rate in rates
        }
        best[objective] = max(by_rate, key=lambda rate: by_rate[rate])
    return best


def table() -> None:
    """Measure every reward model on every seed of the tables."""
    found = []
    for seed in TABLE_SEEDS:
        bench = Bench(Build(seed=seed), "test")
        found += [_timed(bench, settings) for settings in REWARD_MODELS.values()]
        write_rows(OUTPUT / "reward-models.json", found)


def write_page() -> None:
    """Write the figures of the page under its hand-written part."""
    page = OUTPUT / "reward-models.md"
    searched, found = (
        json.loads((OUTPUT / name).read_text()) for name in ("reward-models-search.json", "reward-models.json")
    )
    said = (
        page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else "# Reward models in the miniature\n\n"
    )
    page.write_text(said + report(found, searched, chosen(searched), OUTPUT), encoding="utf-8")
    print(page)


def _timed(bench: Bench, settings: Settings) -> dict[str, Any]:
    start = time.monotonic()
    found = measure(bench, settings)
    f1 = found["f1"]["crossfit"]
    shown = ", ".join(f"{form} {100 * f1[form]['process']:.1f}" for form in f1)
    seconds = time.monotonic() - start
    print(
        f"seed {bench.build.seed} {settings.name} lr {settings.learning_rate:g}: process F1 {shown}, "
        f"AUC {found['auc_final']:.3f} ({seconds:.0f} s)",
        flush=True,
    )
    return found


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("search", "table", "report"))
    quiet_libraries()
    {"search": search, "table": table, "report": write_page}[parser.parse_args().part]()


if __name__ == "__main__":
    main()
