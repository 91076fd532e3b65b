"""Files of records, written so that a file that is there is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def write_lines(file: Path, lines: Iterable[str]) -> tuple[int, str]:
    """Write lines as they come, into a file beside the wanted one, which takes its place at the end.

    Args:
        file: The file. Where there are no lines, it is left as it is.
        lines: The lines, with their ends.

    Returns:
        The number of lines, and the sha256 (hex) of the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part, written, kept = file.with_name(f"{file.name}.part"), hashlib.sha256(), 0
    try:
        with part.open("wb") as out:
            for line in lines:
                out.write(line.encode())
                written.update(line.encode())
                kept += 1
        if kept:
            part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return kept, written.hexdigest()
