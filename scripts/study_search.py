"""Run the study of guided search in the miniature, and write its figures under the hand-written part of docs/studies/search.md.

    python scripts/study_search.py [--seeds 3] [--workers 2]

Everything is kept under $XDG_CACHE_HOME/prmbench/miniature, shared with the other studies, and goes on where it was stopped.
Figures of finished runs are also in docs/studies/rows, from where another machine takes them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prmbench.quiet import quiet_libraries
from prmbench.results.store import write_atomically
from prmbench.studies.search_page import RUNS, curve_picture, paragraphs
from prmbench.studies.shared_rows import perform_shared

PAGES = Path(__file__).resolve().parent.parent / "docs" / "studies"
MARK = "<!-- What follows is written by scripts/study_search.py. -->"


def main() -> None:
    """Measure what is missing, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="seeds, from 0 on")
    parser.add_argument("--workers", type=int, help="processes, one thread each; default: one a core")
    options = parser.parse_args()
    quiet_libraries()
    results = perform_shared(PAGES / "rows", RUNS, range(options.seeds), options.workers)
    page = PAGES / "search.md"
    before = page.read_text(encoding="utf-8").partition(MARK)[0]
    write_atomically(page, "\n\n".join([before.rstrip(), MARK, *paragraphs(results)]) + "\n")
    write_atomically(PAGES / "search-many.svg", curve_picture(results))
    print(page)


if __name__ == "__main__":
    main()
