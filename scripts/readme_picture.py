"""Draw the pictures of the README and the pages from an entry that ships.

python scripts/readme_picture.py            # docs/eval.svg: its table, as a terminal shows it
python scripts/readme_picture.py --report   # also docs/report.png: the top of its report (needs chromium)
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console

from prmbench import recompute
from prmbench.benchmarks.processbench.table import render

ROOT = Path(__file__).resolve().parents[1]
ENTRY = "leaderboards/entries/miniature-ipvrm"
"""It is above every score that knows nothing of the text. The entries of real models that ship are not."""


def draw_table() -> None:
    """Write the table as an SVG."""
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(f"$ prmbench eval --from-items {ENTRY}", highlight=False)
    console.print(render(recompute(ROOT / ENTRY)), highlight=False)
    drawn = console.export_svg(title="prmbench")
    without_fonts = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)  # they would come from the net
    (ROOT / "docs" / "eval.svg").write_text(without_fonts, encoding="utf-8")


def draw_report() -> None:
    """Write the top of the report as a PNG."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        subprocess.run(["prmbench", "report", ROOT / ENTRY, "--output", page], check=True)
        quiet = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        shot = f"--screenshot={ROOT / 'docs' / 'report.png'}"
        subprocess.run(["chromium", *quiet, "--window-size=760,870", shot, page.as_uri()], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="also draw docs/report.png")
    draw_table()
    if parser.parse_args().report:
        draw_report()
