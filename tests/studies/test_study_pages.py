"""The pages of the studies, from the rows that are committed beside them and from rows drawn at random."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from support_studies import row

from prmbench.errors import ArgumentError
from prmbench.studies.settings import BASE, RATES
from prmbench.studies.settings_page import chosen_gae_weight, chosen_policy_rate, chosen_rates
from prmbench.studies.shared_rows import rows_file
from prmbench.studies.study_pages import MARK, SEARCH_SEED, STUDIES, UNFINISHED, finished_rows, run_study, write_page

PAGES = Path(__file__).resolve().parents[2] / "docs" / "studies"


def give(folder, runs, seed):
    """Put rows drawn at random where finished ones lie."""
    lines = [{"file": run.place(folder).name, "row": row(run, seed)} for run in runs]
    rows_file(folder, seed).write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))


@pytest.mark.parametrize("name", STUDIES)
def test_the_committed_page_is_what_the_committed_rows_give(name, tmp_path):
    folder = shutil.copytree(PAGES, tmp_path / "pages")
    assert write_page(name, folder).read_text() == (PAGES / f"{name}.md").read_text()
    assert (PAGES / f"{name}.md").read_text().count(MARK) == 1
    for picture in PAGES.glob(f"{name}-*.svg"):
        assert (folder / picture.name).read_text().startswith("<svg")


def test_the_search_chose_the_settings_of_the_tables():
    searched = finished_rows(PAGES / "rows", STUDIES["settings"].search_runs, [SEARCH_SEED])
    assert chosen_rates(searched) == RATES
    assert chosen_policy_rate(searched) == BASE.learning_rate
    assert chosen_gae_weight(searched) == BASE.gae_weight


def test_searched_runs_are_measured_on_validation_problems_and_kept_apart(tmp_path):
    for study in STUDIES.values():
        assert {run.split for run in study.search_runs} <= {"validation"}
        assert {run.split for run in study.runs} <= {"test"}
        assert set(study.pair) <= set(study.runs)
    runs = {run for study in STUDIES.values() for run in (*study.runs, *study.search_runs)}  # two studies share theirs
    places = [run.place(tmp_path) for run in runs]
    assert len(set(places)) == len(places)


def test_only_seeds_with_every_run_are_shown(tmp_path):
    study = STUDIES["what-replicates"]
    for seed in (0, 2):
        give(tmp_path, study.runs, seed)
    give(tmp_path, study.runs[1:], 1)
    give(tmp_path, study.pair, 7)
    found = finished_rows(tmp_path, study.runs)
    assert {len(rows) for rows in found.values()} == {2}
    assert found[study.runs[3]] == [row(study.runs[3], seed) for seed in (0, 2)]
    assert len(finished_rows(tmp_path, study.pair)[study.pair[0]]) == 4
    assert finished_rows(tmp_path, []) == {}
    assert set(map(len, finished_rows(tmp_path, STUDIES["labels"].runs).values())) == {0}
    (tmp_path / "pages").mkdir()
    assert write_page("labels", tmp_path / "pages").read_text().endswith(f"{MARK}\n\n{UNFINISHED}\n")


def test_a_study_runs_what_is_missing_and_writes_its_page(tmp_path, monkeypatch):
    """Rows are drawn at random in the place of hours of training."""
    asked = []

    def perform(folder, runs, seeds, workers):
        asked.append((list(runs), list(seeds)))
        folder.mkdir(exist_ok=True)
        for seed in seeds:
            if not rows_file(folder, seed).exists():
                give(folder, runs, seed)

    monkeypatch.setattr("prmbench.studies.study_pages.perform_shared", perform)
    study = STUDIES["what-replicates"]
    page = run_study("what-replicates", tmp_path, seeds=2, pair_seeds=3)
    assert asked == [(list(study.runs), [0, 1]), (list(study.pair), [0, 1, 2])]
    text = page.read_text()
    assert text.startswith(f"# {study.title}\n\n{MARK}\n\n## Verdicts\n\nSeeds: 2; of DistRL and GRPO with IPVRM: 3.")
    page.write_text(text.replace(f"{MARK}", f"By hand.\n\n{MARK}"))
    assert write_page("what-replicates", tmp_path).read_text().startswith(f"# {study.title}\n\nBy hand.\n\n{MARK}")
    assert len(list(tmp_path.glob("what-replicates-*.svg"))) == 7


def test_pilot_seeds_are_none_that_the_tables_use(tmp_path, monkeypatch):
    """The seeds of the tables stop before the first pilot seed, whichever of them lie in the folder."""
    asked = []
    monkeypatch.setattr(
        "prmbench.studies.study_pages.perform_shared", lambda folder, runs, seeds, workers: asked.extend(seeds)
    )
    (tmp_path / "rows").mkdir()
    for seed in (0, 99, 100, 102):
        give(tmp_path / "rows", STUDIES["power"].runs, seed)
    page = run_study("power", tmp_path, seeds=3)
    assert asked == [100, 101, 102]
    assert "Pilot seeds: 2." in page.read_text()
    of_tables = STUDIES["what-replicates"]
    assert set(STUDIES["power"].runs) == set(of_tables.runs)
    assert {len(rows) for rows in finished_rows(tmp_path / "rows", of_tables.runs).values()} == {2}


def test_an_unknown_study(tmp_path):
    with pytest.raises(ArgumentError, match=r"`name=label`: not known \(did you mean 'labels'"):
        run_study("label", tmp_path)
