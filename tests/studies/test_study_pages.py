from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from prmbench.errors import ArgumentError, UserError
from prmbench.studies.settings import RATE, SEARCHED_RATES
from prmbench.studies.study_pages import MARK, STUDIES, _read, chosen_rates, run_study, write_page

PAGES = Path(__file__).resolve().parents[2] / "docs" / "studies"


def as_now(row):
    """A row of the world before, which had two formats and candidates at one temperature, with what rows have now."""
    row = json.loads(json.dumps(row))
    for formats in (
        *(row.get(part, {}).get(rule) for part in ("f1", "f1_content") for rule in ("crossfit", "oracle")),
        row.get("baselines"),
    ):
        if formats:
            formats["prose"] = formats["plain"]
    if "figures" in row:
        row["at_one"] = row["figures"]
    return row


@pytest.fixture
def folder(tmp_path):
    """The committed pages with rows of the shape that runs leave now."""
    folder = shutil.copytree(PAGES, tmp_path / "pages")
    for name in STUDIES:
        for path in folder.glob(f"{name}*.json"):
            path.write_text(json.dumps([as_now(row) for row in json.loads(path.read_text())]))
    return folder


@pytest.mark.parametrize("name", STUDIES)
def test_a_page_is_made_of_the_rows_beside_it(folder, name):
    text = write_page(name, folder).read_text()
    assert text == write_page(name, folder).read_text()
    assert text.count(MARK) == 1
    assert text.partition(MARK)[0] == (PAGES / f"{name}.md").read_text().partition(MARK)[0]
    for picture in folder.glob(f"{name}*.svg"):
        assert picture.read_text().startswith("<svg")


def test_the_search_chose_the_rate_of_the_tables():
    study = STUDIES["reward-models"]
    assert chosen_rates(_read(PAGES / "reward-models-search.json", study.search_runs)) == dict.fromkeys(
        SEARCHED_RATES, RATE
    )


def test_searched_runs_are_measured_on_validation_problems_and_kept_apart(tmp_path):
    for study in STUDIES.values():
        assert {run.split for run in study.search_runs} <= {"validation"}
        assert {run.split for run in study.runs} == {"test"}
    places = [run.place(tmp_path) for study in STUDIES.values() for run in (*study.runs, *study.search_runs)]
    assert len(set(places)) == len(places)


def test_an_unfinished_table_and_an_unknown_study(folder):
    rows = json.loads((folder / "best-of-n.json").read_text())
    (folder / "best-of-n.json").write_text(json.dumps(rows[:-1]))
    with pytest.raises(UserError, match="a run lacks a seed"):
        write_page("best-of-n", folder)
    with pytest.raises(ArgumentError, match=r"`name=policy`: not known \(did you mean 'policies'"):
        run_study("policy", folder)


def test_a_study_runs_what_is_missing_and_keeps_its_rows(folder, tmp_path, monkeypatch):
    """Rows come from the file beside the page instead of hours of training; the page and the rows are the same again."""
    asked = []

    def rows(folder_of_rows, runs, seeds, workers):
        assert folder_of_rows == made / "rows"
        asked.append((runs, list(seeds)))
        name = "best-of-n" if runs else None
        return _read(folder / f"{name}.json", runs) if name else {}

    monkeypatch.setattr("prmbench.studies.study_pages.perform_shared", rows)
    made = tmp_path / "made"
    made.mkdir()
    page = run_study("best-of-n", made)
    assert asked[-1] == (STUDIES["best-of-n"].runs, list(range(6)))
    wanted = write_page("best-of-n", folder).read_text().partition(MARK)[2]
    assert page.read_text() == f"# Best-of-N in the miniature\n\n{MARK}{wanted}"
    again = json.loads((made / "best-of-n.json").read_text())
    assert sorted(map(json.dumps, again)) == sorted(
        map(json.dumps, json.loads((folder / "best-of-n.json").read_text()))
    )
