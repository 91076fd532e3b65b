from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import support
from typer.testing import CliRunner

import prmbench
from prmbench.benchmarks.parts import Cell
from prmbench.cli.app import app
from prmbench.data.traces import load_traces
from prmbench.engines.sampling import SamplingParams
from prmbench.errors import ArgumentError, UserError
from prmbench.reports.leaderboard import UNVERIFIED, Board, BoardRow, add, read_boards
from prmbench.reports.pages import as_html, as_markdown, build
from prmbench.reports.reported import ReportedRow, ReportedTable, read_reported
from prmbench.reports.subject_page import write_report
from prmbench.reports.verification import verify_entry
from prmbench.resources import resource_folder

QUICK = {"n_resamples": 50}


@pytest.fixture(scope="module")
def made(tiny, tiny_tuned, tmp_path_factory):
    """A leaderboard of two subjects on one data set and one on another; and the first data set."""
    root = tmp_path_factory.mktemp("board")
    first, second = support.write_traces(root / "one.jsonl", 40, 0), support.write_traces(root / "two.jsonl", 40, 3)
    for name, rm, data in (("a", tiny_tuned, first), ("b <b>&|*", tiny, first), ("c", tiny_tuned, second)):
        run = root / "runs" / name[0]
        prmbench.evaluate(rm, reference=tiny, objective="dpo", data=data, output=run, name=name, **QUICK)
        add(run, root / "board")
    shutil.copytree(resource_folder("leaderboards") / "reported", root / "board" / "reported")
    return root / "board", first


@pytest.fixture
def entry(made, tmp_path):
    """A copy of one entry, to tamper with."""
    return shutil.copytree(made[0] / "entries" / "a", tmp_path / "a")


def change(folder, edit):
    file = folder / "entry.json"
    fields = json.loads(file.read_text())
    edit(fields)
    file.write_text(json.dumps(fields))


def test_entries_of_one_fingerprint_share_a_table(made):
    boards = read_boards(made[0], n_resamples=200)
    assert [sorted(line.name for line in board.lines if line.rank) for board in boards] == [["a", "b <b>&|*"], ["c"]]
    first = boards[0]
    assert first.columns == ["F1", "F1 prefix", "F1 process_mean", "F1 prefix_mean", "F1 oracle"]
    assert [line.name for line in first.lines if line.rank is None] == ["random score", "position only", "length only"]
    ranked = [line for line in first.lines if line.rank]
    fields = json.loads((made[0] / "entries" / "a" / "entry.json").read_text())
    a = next(line for line in ranked if line.name == "a")
    assert a.cells[0].value == pytest.approx(
        100 * fields["metrics"]["protocols"]["process"]["mean"]["crossfit"]["value"]
    )
    # Forty traces tell two random models apart only by luck: with ties, both are first.
    assert {line.rank for line in ranked} <= {1, 2}


@pytest.mark.slow
def test_an_untouched_entry_is_what_its_items_say(made):
    board, data = made
    for folder in (board / "entries").iterdir():
        assert verify_entry(folder) == []
    assert verify_entry(board / "entries" / "a", load_traces(data)) == []
    for folder in (resource_folder("leaderboards") / "entries").iterdir():
        assert verify_entry(folder) == [], folder


def test_a_changed_figure_is_named(entry):
    def better(fields):
        fields["metrics"]["protocols"]["process"]["mean"]["crossfit"]["value"] = 0.9

    change(entry, better)
    (found,) = verify_entry(entry)
    assert "field 'metrics.protocols.process.mean.crossfit.value' is 0.9; its items give" in found


def test_a_changed_label_is_named(entry, made):
    """Even when the entry's own hash of the items is made to fit: the figures do not, and the data say which."""
    items = entry / "items.jsonl"
    lines = [json.loads(line) for line in items.read_text().splitlines()]
    changed = next(line for line in lines if line["label"] == 0)
    changed["label"] = -1
    items.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = verify_entry(entry, load_traces(made[1]))
    assert any("field 'items.sha256' of the entry is" in f for f in found)
    change(entry, lambda fields: fields["items"].update(sha256=hashlib.sha256(items.read_bytes()).hexdigest()))
    found = verify_entry(entry, load_traces(made[1]))
    assert f"item '{changed['id']}' of one has label -1, the data 0" in found[0]
    assert any("field 'benchmark.subsets.one.counts.error' is" in f for f in found)


def test_a_missing_and_a_doubled_item(entry):
    items = entry / "items.jsonl"
    lines = items.read_text().splitlines(keepends=True)
    items.write_text("".join(lines[:-1]))
    found = verify_entry(entry)
    assert any("field 'items.n' of the entry is 40, of the file 39" in f for f in found)
    assert any("field 'benchmark.subsets.one.data_hash'" in f for f in found)
    items.write_text("".join([*lines, lines[0]]))
    with pytest.raises(UserError, match="is there twice"):
        verify_entry(entry)


