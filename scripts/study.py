"""Run a study of the miniature and write the figures of its page in docs/studies/.

    python scripts/study.py settings
    python scripts/study.py power --seeds 3
    python scripts/study.py what-replicates --seeds 20 [--pair-seeds 30] [--workers 2]
    python scripts/study.py labels --seeds 2
    python scripts/study.py search --seeds 3

`settings` measures a seed and problems that no table uses, `power` that seed and the next ones. Everything is kept under
$XDG_CACHE_HOME/prmbench/miniature, shared with `prmbench replicate`, and goes on where it was stopped. Figures of finished runs are
also in docs/studies/rows, from where another machine takes them. `--page-only` writes the page again from these and runs nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prmbench.quiet import quiet_libraries
from prmbench.studies.study_pages import STUDIES, run_study, write_page

PAGES = Path(__file__).resolve().parent.parent / "docs" / "studies"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, default=10, help="seeds of the tables")
    parser.add_argument("--pair-seeds", type=int, help="seeds of DistRL and GRPO with IPVRM; default: as of all else")
    parser.add_argument("--workers", type=int, help="processes, one thread each; default: one a core")
    parser.add_argument("--page-only", action="store_true", help="write the page again, run nothing")
    options = parser.parse_args()
    quiet_libraries()
    if options.page_only:
        print(write_page(options.study, PAGES))
    else:
        print(
            run_study(
                options.study,
                PAGES,
                seeds=options.seeds,
                pair_seeds=options.pair_seeds,
                workers=options.workers,
            )
        )
