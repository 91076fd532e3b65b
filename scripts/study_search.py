"""Run the study of guided search in the miniature, and write its figures under the hand-written part of docs/studies/search.md.

    python scripts/study_search.py [--problems 100] [--many 32] [--rm ipvrm=FOLDER ...]

Reward models are those of the study of reward models (seed 0), trained first where they are not there, or the folders that ``--rm``
names. Runs are kept under ``--output`` and go on where they were stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prmbench.data.problems import load_problems
from prmbench.miniature.build import Build, make_problems, write_lines
from prmbench.miniature.true_model import TrueValueModel
from prmbench.quiet import quiet_libraries
from prmbench.results.store import write_atomically
from prmbench.reward_models.loading import load_reward_model
from prmbench.studies.lab import Lab
from prmbench.studies.measure_search import (
    agreement,
    curve_table,
    measure_many,
    measure_search,
    methods_table,
    winners,
)
from prmbench.studies.settings import LABELS, REWARD_MODELS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "studies" / "search.md"
MARK = "<!-- What follows is written by scripts/study_search.py. -->"


def main() -> None:
    """Measure what is missing, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100, help="test problems of the methods")
    parser.add_argument("--many", type=int, default=32, help="test problems of the curve of over-optimisation; 0: none")
    parser.add_argument("--samples", type=int, default=1_024, help="samples of each of these")
    parser.add_argument(
        "--rm", action="append", default=[], help="NAME=FOLDER of a trained reward model; may be repeated"
    )
    parser.add_argument("--output", type=Path, default=Path("build/study-search"), help="folder of the runs")
    options = parser.parse_args()
    quiet_libraries()
    # The policy, its problems, and what scores them.
    lab, world = Lab(0), Build().world
    policy = lab.load_policy()
    folders = dict(one.split("=", 1) for one in options.rm)
    truth = TrueValueModel(world, policy.encoder)
    models = {"true values": truth} | {
        LABELS[name]: load_reward_model(folders[name]) if name in folders else lab.reward_model(REWARD_MODELS[name])
        for name in ("ipvrm", "implicit_prm")
    }
    options.output.mkdir(parents=True, exist_ok=True)
    n = max(options.problems, options.many)
    file = write_lines(options.output / "problems.jsonl", make_problems(world, "test", n, 40_000))
    problems = load_problems(file)
    # The runs.
    found, many, agrees = {}, {}, {}
    for name, model in models.items():
        print(f"{name} ...", flush=True)
        short = name.lower().replace(" ", "-")
        found[name] = measure_search(model, policy, problems[: options.problems], name, options.output / short)
        if model is not truth:
            agrees[name] = agreement(model, truth, policy, problems[: options.problems])
        if options.many:
            folder = options.output / f"{short}-many"
            many[name] = measure_many(model, policy, problems[: options.many], name, folder, options.samples)
    # The page.
    said = [f"- {name}: {one.value:.2f} [{one.low:.2f}, {one.high:.2f}]" for name, one in agrees.items()]
    parts = [
        "## Figures",
        f"{options.problems} test problems, temperature 1, M = 4. Accuracy in % [95% interval over problems].",
        methods_table(found),
        "At equal compute:\n\n" + "\n".join(winners(found)),
        "How well scores order prefixes of a problem as true values do (Spearman, 16 paths of equally many steps):\n\n"
        + "\n".join(said),
    ]
    if many:
        parts += [
            f"Best-of-N, exact over all subsets of {options.samples:,} samples of {options.many} problems:",
            curve_table(many),
        ]
    before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    write_atomically(PAGE, "\n\n".join([before.rstrip(), MARK, *parts]) + "\n")
    print(PAGE)


if __name__ == "__main__":
    main()
