"""Tables 1, 3 and 12 in the miniature (docs/studies/best-of-n.md): Best-of-N of the study of reward models' own checkpoints.

    python scripts/study_best_of_n.py table [--seed 0]   # 64 candidates of 64 problems a seed, every reward model
    python scripts/study_best_of_n.py report             # the page, from what is there

Reward models are those of scripts/study_reward_models.py, trained where they are not there yet. All of it is kept under
$XDG_CACHE_HOME/prmbench/miniature and goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from study_tables import claims_table, table, with_interval, write_rows

from prmbench.miniature.build import Build
from prmbench.quiet import quiet_libraries
from prmbench.studies.replicate.claims import BEST_OF_N_CLAIMS
from prmbench.studies.replicate.figures import LABELS, best_of, best_of_baseline, over_sizes
from prmbench.studies.replicate.runs import REWARD_MODELS, Run
from prmbench.studies.reward_models import BEST_OF, N_CANDIDATES, N_RERANKED, Bench, rerank

SEEDS = (0, 1, 2, 3, 4, 5)
OBJECTIVES = ("q_rm", "endo", "dpo", "implicit_prm", "ipvrm", "ipvrm_late", "ipvrm_early")
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "studies"
MARK = "<!-- What follows is written by scripts/study_best_of_n.py report. -->"
BASELINES = ("mean", "majority", "pass", "shortest")


def measure(seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    """Every reward model on every seed's candidates."""
    found = []
    for seed in seeds:
        bench = Bench(Build(seed=seed), "test")
        for objective in OBJECTIVES:
            start = time.monotonic()
            row = rerank(bench, REWARD_MODELS[objective])
            found.append(row)
            shown = ", ".join(f"@{n} {best_of(n)(row):.1f}" for n in BEST_OF)
            print(f"seed {seed} {objective}: {shown} ({time.monotonic() - start:.0f} s)", flush=True)
    return found


def report() -> None:
    """Write the page's figures under its hand-written part."""
    found = measure(SEEDS)
    write_rows(OUTPUT / "best-of-n.json", found)
    of = {o: [r for r in found if r["settings"]["objective"] == o] for o in OBJECTIVES}
    rows = [
        [
            LABELS[o],
            *(with_interval([best_of(n)(r) for r in of[o]]) for n in BEST_OF),
            with_interval([*map(over_sizes, of[o])]),
        ]
        for o in OBJECTIVES
    ]
    any_of = of["ipvrm"]
    rows += [
        [name, *(with_interval([best_of_baseline(name, n)(r) for r in any_of]) for n in BEST_OF), ""]
        for name in BASELINES
    ]
    page = OUTPUT / "best-of-n.md"
    said = page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else "# Best-of-N in the miniature\n\n"
    text = (
        f"{MARK}\n\n## Figures\n\n{len(SEEDS)} seeds, {N_RERANKED} test problems of each with {N_CANDIDATES} candidates sampled "
        "from the seed's policy at temperature 1. Accuracy in % of choosing by the model's own score, exact over all subsets of N; "
        "means over seeds with the 95% Student-t interval.\n\n"
        + table(["", *(f"@{n}" for n in BEST_OF), "mean over N"], rows)
        + "\n\n### The paper's orderings\n\nOf the mean over N, paired by seed: "
        + claims_table(BEST_OF_N_CLAIMS, {Run("best-of-n", name): rows for name, rows in of.items()})
        + "\n"
    )
    page.write_text(said + text, encoding="utf-8")
    print(page)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("table", "report"))
    parser.add_argument("--seed", type=int, action="append", help="of the table; may be repeated; default: all")
    options = parser.parse_args()
    quiet_libraries()
    if options.part == "table":
        measure(tuple(options.seed or SEEDS))
    else:
        report()


if __name__ == "__main__":
    main()
