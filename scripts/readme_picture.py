"""Draw the pictures of the README and the pages from entries that ship.

python scripts/readme_picture.py            # docs/eval.svg: a table as a terminal shows it; docs/baselines.svg: F1 beside baselines
python scripts/readme_picture.py --report   # also docs/report.png: the top of a report (needs chromium)
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import tempfile
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
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


def draw_baselines() -> None:
    """Write F1 of the miniature's reward models, beside scores that know nothing, as an SVG."""
    entries = [recompute(path.parent) for path in sorted(ROOT.glob("leaderboards/entries/miniature-*/entry.json"))]
    rows = [(entry.subject.name, entry.metrics.protocols["process"].mean["crossfit"]) for entry in entries]
    rows.sort(key=lambda row: row[1].value)
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "prmbench", "font.family": "sans-serif"})
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, style in (("length", ":"), ("random", "-."), ("position", "--")):
        value = 100 * entries[0].metrics.baselines[name].mean["crossfit"].value
        axes.axvline(value, color="grey", linestyle=style, label=f"{name}: {value:.1f}")
    for i, (_, f1) in enumerate(rows):
        axes.plot([100 * f1.low, 100 * f1.high], [i, i], color="tab:blue")
        axes.plot(100 * f1.value, i, "o", color="tab:blue")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xlabel("F1 in %, process scores, crossfit thresholds [95% interval]")
    axes.legend(title="knows nothing of the text", loc="upper left", bbox_to_anchor=(0.3, 1))
    figure.savefig(ROOT / "docs" / "baselines.svg", metadata={"Date": None})


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
    options = parser.parse_args()
    draw_table()
    draw_baselines()
    if options.report:
        draw_report()
