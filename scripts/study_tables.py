"""What the pages of the studies have in common: Markdown tables, means over seeds with their intervals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prmbench.stats.seeds import seed_mean
from prmbench.studies.replicate.claims import Claim
from prmbench.studies.replicate.judge import count_verdicts, judge
from prmbench.studies.replicate.work import Results


def with_interval(values: Sequence[float], digits: int = 1) -> str:
    """Mean over seeds with its 95% interval; nothing where a seed has no figure."""
    if not len(values) or np.isnan(values).any():
        return ""
    found = seed_mean(values)
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def claims_table(claims: Sequence[Claim], found: Results) -> str:
    """How many claims came out how, and each of them, as Markdown."""
    judged = [one for claim in claims if (one := judge(claim, found)) is not None]
    counts = count_verdicts([j.verdict for j in judged])
    rows = ([j.claim.where, j.claim.text, j.shown, j.verdict] for j in judged)
    return f"{counts}.\n\n" + table(["paper", "claim", "difference", "here"], rows)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A JSON array, one row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
