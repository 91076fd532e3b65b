"""Run a study of the miniature and write its page in docs/studies/: reward models, Best-of-N, policies, or step labels.

    python scripts/study.py reward-models [--seeds 6] [--workers 2]
    python scripts/study.py best-of-n
    python scripts/study.py policies
    python scripts/study.py labels

A study first searches its settings on a seed and on problems that its tables do not use, and then measures what it compares on the
seeds of the tables. Everything is kept under $XDG_CACHE_HOME/prmbench/miniature, shared with `prmbench replicate`, and goes on
where it was stopped. `--page-only` writes the page again from the rows beside it and runs nothing.
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
    parser.add_argument("--seeds", type=int, default=6, help="seeds of the tables, from 0 on")
    parser.add_argument("--workers", type=int, help="processes, one thread each; default: one a core")
    parser.add_argument("--page-only", action="store_true", help="write the page again, run nothing")
    options = parser.parse_args()
    quiet_libraries()
    if options.page_only:
        print(write_page(options.study, PAGES))
    else:
        print(run_study(options.study, PAGES, seeds=options.seeds, workers=options.workers))
