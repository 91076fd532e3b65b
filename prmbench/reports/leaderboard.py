"""Leaderboards: entries with one fingerprint share a table, ranked by paired tests."""

from __future__ import annotations

import dataclasses
import filecmp
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from prmbench.benchmarks.base import Measured
from prmbench.benchmarks.differences import compare_outcomes
from prmbench.benchmarks.groups import grouped
from prmbench.benchmarks.names import distinct
from prmbench.benchmarks.parts import Cell
from prmbench.benchmarks.registry import BENCHMARKS, load_measured, read_any_entry
from prmbench.benchmarks.tables import new_table, safe, shown
from prmbench.benchmarks.views import as_text, frame
from prmbench.data.traces import Trace
from prmbench.errors import UserError, argument, printable
from prmbench.reports.reported import ReportedTable
from prmbench.reports.verification import require_valid
from prmbench.results.plain_files import refuse_links, require_plain_file
from prmbench.results.schema import ENTRY_NAME, Entry, check_resamples, what_it_is
from prmbench.results.store import check_name, slug
from prmbench.stats.paired import ranks_with_ties

ENTRIES = "entries"
LEVEL = 0.05
UNVERIFIED = "unverified: the figures were not computed again from the items."


@dataclass(frozen=True)
class BoardRow:
    """A row of a table.

    Attributes:
        rank: Its rank; None for what is no subject (baselines).
        name: The subject's name.
        kind: How it is scored.
        cells: A figure for each column.
        unverified: Whether it is scored by a preset that was not checked against its authors' numbers.
    """

    rank: int | None
    name: str
    kind: str
    cells: list[Cell]
    unverified: bool = False


@dataclass(frozen=True, repr=False)
class Board:
    """One table.

    Attributes:
        title: The benchmark's title.
        benchmark: The benchmark's name.
        miniature: Whether it is of the synthetic world.
        about: On what data, with what settings.
        columns: Headings of the figures; the first one ranks.
        lines: Its rows.
        notes: Sentences below it.
    """

    title: str
    benchmark: str
    miniature: bool
    about: str
    columns: list[str]
    lines: list[BoardRow]
    notes: list[str]

    def table(self, width: int = 160) -> str:
        """Return the table as text.

        Args:
            width: Columns of the text.
        """
        shown_table = new_table(self.title, "", ["subject", *self.columns])
        for line in self.lines:
            cells = [escape(shown(cell)) for cell in line.cells]
            shown_table.add_row(str(line.rank or ""), safe(line.name), *cells)
        return as_text(shown_table, width)

    def to_frame(self) -> Any:
        """Return a frame of pandas: rank, subject, kind, and each column's value, low and high.

        Raises:
            UserError: pandas is not installed.
        """
        rows = []
        for line in self.lines:
            row: dict[str, Any] = {"rank": line.rank, "subject": line.name, "kind": line.kind}
            for title, cell in zip(self.columns, line.cells, strict=True):
                row |= {title: cell.value, f"{title} low": cell.low, f"{title} high": cell.high}
            rows.append(row)
        return frame(rows)

    def __repr__(self) -> str:
        mark = " (miniature)" if self.miniature else ""
        return f"<Board {printable(self.title)}{mark}: {len(self.lines)} rows; .table() and .to_frame() show it>"