def test_adding_verifies(entry, made, tmp_path):
    board = tmp_path / "board"
    target = add(entry, board, name="mine")
    assert verify_entry(target) == []
    add(entry, board, name="mine")  # the same again is nothing new
    other = made[0] / "entries" / "c"
    with pytest.raises(UserError, match="another entry has this name"):
        add(other, board, name="mine")
    add(other, board, name="mine", replace=True)
    change(entry, lambda fields: fields["metrics"]["protocols"]["process"]["mean"]["crossfit"].update(value=0.9))
    with pytest.raises(UserError, match="its items give"):
        add(entry, board, name="better")
    assert not (board / "entries" / "better").exists()


def test_an_entry_with_items_is_measured(entry):
    change(entry, lambda fields: fields.update(status="reported"))
    (found,) = verify_entry(entry)
    assert "field 'status' is 'reported'" in found


def test_other_folds_and_mixed_marks_share_no_table(made, entry, tmp_path):
    board = shutil.copytree(made[0], tmp_path / "board")
    for edit, message in (
        (lambda fields: fields["provenance"].update(seed=7), "its folds are of seed 7, this table's of 0"),
        (lambda fields: fields.update(miniature=True), "only one is marked as miniature"),
    ):
        shutil.rmtree(board / "entries" / "a")
        shutil.copytree(entry, board / "entries" / "a")
        change(board / "entries" / "a", edit)
        with pytest.raises(UserError, match=message):
            read_boards(board, n_resamples=20)


def test_a_name_is_no_path(entry, tmp_path):
    assert add(entry, tmp_path / "board", name="..").parent == tmp_path / "board" / "entries"
    assert list((tmp_path / "board").iterdir()) == [tmp_path / "board" / "entries"]


def test_policies_and_best_of_n(tiny, tmp_path):
    problems = tmp_path / "p.jsonl"
    problems.write_text(
        "".join(json.dumps({"id": f"p{i}", "problem": f"Say {i}.", "answer": "7"}) + "\n" for i in range(6))
    )
    policy = tmp_path / "policy"
    params = SamplingParams(max_new_tokens=5)
    prmbench.measure_policy(
        str(tiny), subsets=[str(problems)], output=policy, name="tiny", n=2, params=params, n_resamples=20
    )
    bon = tmp_path / "bon"
    prmbench.rerank(tiny, [policy / "p"], reference=tiny, objective="dpo", output=bon, name="rm", n_resamples=20)
    board = tmp_path / "board"
    for run, name in ((policy, "tiny-policy"), (bon, "rm-best-of-n")):
        assert add(run, board) == board / "entries" / name
        assert verify_entry(board / "entries" / name) == []
    titles = {b.title: b for b in read_boards(board, n_resamples=50)}
    assert titles["Policies"].columns == ["avg@2", "maj@2", "pass@2", "truncated"]
    assert titles["Best-of-N"].columns == ["@2", "@1", "majority @2", "pass @2", "random choice"]
    for b in titles.values():
        assert all(cell.value is not None for cell in b.lines[0].cells)


def test_what_strangers_wrote_is_escaped(made):
    boards = read_boards(made[0], n_resamples=20)
    reported = read_reported(made[0])
    html, markdown = as_html(boards, reported), as_markdown(boards, reported)
    assert "<b>&" not in html
    assert "b &lt;b&gt;&amp;|*" in html
    assert "b &lt;b&gt;&\\|\\*" in markdown
    assert "http" not in html.replace("http-equiv", "")  # nothing is fetched
    for line in markdown.splitlines():
        if line.startswith("| 1 |"):
            assert line.replace("\\|", "").count("|") == line.replace("\\|", "").count(" | ") + 2


HOSTILE = "a\n\\input{/etc/passwd} % & | `x` <img src=x onerror=y> [b](http://c) \x1b[31m\r\x9b"


def test_hostile_text_in_every_field_of_a_board():
    """Each text field that comes from an entry or a reported table, in each medium."""
    cell = Cell(50.0, 40.0, 60.0)
    line = BoardRow(1, HOSTILE, HOSTILE, [cell])
    board = Board(HOSTILE, "processbench", False, HOSTILE, [HOSTILE], [line], [HOSTILE])
    row = ReportedRow(backbone=HOSTILE, method=HOSTILE, values=[1.0])
    texts = dict.fromkeys(("source", "table", "title", "benchmark", "figure"), HOSTILE)
    table = ReportedTable(status="reported", columns=[HOSTILE], rows=[row], **texts)
    markdown, html = as_markdown([board], [table]), as_html([board], [table])
    for bad in ("\x1b", "\x9b", "<img", "\r", "a\n"):
        assert bad not in markdown, bad
    for bad in ("<img", "\x1b", "\x9b"):
        assert bad not in html, bad
    plain = as_markdown(
        [replace(board, title="x", about="x", columns=["x"], lines=[BoardRow(1, "x", "x", [cell])], notes=["x"])], []
    )
    assert as_markdown([board], []).count("\n") == plain.count("\n")  # no line and no cell more
    rows = [text for text in as_markdown([board], []).splitlines() if text.startswith("|")]
    assert {text.replace("\\|", "").count("|") for text in rows} == {5}


