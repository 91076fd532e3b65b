"""Leaderboards: entries with one fingerprint share a table, ranked by paired tests; numbers that papers report stand apart."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from prmbench.benchmarks.processbench.metrics import BASELINES
from prmbench.benchmarks.processbench.schema import quoted
from prmbench.data.traces import Trace
from prmbench.errors import ArgumentError, UserError, argument, first_line, printable
from prmbench.reports.compare import FIGURES, AnyEntry, Measured, compare, load_measured, read_any_entry
from prmbench.reports.verification import require_valid
from prmbench.results.schema import ENTRY_NAME, Estimate, Record, what_it_is
from prmbench.results.store import slug
from prmbench.stats.paired import ranks_with_ties
from prmbench.stats.protocols import DIRECT

ENTRIES, REPORTED = "entries", "reported"
LEVEL = 0.05
TITLES = {"processbench": "ProcessBench", "best-of-n": "Best-of-N", "policy": "Policies"}
UNVERIFIED = "unverified: the figures were not computed again from the items."
WHY_REPORTED = (
    "Figures as a paper prints them. They cannot be compared with the tables above item by item: there are no items, so no paired "
    "test; the data may differ in version and size, thresholds were chosen another way (a coarse grid, on the test items), answers "
    "were checked by another verifier, and there are no intervals."
)


class ReportedRow(Record):
    """A line of a reported table."""

    backbone: str
    method: str
    values: list[float] = Field(description="one a column")


class ReportedTable(Record):
    """A table of a paper, as printed."""

    status: Literal["reported"]
    source: str = Field(description="the paper")
    table: str = Field(description="its number there")
    title: str
    benchmark: str = Field(description="processbench, best-of-n or policy")
    figure: str = Field(description="what the values are, with the unit")
    columns: list[str]
    rows: list[ReportedRow]


@dataclass(frozen=True)
class Cell:
    """A figure in %, with its interval where there is one; value None: not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, estimate: Estimate | None) -> Cell:
        """Of an estimate from 0 to 1."""
        if estimate is None or estimate.value is None:
            return cls(None)
        low, high = (None if x is None else 100 * x for x in (estimate.low, estimate.high))
        return cls(100 * estimate.value, low, high)


@dataclass(frozen=True)
class Line:
    """A line of a table. rank: None for what is no subject (baselines). kind: how it is scored. cells: one a column."""

    rank: int | None
    name: str
    kind: str
    cells: list[Cell]


@dataclass(frozen=True)
class Board:
    """One table. figure: the column that ranks. notes: sentences below it."""

    title: str
    benchmark: str
    miniature: bool
    about: str
    columns: list[str]
    lines: list[Line]
    notes: list[str]


def read_boards(folder: Path, *, n_resamples: int = 10_000, seed: int = 0, verify: bool = True) -> list[Board]:
    """Make every table of a leaderboard folder's ``entries/``.

    Subjects are ranked by the first column. Those that do not differ significantly (paired bootstrap, Holm over all pairs of the
    table, 5%) share a rank.

    Args:
        folder: The leaderboard folder.
        n_resamples: Number of bootstrap resamples.
        seed: Seed of folds and resamples.
        verify: Whether every figure is first computed again from its items; without, the tables say so.

    Raises:
        UserError: There are no entries, an entry's items are not its own, its figures are not what its items give, or a file is
            none (a link, a folder, a device).
    """
    measured = [load_measured(path) for path in entry_folders(folder)]
    groups: dict[tuple[str, str], list[Measured]] = {}
    for one in measured:
        key = (one.entry.benchmark.name, one.entry.benchmark.fingerprint)
        groups.setdefault(key, []).append(one)
    order = list(TITLES)
    ranked = sorted(groups.items(), key=lambda g: (g[1][0].entry.miniature, order.index(g[0][0]), -len(g[1]), g[0][1]))
    for _, group in ranked:
        _check_group(group, seed)
    if verify:
        for one in measured:
            require_valid(one.path)
    boards = [_board(group, n_resamples, seed) for _, group in ranked]
    return boards if verify else [dataclasses.replace(board, notes=[*board.notes, UNVERIFIED]) for board in boards]


def entry_folders(folder: Path) -> list[Path]:
    """Find the folders of a leaderboard's entries, in the order of their names.

    Args:
        folder: The leaderboard folder.

    Raises:
        UserError: There are none, or one is a link or holds what is no plain file.
    """
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


def refuse_links(path: Path) -> None:
    """Refuse a link, which leads out of the folder that it lies in.

    Args:
        path: The path.

    Raises:
        UserError: It is a link.
    """
    if path.is_symlink():
        raise UserError(f"{path}: is a link; put the file or folder itself there")


