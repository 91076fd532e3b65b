"""Draw the table of an entry as an SVG, as a terminal shows it.

python scripts/readme_picture.py RUN_FOLDER OUT.svg
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console

from prmbench import recompute
from prmbench.benchmarks.processbench.table import render

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    console = Console(record=True, width=118, file=io.StringIO())
    console.print("$ prmbench eval --rm SmolLM2-135M --kind endo --subset gsm8k", highlight=False)
    console.print(render(recompute(args.run)), highlight=False)
    drawn = console.export_svg(title="prmbench")
    # No fonts from the net.
    args.out.write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL), encoding="utf-8")