def read_boards(folder: Path, *, n_resamples: int = 10_000, seed: int = 0, verify: bool = True) -> list[Board]:
    """Make every table of a leaderboard's entries.

    Subjects are ranked by the first column. Those that do not differ significantly (paired bootstrap, Holm over all pairs of the
    table, 5%) share a rank.

    Args:
        folder: The leaderboard's folder, which holds ``entries/``.
        n_resamples: Bootstrap resamples.
        seed: Seed of the resamples, and of crossfit's folds.
        verify: Whether every figure is first computed again from its items; without, the tables say so.

    Raises:
        UserError: There are no entries, an entry's items are not its own, its figures are not what its items give, or a file is
            none (a link, a folder, a device).
    """
    check_resamples(n_resamples)
    found = map(load_measured, entry_folders(folder))
    groups = grouped(found, lambda one: (one.benchmark.name, one.entry.benchmark.fingerprint))
    order = BENCHMARKS.names()
    ranked = sorted(groups.items(), key=lambda g: (g[1][0].entry.miniature, order.index(g[0][0]), -len(g[1]), g[0][1]))
    ranked = [(key, group) for key, group in ranked if group[0].benchmark.columns([one.entry for one in group])]
    for _, group in ranked:
        _check_alike(group, seed)
        for one in group if verify else ():
            require_valid(one.path)
    boards = [_board(group, n_resamples, seed) for _, group in ranked]
    for miniature in (False, True):  # pages mark those of the miniature themselves
        mine = [i for i, board in enumerate(boards) if board.miniature is miniature]
        titles = distinct([boards[i].title for i in mine], *data_names([ranked[i][1][0].entry for i in mine]))
        for i, title in zip(mine, titles, strict=True):
            boards[i] = dataclasses.replace(boards[i], title=title)
    return boards if verify else [dataclasses.replace(board, notes=[*board.notes, UNVERIFIED]) for board in boards]


def entry_folders(folder: Path) -> list[Path]:
    """Find the folders of a leaderboard's entries, in the order of their names.

    Args:
        folder: The leaderboard folder.

    Raises:
        UserError: There are none, or one is a link or holds what is no plain file.
    """
    refuse_links(folder / ENTRIES)
    found = sorted(path.parent for path in (folder / ENTRIES).glob(f"*/{ENTRY_NAME}"))
    if not found:
        raise UserError(
            f"{folder / ENTRIES}: holds no entries; add runs to a leaderboard folder, and name it with {argument('folder')}"
        )
    for one in found:
        refuse_links(one)
        entry_files(one)
    return found


def entry_files(run: Path) -> list[Path]:
    """Find the files of an entry: itself, its items, and what is known of its subject's training.

    Args:
        run: The run's folder, or its entry file.

    Raises:
        UserError: There is no entry, it has no items, or a file is none (a link, a folder, a device).
    """
    file = run / ENTRY_NAME if run.is_dir() else run
    require_plain_file(file)
    entry = read_any_entry(file)
    if entry.items is None:
        raise UserError(f"{file}: field 'items' is empty: a measured entry has items")
    files = [file, file.parent / Path(entry.items.file).name, *file.parent.glob("training.json")]
    for one in files:
        require_plain_file(one)
    return files


def add(
    run: Path, folder: Path, *, name: str | None = None, replace: bool = False, traces: Sequence[Trace] | None = None
) -> Path:
    """Verify a run's entry and copy it, with its items, into a leaderboard.

    Args:
        run: The run's folder, or its entry file.
        folder: The leaderboard's folder.
        name: The name of the entry's folder there; None: the subject's name, and the benchmark's except for ProcessBench. Where an
            entry of other data has that name, a part of the fingerprint follows.
        replace: Whether an entry of that name is replaced.
        traces: The data, where they are at hand, to check labels against.

    Returns:
        The folder that was made.

    Raises:
        ArgumentError: The name holds characters that cannot be printed.
        UserError: The entry is not what its items say, its benchmark has no table, a file is none (a link, a folder, a device), or
            the name is taken by another entry.
    """
    check_name(name)
    # Only files of the run itself are copied, and only into the board itself.
    files = entry_files(run)
    require_valid(run, traces)
    one = load_measured(run)
    if not one.benchmark.columns([one.entry]):
        raise UserError(
            f"{one.path}: entries of {one.benchmark.name} are compared, not ranked: there is no table of them"
        )
    target = folder / ENTRIES / slug(name or _default_name(one, folder))
    for path in (folder / ENTRIES, target, *(target / file.name for file in files)):
        refuse_links(path)
    if target.exists() and not replace:
        same = all((target / f.name).exists() and filecmp.cmp(target / f.name, f, shallow=False) for f in files)
        if not same:
            raise UserError(
                f"{target}: another entry has this name; pass another {argument('name')}, or {argument('replace')} to go over it"
            )
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, target / (ENTRY_NAME if file == one.path else file.name))
    return target