def require_plain_file(path: Path) -> None:
    """Refuse what is no file of its own: a link, a folder, a pipe, a device.

    Args:
        path: The path.

    Raises:
        UserError: It is no plain file.
    """
    refuse_links(path)
    if not path.is_file():
        raise UserError(f"{path}: {'is no plain file' if path.exists() else 'no such file'}; put the file itself there")


def read_reported(folder: Path) -> list[ReportedTable]:
    """Read the reported tables of a leaderboard folder, in the order of their numbers.

    Args:
        folder: The leaderboard folder.

    Raises:
        UserError: A table is broken; the message names the file and the key.
    """
    found = []
    for path in (folder / REPORTED).glob("*.json"):
        require_plain_file(path)
        try:
            table = ReportedTable.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise UserError(f"{path}: {where}: {first_line(ValueError(first['msg']))}") from None
        for i, row in enumerate(table.rows):
            if len(row.values) != len(table.columns):
                raise UserError(
                    f"{path}: rows.{i} has {len(row.values)} values, expected {len(table.columns)}, one a column"
                )
        found.append(table)
    return sorted(found, key=lambda t: (t.source, int(t.table) if t.table.isdigit() else 0, t.table))


def add(
    run: Path, folder: Path, *, name: str | None = None, replace: bool = False, traces: Sequence[Trace] | None = None
) -> Path:
    """Verify a run's entry and copy it, with its items, into a leaderboard folder.

    Args:
        run: The run's folder, or its entry file.
        folder: The leaderboard folder.
        name: Name of the entry's folder there; None takes the subject's name.
        replace: Whether an entry of that name may be gone over.
        traces: The data, where they are at hand; labels are then checked against them.

    Returns:
        The folder that was made.

    Raises:
        ArgumentError: The name holds characters that cannot be printed.
        UserError: The entry is not what its items say, a file is none (a link, a folder, a device), or the name is taken by another
            entry.
    """
    if name is not None and not name.isprintable():
        raise ArgumentError("name", printable(name), "holds characters that cannot be printed; take them out")
    # Only files of the run itself are copied, and only into the board itself.
    files = entry_files(run)
    require_valid(run, traces)
    one = load_measured(run)
    target = folder / ENTRIES / slug(name or one.name)
    for path in (folder / ENTRIES, target, *(target / file.name for file in files)):
        refuse_links(path)
    if target.exists() and not replace:
        same = all((target / f.name).exists() and (target / f.name).read_bytes() == f.read_bytes() for f in files)
        if not same:
            raise UserError(
                f"{target}: another entry has this name; pass another {argument('name')}, or {argument('replace')} to go over it"
            )
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, target / (ENTRY_NAME if file == one.path else file.name))
    return target


def _check_group(group: list[Measured], seed: int) -> None:
    first = group[0].entry
    name = first.benchmark.name
    for one in group:
        used = one.entry.provenance.seed if one.entry.provenance else seed
        if name == "processbench" and used != seed:
            raise UserError(
                f"{one.path}: its folds are of seed {used}, this table's of {seed}: with another seed F1 is another; compute it "
                f"again from its items with {argument('seed', seed)}"
            )
        if one.entry.miniature != first.miniature:
            raise UserError(
                f"{one.path} and {group[0].path}: are of the same data, but only one is marked as miniature"
            )


def _board(group: list[Measured], n_resamples: int, seed: int) -> Board:
    first = group[0].entry
    name = first.benchmark.name
    columns = board_columns([one.entry for one in group])
    pairs = compare(group, n_resamples=n_resamples, seed=seed) if len(group) > 1 else []
    differs = [[False] * len(group) for _ in group]
    for (i, j), pair in zip(itertools.combinations(range(len(group)), 2), pairs, strict=True):
        differs[i][j] = differs[j][i] = pair.p_holm < LEVEL
    cells = [board_cells(one.entry, columns) for one in group]
    ranks = ranks_with_ties([row[0].value or 0.0 for row in cells], differs)
    lines = [
        Line(rank, one.name, what_it_is(one.entry.subject), row)
        for rank, one, row in zip(ranks, group, cells, strict=True)
    ]
    lines.sort(key=lambda line: (line.rank or 0, -(line.cells[0].value or 0.0), line.name))
    if name == "processbench":
        lines += [
            Line(
                None,
                f"{kind} only" if kind != "random" else "random score",
                "baseline",
                _baseline(first, kind, columns),
            )
            for kind in BASELINES
        ]
    return Board(TITLES[name], name, first.miniature, _about(first), columns, lines, _notes(group))


