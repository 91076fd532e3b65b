"""One page about one subject: its tables, its pictures, and every item, those first that it does worst on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.names import distinct
from prmbench.benchmarks.registry import load_measured
from prmbench.data.traces import Trace
from prmbench.errors import UserError
from prmbench.reports.leaderboard import data_names
from prmbench.reports.pages import environment
from prmbench.reports.verification import require_valid
from prmbench.results.store import write_atomically


def write_report(paths: Sequence[str | Path], output: Path, traces: Sequence[Trace] | None = None) -> Path:
    """Write the page of one subject.

    Args:
        paths: Its entries, of any benchmarks: entry files, or the folders of runs.
        output: The HTML page to write.
        traces: Problems and solutions, where they are at hand.

    Returns:
        The page.

    Raises:
        UserError: Entries of different subjects, or one that is not what its items say.
    """
    measured = [load_measured(path) for path in paths]
    first = measured[0].entry.subject
    for one in measured[1:]:
        if one.entry.subject.weights != first.weights:
            raise UserError(
                f"{one.path} is of '{one.name}', {measured[0].path} of '{first.name}' (other weights); a report is of one subject: "
                "use `prmbench compare` for two"
            )
    for one in measured:
        require_valid(one.path, traces)
    entries = [one.entry for one in measured]
    sections = [one.benchmark.section(one, traces) for one in measured]
    titles = distinct([section.title for section in sections], *data_names(entries))
    html = (
        environment()
        .get_template("report.html")
        .render(
            subject=first,
            sections=[replace(section, title=title) for section, title in zip(sections, titles, strict=True)],
            entries=entries,
            settings=[_settings(one) for one in measured],
            colour=step_colour,
            provenance=[_provenance(one) for one in measured],
        )
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, html)
    return output


RED, MIDDLE, GREEN = (190, 30, 45), (214, 208, 190), (0, 134, 126)
"""Far below the threshold, at it, and far above. The green has enough blue to be told from the red by the colour-blind."""


def step_colour(shade: float) -> str:
    """Choose the colour of a step, on one scale from red to green.

    Args:
        shade: From -1 (far below its threshold) to 1 (far above).

    Returns:
        A colour of CSS.
    """
    end = RED if shade < 0 else GREEN
    mixed = (round(middle + abs(shade) * (other - middle)) for middle, other in zip(MIDDLE, end, strict=True))
    return f"rgb({' '.join(map(str, mixed))})"


def _settings(one: Measured) -> list[str]:
    """How texts were sampled, in sentences; nothing where none were."""
    sampled = one.benchmark.about(one.entry)
    verdicts = (one.entry.subject.scoring or {}).get("generation")
    lines = [f"Completions: {sampled}."] if sampled else []
    if verdicts:
        lines.append(f"Verdicts: {', '.join(f'{name} {value}' for name, value in verdicts.items())}.")
    return lines


def _provenance(one: Measured) -> list[tuple[str, str]]:
    """What the figures can be traced to."""
    entry = one.entry
    rows = [
        ("benchmark", f"{entry.benchmark.name}, version {entry.benchmark.version}"),
        ("fingerprint", entry.benchmark.fingerprint),
        *((f"data of {name}", data.data_hash) for name, data in entry.benchmark.subsets.items()),
        *((f"weights: {role}", sha) for role, sha in entry.subject.weights.items()),
        *((f"setting: {name}", str(value)) for name, value in entry.benchmark.settings.items()),
        ("items", f"{entry.items.n:,} in {entry.items.file}, sha256 {entry.items.sha256}" if entry.items else "none"),
    ]
    if entry.provenance is not None:
        p = entry.provenance
        rows += [
            ("computed on", f"{p.engine}, {p.device}, {p.dtype}"),
            ("chat template", p.template_hash),
            ("versions", ", ".join(f"{name} {version}" for name, version in p.versions.items())),
            ("seed, resamples", f"{p.seed}, {p.n_resamples:,}"),
        ]
    return rows