def _default_name(one: Measured, folder: Path) -> str:
    """The subject's name, the benchmark's unless it is ProcessBench, and a part of the fingerprint where other data have that."""
    benchmark = one.entry.benchmark
    name = one.name if benchmark.name == "processbench" else f"{one.name}-{benchmark.name}"
    there = folder / ENTRIES / slug(name) / ENTRY_NAME
    if there.is_file() and read_any_entry(there).benchmark.fingerprint != benchmark.fingerprint:
        return f"{name}-{benchmark.fingerprint[:8]}"
    return name


def _board(group: list[Measured], n_resamples: int, seed: int) -> Board:
    """The table of entries of one fingerprint."""
    first, benchmark = group[0].entry, group[0].benchmark
    columns = benchmark.columns([one.entry for one in group])

    # Which subjects differ, and the ranks that follow.
    pairs = compare_outcomes(group, n_resamples=n_resamples, seed=seed).pairs if len(group) > 1 else []
    differs = [[False] * len(group) for _ in group]
    for (i, j), pair in zip(itertools.combinations(range(len(group)), 2), pairs, strict=True):
        differs[i][j] = differs[j][i] = pair.p_holm < LEVEL
    cells = [[Cell.of(column.estimate(one.entry), column.unit) for column in columns] for one in group]
    sign = 1 if columns[0].higher_is_better else -1
    ranks = ranks_with_ties([sign * (row[0].value or 0.0) for row in cells], differs)

    # Subjects by rank, then what is no subject.
    lines = [
        BoardRow(rank, one.name, what_it_is(one.entry.subject), row, bool(one.entry.subject.unverified))
        for rank, one, row in zip(ranks, group, cells, strict=True)
    ]
    lines.sort(key=lambda line: (line.rank or 0, -sign * (line.cells[0].value or 0.0), line.name))
    for name, estimates in benchmark.baselines(first, columns):
        row = [Cell.of(one, column.unit) for one, column in zip(estimates, columns, strict=True)]
        lines.append(BoardRow(None, name, "baseline", row))
    return Board(
        title=benchmark.title,
        benchmark=benchmark.name,
        miniature=first.miniature,
        about=_about(group[0]),
        columns=[column.title for column in columns],
        lines=lines,
        notes=[_ranked_by(benchmark.figure), *benchmark.notes(group)],
    )


def _check_alike(group: Sequence[Measured], seed: int) -> None:
    """Refuse entries whose figures are of other folds, or of which only some are marked as miniature."""
    for one in group:
        used = one.entry.provenance.seed if one.entry.provenance else seed
        if "thresholds" in one.benchmark.choices and used != seed:
            raise UserError(
                f"{one.path}: its folds are of seed {used}, this table's of {seed}: with another seed F1 is another; compute it "
                f"again from its items with {argument('seed', seed)}"
            )
        if one.entry.miniature != group[0].entry.miniature:
            raise UserError(
                f"{one.path} and {group[0].path}: are of the same data, but only one is marked as miniature"
            )


def _ranked_by(figure: str) -> str:
    return (
        f"Ranked by {figure}; subjects share a rank unless the paired difference is significant (bootstrap over the same items, "
        "Holm over all pairs of the table, 5%)."
    )


def _about(measured: Measured) -> str:
    benchmark = measured.entry.benchmark
    sizes = ", ".join(f"{name}: {data.n_items:,}" for name, data in benchmark.subsets.items())
    parts = [f"{sizes} {measured.benchmark.unit}"]
    if benchmark.limit is not None:
        parts.append(f"only {benchmark.limit:,} of each, a try, not a result to quote")
    if more := measured.benchmark.about(measured.entry):
        parts.append(more)
    return "; ".join([*parts, f"fingerprint {benchmark.fingerprint[:12]}"])


def data_names(entries: Sequence[Entry[Any]]) -> tuple[list[str], list[str]]:
    """What tells entries of one benchmark apart by their data: the names of their subsets, and a part of their fingerprints.

    Args:
        entries: The entries.
    """
    names = [", ".join(one.benchmark.subsets) for one in entries]
    return names, [one.benchmark.fingerprint[:12] for one in entries]


def as_json(boards: list[Board], reported: list[ReportedTable]) -> str:
    """All tables, for scripts.

    Args:
        boards: The measured tables.
        reported: The reported tables.
    """
    return json.dumps({"boards": [asdict(b) for b in boards], "reported": [r.model_dump() for r in reported]}, indent=2)