def board_columns(entries: Sequence[AnyEntry]) -> list[str]:
    """Columns of a table of entries of one fingerprint; the first ranks."""
    entry = entries[0]
    name, metrics, subsets = entry.benchmark.name, entry.metrics, list(entry.benchmark.subsets)
    if name == "processbench":
        others = list(dict.fromkeys(p for one in entries for p in list(one.metrics.protocols)[1:]))
        return ["F1", *(subsets if len(subsets) > 1 else []), *(f"F1 {p}" for p in others), "F1 oracle"]
    if name == "policy":
        return [
            f"avg@{metrics.n}",
            *(subsets if len(subsets) > 1 else []),
            f"maj@{metrics.n}",
            f"pass@{metrics.n}",
            "truncated",
        ]
    sizes = sorted({n for one in entries for n in one.metrics.sizes}, reverse=True)
    return [*(f"@{n}" for n in sizes), f"majority @{sizes[0]}", f"pass @{sizes[0]}", "mean"]


def board_cells(entry: AnyEntry, columns: Sequence[str]) -> list[Cell]:
    """An entry's figures in these columns."""
    metrics, name = entry.metrics, entry.benchmark.name
    if name == "processbench":
        return [Cell.of(_processbench(next(iter(metrics.protocols.values())), metrics.protocols, c)) for c in columns]
    if name == "policy":
        mean = {f"avg@{metrics.n}": "average", f"maj@{metrics.n}": "majority", "truncated": "truncated"}
        return [
            Cell.of(metrics.subsets[c].average if c in metrics.subsets else metrics.mean.get(mean.get(c, c)))
            for c in columns
        ]
    own = metrics.mean.scores[metrics.own]
    found = []
    for column in columns:
        kind, _, size = column.rpartition("@")
        where = own if kind == "" else metrics.mean.baselines[kind.strip() or column]
        sizes = where if size in where else {size: {}}
        if column == "mean":
            sizes, size = metrics.mean.baselines["mean"], str(max(metrics.sizes))
        found.append(Cell.of(sizes[size].get("expected")))
    return found


def _processbench(main: Any, protocols: dict[str, Any], column: str) -> Estimate | None:
    if column == "F1":
        found: Estimate | None = quoted(main.mean)
        return found
    if column == "F1 oracle":
        best: Estimate | None = main.mean.get("oracle")
        return best
    if column.startswith("F1 "):
        other = protocols.get(column.removeprefix("F1 "))
        return None if other is None else quoted(other.mean)
    here = quoted(main.subsets[column].policies)
    return here.f1 if here else None


def _baseline(entry: AnyEntry, kind: str, columns: list[str]) -> list[Cell]:
    result = entry.metrics.baselines[kind]
    return [
        Cell(None) if c.startswith("F1 ") and c != "F1 oracle" else Cell.of(_processbench(result, {}, c))
        for c in columns
    ]


def _about(entry: AnyEntry) -> str:
    benchmark = entry.benchmark
    parts = [f"{name}: {data.n_items:,}" for name, data in benchmark.subsets.items()]
    unit = "traces" if benchmark.name == "processbench" else "problems"
    text = f"{', '.join(parts)} {unit}"
    if benchmark.limit is not None:
        text += f"; only {benchmark.limit:,} of each, a try, not a result to quote"
    if benchmark.name == "policy":
        s = benchmark.settings["sampling"]
        text += (
            f"; temperature {s['temperature']:g}, top-p {s['top_p']:g}, top-k {s['top_k'] or 'off'}, up to "
            f"{s['max_new_tokens']:,} tokens, prompt template '{benchmark.settings['prompt']}'"
        )
    return f"{text}; fingerprint {benchmark.fingerprint[:12]}"


def _notes(group: list[Measured]) -> list[str]:
    name = group[0].entry.benchmark.name
    notes = [
        f"Ranked by {FIGURES[name]}; subjects share a rank unless the paired difference is significant (bootstrap over the same "
        "items, Holm over all pairs of the table, 5%)."
    ]
    if name == "processbench":
        protocols = sorted({one.protocol for one in group})
        notes.append(
            f"F1 in %, step score: {', '.join(protocols)}; thresholds by crossfit. F1 oracle chooses on the test items."
        )
        if DIRECT in protocols:
            notes.append(f"{DIRECT}: a critic names the first wrong step itself; there is no threshold.")
        if any(one.entry.subject.unverified for one in group):
            notes.append("unverified: how it is scored was not checked against numbers that its authors produced.")
    else:
        notes.append("In %, 95% intervals over problems.")
    return notes


def as_json(boards: list[Board], reported: list[ReportedTable]) -> str:
    """Everything, for scripts."""
    from dataclasses import asdict

    return json.dumps({"boards": [asdict(b) for b in boards], "reported": [r.model_dump() for r in reported]}, indent=2)