def test_figures_that_the_items_do_not_give_are_not_shown(made, tmp_path):
    board = shutil.copytree(made[0], tmp_path / "board")

    def better(fields):
        fields["metrics"]["protocols"]["process"]["mean"]["crossfit"]["value"] = 0.99

    change(board / "entries" / "a", better)
    with pytest.raises(UserError, match=r"crossfit\.value' is 0\.99; its items give"):
        build(board, n_resamples=20)
    markdown, page = build(board, n_resamples=20, verify=False)
    assert UNVERIFIED in markdown.read_text()
    assert UNVERIFIED in page.read_text()
    assert UNVERIFIED not in as_markdown(read_boards(made[0], n_resamples=20), [])


@pytest.mark.parametrize("file", ["entry.json", "items.jsonl", "training.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_plain_files_are_added_and_shown(entry, tmp_path, file, kind):
    def spoil(path):
        kept = tmp_path / f"kept-{path.parent.name}"
        if path.exists():
            path.rename(kept)
        else:
            kept.write_text("{}")
        if kind == "link":
            path.symlink_to(kept)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()

    target = add(entry, tmp_path / "board", name="mine")
    spoil(entry / file)
    with pytest.raises(UserError, match=f"{file}: is (a link|no plain file)"):
        add(entry, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    spoil(target / file)
    with pytest.raises(UserError, match=f"{file}: is (a link|no plain file)"):
        read_boards(tmp_path / "board", n_resamples=20)


def test_nothing_is_written_through_a_link(entry, tmp_path):
    outside = tmp_path / "outside"
    (outside / "mine").mkdir(parents=True)
    for link, target in (("entries/mine", outside / "mine"), ("entries", outside)):
        board = tmp_path / link.replace("/", "-")
        (board / link).parent.mkdir(parents=True)
        (board / link).symlink_to(target)
        with pytest.raises(UserError, match="is a link"):
            add(entry, board, name="mine", replace=True)
    assert list(outside.rglob("*")) == [outside / "mine"]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\udcff"])
def test_a_name_that_cannot_be_printed_is_refused(entry, tmp_path, name):
    with pytest.raises(ArgumentError, match="`name=a.*cannot be printed") as error:
        add(entry, tmp_path / "board", name=name)
    assert str(error.value).isprintable()


def test_a_pipe_among_reported_tables(made, tmp_path):
    board = shutil.copytree(made[0], tmp_path / "board")
    os.mkfifo(board / "reported" / "table-99.json")
    with pytest.raises(UserError, match=r"table-99\.json: is no plain file"):
        read_reported(board)


@pytest.mark.parametrize("part", ["entries", "reported"])
def test_a_part_of_a_board_that_is_a_link(made, tmp_path, part):
    board = shutil.copytree(made[0], tmp_path / "board")
    (board / part).rename(tmp_path / "outside")
    (board / part).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=f"{part}: is a link"):
        build(board, n_resamples=20)


class _Rows(HTMLParser):
    """Text of the cells of each table's visible rows."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.cell, self.row = [], None, None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "tbody":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.row = [] if "hidden" not in dict(attrs) else None
        elif tag == "td" and self.row is not None:
            self.cell = ""

    def handle_endtag(self, tag):
        if tag == "td" and self.cell is not None:
            self.row.append(self.cell.strip())
            self.cell = None
        elif tag == "tr" and self.row:
            self.tables[-1].append(self.row)
            self.row = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def in_browser(chromium, page, script, tmp_path):
    """The tables of a page after a script ran in it, in a real browser."""
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    return _Rows(support.browse(chromium, copy, tmp_path / "profile", "--dump-dom")).tables


@pytest.mark.slow
def test_sorting_and_filtering_in_a_browser(made, chromium, tmp_path):
    _, page = build(made[0], page=tmp_path / "board.html", n_resamples=20)
    shown = in_browser(chromium, page, "", tmp_path)
    table_2 = next(
        i for i, t in enumerate(shown) if ["Qwen3-0.6B-Base", "IPVRM", "52.8", "42.1", "30.0", "31.3", "39.1"] in t
    )
    click = f"const h = document.querySelectorAll('table')[{table_2}].querySelectorAll('th'); "
    gsm8k = [float(row[2]) for row in in_browser(chromium, page, click + "h[2].click();", tmp_path)[table_2]]
    assert gsm8k == sorted(gsm8k, reverse=True)
    assert len(gsm8k) == 20
    again = [
        float(row[2]) for row in in_browser(chromium, page, click + "h[2].click(); h[2].click();", tmp_path)[table_2]
    ]
    assert again == sorted(gsm8k)
    by_name = [row[1] for row in in_browser(chromium, page, click + "h[1].click();", tmp_path)[table_2]]
    assert by_name == sorted(by_name, key=str.lower)
    # Baselines have no rank and stay below, whichever way.
    ranks = "const h = document.querySelectorAll('table')[0].querySelectorAll('th'); h[0].click(); h[0].click();"
    assert [row[0] for row in in_browser(chromium, page, ranks, tmp_path)[0]][-3:] == ["", "", ""]
    search = "const f = document.getElementById('filter'); f.value = 'qwen3-8b'; f.dispatchEvent(new Event('input'));"
    left = in_browser(chromium, page, search, tmp_path)
    assert {row[0] for table in left for row in table} == {"Qwen3-8B-Base"}
    assert sum(map(len, left)) == sum(row[0] == "Qwen3-8B-Base" for table in shown for row in table)


def test_the_command_line(made, tmp_path):
    board = shutil.copytree(made[0], tmp_path / "board")
    runner = CliRunner()
    built = runner.invoke(app, ["leaderboard", "build", "--folder", str(board), "--resamples", "20"])
    assert built.exit_code == 0, built.output
    assert (board / "leaderboard.md").exists()
    assert (board / "leaderboard.html").exists()
    found = json.loads(
        runner.invoke(app, ["leaderboard", "build", "--folder", str(board), "--json", "--resamples", "20"]).stdout
    )
    assert len(found["boards"]) == 2
    verified = runner.invoke(app, ["leaderboard", "verify", "--folder", str(board), "--data", str(made[1])])
    assert verified.exit_code == 0, verified.output
    change(board / "entries" / "c", lambda fields: fields["benchmark"].update(fingerprint="0" * 64))
    verified = runner.invoke(app, ["leaderboard", "verify", "--folder", str(board)])
    assert verified.exit_code == 1
    assert "field 'benchmark.fingerprint' is" in verified.output
    built = runner.invoke(app, ["leaderboard", "build", "--folder", str(board), "--resamples", "20"])
    assert "field 'benchmark.fingerprint' is" in str(built.exception)
    built = runner.invoke(app, ["leaderboard", "build", "--folder", str(board), "--resamples", "20", "--no-verify"])
    assert built.exit_code == 0, built.output
    empty = runner.invoke(app, ["leaderboard", "build", "--folder", str(tmp_path / "nowhere")])
    assert isinstance(empty.exception, UserError)
    assert "holds no entries" in str(empty.exception)


@pytest.mark.slow
def test_the_committed_tables_are_those_of_the_entries(tmp_path):
    folder = resource_folder("leaderboards")
    copy = shutil.copytree(folder, tmp_path / "copy")
    markdown, _ = build(copy)
    assert markdown.read_text() == (folder / "leaderboard.md").read_text()


def test_runs_of_one_model_do_not_collide(tiny, tmp_path):
    """ProcessBench on two sets of data, a policy's run and Best-of-N, all of one name: four entries, and no title twice."""
    problems = tmp_path / "p.jsonl"
    rows = [{"id": f"p{i}", "problem": f"Say {i}.", "answer": "7"} for i in range(4)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    params = SamplingParams(max_new_tokens=5)
    runs = [tmp_path / name for name in ("one", "other", "policy", "bon")]
    quick = {"name": "same", "n_resamples": 20}
    for seed, run in enumerate(runs[:2]):
        data = support.write_traces(tmp_path / "gsm8k.jsonl", 20, seed)
        prmbench.evaluate(tiny, kind="endo", data=data, output=run, **quick)
    prmbench.measure_policy(tiny, subsets=[str(problems)], output=runs[2], n=2, params=params, **quick)
    prmbench.rerank(tiny, [runs[2] / "p"], kind="endo", output=runs[3], **quick)
    board = tmp_path / "board"
    added = [add(run, board).name for run in runs]
    assert added[0] == "same"
    assert added[1].startswith("same-")
    assert added[2:] == ["same-policy", "same-best-of-n"]
    assert [add(run, board).name for run in runs] == added  # the same runs again are the same entries
    titles = [one.title for one in read_boards(board, n_resamples=20)]
    assert len(titles) == len(set(titles)) == 4
    assert sum(title.startswith("ProcessBench (") for title in titles) == 2
    page = support.Page(write_report([runs[0], runs[1]], tmp_path / "page.html"))
    for run in runs[:2]:
        fingerprint = json.loads((run / "entry.json").read_text())["benchmark"]["fingerprint"]
        assert f"ProcessBench ({fingerprint[:12]})" in page.text
