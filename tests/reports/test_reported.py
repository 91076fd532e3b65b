"""The paper's tables against its text, where that is there, and against themselves."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from prmbench.errors import UserError
from prmbench.reports.pages import as_html, as_markdown
from prmbench.reports.reported import PAPER, place_of, read_reported
from prmbench.resources import resource_folder
from prmbench.studies.paper_tables import TABLES

EVERY = read_reported(resource_folder("leaderboards"))
REPORTED = {t.table: t for t in EVERY if t.source == PAPER}
OTHERS = [t for t in EVERY if t.source != PAPER]
WITH_ROWS = [number for number, table in REPORTED.items() if table.rows]
TEXT = Path(os.environ.get("PRMBENCH_DATA_DIR", "data-not-set")).parent / "paper" / "paper.txt"

BACKBONES = {
    "Qwen3-0.6B": "Qwen3-0.6B-Base",
    "Qwen3-8B": "Qwen3-8B-Base",
    "Llama3.2-1B": "Llama-3.2-1B",
    "Llama3.2-3B": "Llama-3.2-3B",
}


@pytest.fixture(scope="module")
def paper() -> str:
    if not TEXT.exists():
        pytest.skip("the paper's text is not beside the data folder")
    return TEXT.read_text(encoding="utf-8")


def printed(text: str, number: str) -> list[tuple[str, list[str]]]:
    """The rows of a table of the paper's text: the backbone that was named last (the 0.6B before any is), and the figures."""
    start = text.index(f"\nTable {number}: ")
    backbone, rows = BACKBONES["Qwen3-0.6B"], []
    for line in text[start:].split("\n")[2:]:
        for name, ours in BACKBONES.items():
            backbone = ours if re.search(rf"{name}\b", line) else backbone
        line = re.sub(r"(\d+\.\d+)(-?\1)", r"\2", line)  # formulas stand there twice: as text and as LaTeX
        figures = re.findall(r"(?<![\w.])-?\d+\.\d+(?![\w.])", line)
        if len(figures) > 1:
            rows.append((backbone, figures))
        elif not line or line.startswith("Table") or len(line) > 120:
            break
    return rows


def test_all_tables_of_the_paper_are_there():
    assert {n: len(t.rows) for n, t in REPORTED.items()} == {
        "1": 20, "2": 20, "3": 6, "4": 6, "5": 32, "6": 12, "7": 8, "8": 3, "9": 4, "10": 3, "11": 3, "12": 20, "13": 4, "14": 6,
        "fig6": 0,
    }  # fmt: skip


@pytest.mark.parametrize("number", WITH_ROWS)
def test_every_figure_stands_in_the_papers_text(number, paper):
    table = REPORTED[number]
    ours = [(row.backbone, texts) for row, texts in zip(table.rows, table.texts, strict=True)]
    theirs = printed(paper, number)
    if number == "7":  # DistRL / GRPO of a backbone in one line: score, score, accuracy, accuracy
        theirs = [(backbone, [f[i], f[i + 2]]) for backbone, f in theirs for i in (0, 1)]
    if number == "12":  # a method a column; four lines a backbone
        blocks = [theirs[i : i + 4] for i in range(0, len(theirs), 4)]
        theirs = [
            (block[0][0], list(column)) for block in blocks for column in zip(*(f for _, f in block), strict=True)
        ]
    if number == "11":  # P_min stands in the rows' names
        assert [texts[0] for _, texts in theirs] == [row.method.removeprefix("P_min ") for row in table.rows]
        theirs = [(backbone, texts[1:]) for backbone, texts in theirs]
    assert ours == theirs


def test_the_text_of_figure_6(paper):
    """What our sentence says is what these words of the paper say, and nothing more is known of the curves."""
    start = paper.index("\nWe compare five configurations on Llama3.2-1B")
    said = paper[start:].split("\n")[1]
    for words in (
        "collapses toward chance level",
        "falling below the frozen-RM baseline",
        "both DLW only and ADB only stabilize",
        "ADB + DLW strategy performs best",
    ):
        assert words in said
    assert "falls to chance" in REPORTED["fig6"].note
    assert "DLW and ADB together do best" in REPORTED["fig6"].note


@pytest.mark.parametrize("number", ["1", "2", "3", "4", "5", "6", "8", "9", "12", "14"])
def test_printed_means_are_means_of_printed_figures(number):
    for row in REPORTED[number].rows:
        *figures, mean = row.values
        assert sum(figures) / len(figures) == pytest.approx(mean, abs=0.1 + 1e-9), row  # both are rounded to 0.1


@pytest.mark.parametrize("table", OTHERS, ids=lambda table: f"{table.source}, table {table.table}")
def test_tables_of_other_papers(table):
    """Means are means; they say where they are from and what they were checked against; no model stands in two of one sort."""
    assert table.benchmark == "processbench"
    assert table.url == f"https://arxiv.org/abs/{table.source.removeprefix('arXiv:').partition('v')[0]}"
    assert len(table.note) > 40
    assert table.columns == ["GSM8K", "MATH", "OlympiadBench", "Omni-MATH", "mean"]
    step = 0.1 if table.figure == "F1, %" else 0.001
    for row in table.rows:
        *figures, mean = row.values
        assert sum(figures) / len(figures) == pytest.approx(mean, abs=step + 1e-9), row
        assert all(0 < value < 1000 * step for value in row.values)
    named = [(row.backbone, row.method) for one in OTHERS for row in one.rows]
    assert len(set(named)) == len(named)


def test_figures_that_are_widely_quoted():
    found = {row.method: row.values[-1] for table in OTHERS for row in table.rows}
    assert {
        "Math-Shepherd-PRM-7B": 31.5,
        "Qwen2.5-Math-7B-PRM800K (our trained)": 56.5,
        "Qwen2.5-Math-PRM-7B": 73.5,
        "Qwen2.5-Math-PRM-72B": 78.3,
        "QwQ-32B-Preview": 71.5,
        "GPT-4o-0806": 61.9,
        "o1-mini": 87.9,
        "GenPRM-7B": 80.5,
        "PURE-PRM-7B": 0.575,
    }.items() <= found.items()


@pytest.mark.parametrize("number", ["10", "11", "13"])
def test_layouts_say_what_the_reported_tables_have(number):
    (layout,) = (one for one in TABLES if one.number == number)
    said = re.findall(r"(?<![\w.-])\d+\.\d+(?![\w.])", layout.paper.partition("P_min")[0])
    assert said
    assert set(said) <= {text for texts in REPORTED[number].texts for text in texts}


def test_figures_keep_the_papers_decimals_and_places():
    tables = [REPORTED[number] for number in ("7", "13", "fig6")]
    for page in (as_html([], tables), as_markdown([], tables)):
        assert "-0.140" in page
        assert "30.20" in page
        assert "487.5" in page
        assert "Fig. 6: Online updates" in page
        assert "falls to chance" in page
    assert as_html([], tables).count("<table") == 2  # there is none without rows
    assert place_of("4.3.3") == "Section 4.3.3"


def test_a_broken_reported_table_is_named(tmp_path):
    (tmp_path / "reported").mkdir()
    good = json.loads((resource_folder("leaderboards") / "reported" / "table-9.json").read_text())
    good["rows"][1]["values"].pop()
    (tmp_path / "reported" / "t.json").write_text(json.dumps(good))
    with pytest.raises(UserError, match=r"t\.json: rows\.1 has 5 values, expected 6"):
        read_reported(tmp_path)
