"""Files of JSON lines that a run writes as it goes, and that a kill may have cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def whole_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a file that a kill may have cut: reading ends at the first line that is not whole.

    Args:
        file: The file; it need not exist.

    Yields:
        The rows.
    """
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    for line in text.splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            return
        if not isinstance(row, dict) or not line.endswith("\n"):
            return
        yield row
